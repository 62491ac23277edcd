"""No password in what MLflow itself prints: its log, and the address of a run, in our processes and in `mlflow run`.

MLflow loads `Plugin` when it starts, wherever this project is installed (`pip install -e .`), so this file is light.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from visage_mlflow.text.printing import hide, masked, shown, tell

URI, USER, PASSWORD = "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
SILENT = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
"""With it MLflow does not print "View run … at", and the tracking URI with that."""


class Masking(logging.Formatter):
    """What another formatter makes of a record, its traceback included, as it may be shown."""

    def __init__(self, other: logging.Formatter) -> None:
        super().__init__()
        self.other = other

    def format(self, record: logging.LogRecord) -> str:
        """A text without secrets."""
        return shown(self.other.format(record))


class Plugin:
    """What MLflow takes for a provider of tags, of which it has none."""

    def __init__(self) -> None:
        if is_mlflow_run():
            strip_password()
            mask_records()

    def in_context(self) -> bool:
        """Whether there are tags to give."""
        return False

    def tags(self) -> dict[str, str]:
        """None."""
        return {}


def is_mlflow_run() -> bool:
    """Whether this process is `mlflow run`, or `python -m mlflow run`."""
    return any(Path(name).name == "mlflow" and then == "run" for name, then in pairwise(sys.orig_argv))


def mask_logs() -> None:
    """Mask MLflow's log, and the warnings of libraries that it asks, which Python prints by `lastResort`."""
    for handler in (*logging.getLogger("mlflow").handlers, logging.lastResort):
        if handler is not None and not isinstance(handler.formatter, Masking):
            handler.setFormatter(Masking(handler.formatter or logging.Formatter()))


def mask_records() -> None:
    """Mask all that is logged from now on. MLflow's log, with the command that it runs, is not set up yet."""
    factory = logging.getLogRecordFactory()

    def masked_record(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = factory(*arguments, **named)
        with suppress(TypeError, ValueError):  # Arguments that do not fit the text: logging tells of it later.
            record.msg, record.args = shown(record.getMessage()), ()
        return record

    logging.setLogRecordFactory(masked_record)


def silence(uri: str) -> None:
    """Hide what is secret in the tracking URI, and have MLflow print no address that it is part of."""
    hide(uri)
    if masked(uri) == uri:
        return
    if os.environ.get("MLFLOW_RUN_ID") and SILENT not in os.environ:  # `mlflow run` has not loaded the plugin.
        tell(
            f"warning: {URI} holds a password, and `mlflow run` prints it when it ends. Set {USER} and {PASSWORD} "
            "instead, or install this project where `mlflow` is (`pip install -e .`).",
            sys.stderr,
        )
    os.environ[SILENT] = "true"


def strip_password() -> None:
    """Move user and password out of the tracking server's URI, to where MLflow reads them as well.

    `mlflow run` and the commands that it starts then know no text with the password.
    """
    uri = os.environ.get(URI, "")
    silence(uri)
    try:
        parts = urlsplit(uri)
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
    except ValueError:
        return
    if parts.scheme in ("http", "https") and user and password:
        # requests takes those of a URL before others, so these were in force already.
        bare = uri.replace(parts.netloc, parts.netloc.rpartition("@")[2], 1)
        os.environ |= {USER: user, PASSWORD: password, URI: bare}
        os.environ.pop(SILENT, None)
