"""Calls to the tracking server: one that is away is waited for, and what it refuses is an error at once."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import mlflow

from visage_mlflow.text.errors import Mistake, ServerAway, chain, one_line
from visage_mlflow.text.printing import masked, tell

# MLflow's own tries would take minutes, without a word; those of `ask` are announced.
for variable, value in {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "PGCONNECT_TIMEOUT": "8",
}.items():
    os.environ.setdefault(variable, value)

WAIT = 30.0
"""Seconds to wait for a server that is away, by default."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds between two tries: each pause is twice the one before, up to the longest."""
LONGEST_REASON = 400

# By name: HTTP and database libraries come with MLflow, and those of stores in a cloud only where they are used.
AWAY_TYPES = {"ConnectionError", "Timeout", "TimeoutError", "RetryError", "ChunkedEncodingError", "OperationalError"}
AWAY_TYPES |= {"InterfaceError", "HTTPClientError", "ServiceRequestError", "TransportError"}
AWAY_CODES = {"TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"}

Answer = TypeVar("Answer")

_is_known_to_be_away = False


@dataclass(frozen=True)
class Place:
    """What is asked, and what to check where it is away; by default the tracking server."""

    name: str = "tracking server"
    setting: str = ""

    @property
    def check(self) -> str:
        """What names it."""
        return self.setting or f"MLFLOW_TRACKING_URI, which is {place()}"


TRACKING = Place()


def ask(call: Callable[[], Answer], where: Place = TRACKING) -> Answer:
    """What a call to the tracking server returns, tried again for ``VISAGE_WAIT`` seconds while the server is away.

    A server that was waited for in vain is not waited for again until it has answered: a process that ends because of
    it makes one try to close its runs, and no more.

    Args:
        call: May be called several times.
        where: What it asks.

    Raises:
        ServerAway: The server stays away.
        Exception: The server refused it, for a reason in it.
    """
    global _is_known_to_be_away
    deadline = time.monotonic() + (0.0 if _is_known_to_be_away else patience())
    pause = FIRST_PAUSE
    while True:
        try:
            answer = call()
            _is_known_to_be_away = False
            return answer
        except Exception as error:
            if isinstance(error, Mistake) or not is_away(error):
                raise
            left = deadline - time.monotonic()
            if left <= 0:
                _is_known_to_be_away = True
                raise ServerAway(
                    f"The {where.name} does not answer: {reason(error)} Check {where.check}, and its server; then "
                    "give the same command again, which goes on where this one was."
                ) from error
            if not _is_known_to_be_away:
                tell(f"The {where.name} is away, trying again for {left:.0f} s: {reason(error)}", sys.stderr)
            _is_known_to_be_away = True
        time.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)


def is_away(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says that a server or database is away, not that it refused a call."""
    return any(map(_says_away, chain(error)))


def _says_away(error: BaseException) -> bool:
    if isinstance(error, sqlite3.OperationalError) or "sqlite3.OperationalError" in str(error):
        return "locked" in str(error)  # The others are about its file or its disk, and do not go by themselves.
    types = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return bool(
        types & AWAY_TYPES
        or getattr(error, "error_code", "") in AWAY_CODES
        or (isinstance(status, int) and (status >= 500 or status == 429))
        or re.search(r"failed with error code 5\d\d", str(error))
    )


def reason(error: Exception) -> str:
    """An error as one short sentence without a password."""
    text = re.split(r" with exception| \[SQL:| \(Background on", one_line(error))[0].rstrip(".") + "."
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} …"


def patience() -> float:
    """Seconds to wait for a server that is away: ``VISAGE_WAIT``.

    Raises:
        Mistake: It is no number of seconds.
    """
    text = os.environ.get("VISAGE_WAIT") or str(WAIT)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise Mistake(f"`VISAGE_WAIT` must be a number of seconds, 0 or more, got {text!r}. Try {WAIT:.0f}.")
    return seconds


def place() -> str:
    """URI of the tracking store, without a password."""
    return masked(str(mlflow.get_tracking_uri()))
