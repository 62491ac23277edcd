"""The tracking store, opened once for each process."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache

import mlflow
from filelock import FileLock
from mlflow import MlflowClient

from visage_mlflow.text.errors import Mistake
from visage_mlflow.text.folders import cache_folder
from visage_mlflow.text.names import check_decodable
from visage_mlflow.tracking.retries import ask, place, reason
from visage_mlflow.tracking.secrecy import mask_logs, silence

# A new store's 40 lines of schema migration say nothing to somebody who waits for a result, nor does a traceback of
# an error that is told in a line.
logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
mask_logs()
NAMED = ("MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID")
"""What names something in the store."""
STRANGER = re.compile(r"error code 40[13]\b|not authenticated|unauthori[sz]ed|permission denied", re.I)
"""How a server says that it does not know the user."""


def store() -> str:
    """URI of the tracking store, which may hold a password.

    Raises:
        Mistake: It, or another of MLflow's variables, holds bytes that are not UTF-8.
    """
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        check_decodable(f"`{name}`", os.environ.get(name, ""))
    if not mlflow.is_tracking_uri_set():
        there = "Rename it in UTF-8, or set MLFLOW_TRACKING_URI to a store in another place"
        check_decodable("The working folder, in which MLflow keeps its store by default,", os.getcwd(), there)
    uri = str(mlflow.get_tracking_uri())
    check_decodable("MLflow's tracking URI", uri)
    return uri


def client() -> MlflowClient:
    """MLflow's client of the tracking store.

    Raises:
        Mistake: The store cannot be used.
        ServerAway: Its server stays away.
    """
    silence(uri := store())
    return _opened(uri)


@cache
def _opened(uri: str) -> MlflowClient:
    is_file = uri.startswith("sqlite")
    if not uri.startswith("http"):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 1  # Ten tries, each after twice the pause, would be two minutes.
    with checked(), _alone() if is_file else nullcontext():
        made = MlflowClient(uri)
        ask(lambda: made.search_experiments(max_results=1))
    return made


@contextmanager
def checked() -> Iterator[None]:
    """Inside, what the store refuses says which setting to check."""
    try:
        yield
    except (Mistake, AssertionError, AttributeError, LookupError, NameError, TypeError):
        raise  # No store's refusal, but a bug.
    except Exception as error:  # MLflow, SQLAlchemy and each database's driver raise their own types.
        told = reason(error)
        named = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD") if STRANGER.search(told) else NAMED
        raise Mistake(
            f"The tracking store cannot be used: {told} Check MLFLOW_TRACKING_URI, which is {place()}, "
            f"{' and '.join(named)}."
        ) from error


@contextmanager
def _alone() -> Iterator[None]:
    """Inside, no other process of this user opens a store in a file.

    MLflow makes a new store's tables when it is first opened, and of several processes that do so at once, most fail.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "mlflow.lock"):
        yield
