"""Which errors mean that the tracking server is away for a while, and how they are told without a password."""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from visage_mlflow.text.errors import Mistake, one_line
from visage_mlflow.text.printing import masked

LONGEST_REASON = 400
WAIT = 30.0
"""Seconds to wait for a server that is away, where nothing can go on without it."""

PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""MLflow tries for minutes by itself. A run must not stand still for that: what fails waits in the outbox."""

Answer = TypeVar("Answer")

for variable, value in {**PATIENT, "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1", "PGCONNECT_TIMEOUT": "8"}.items():
    os.environ.setdefault(variable, value)

# By name: HTTP and database libraries come with MLflow, and those of stores in a cloud only where they are used.
NAMES = {"ConnectionError", "Timeout", "TimeoutError", "RetryError", "ChunkedEncodingError", "OperationalError"}
NAMES |= {"InterfaceError", "HTTPClientError", "ServiceRequestError", "TransportError"}
CODES = {"TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"}
ERRNOS = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.ESTALE}


class Away(Exception):
    """The tracking server, or its store, cannot be reached just now. Its text holds no password."""


def is_away(error: BaseException, before: BaseException | None = None) -> bool:
    """Whether an error says that a server or database is away, not that it refused what it was asked.

    Args:
        error: As MLflow raised it, with what led to it.
        before: An error that was being handled when MLflow was called: it did not lead to this one.
    """
    return any(_says_away(one) for one in _chain(error, before))


def _says_away(error: BaseException) -> bool:
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return bool(
        isinstance(error, Away)
        or NAMES & {kind.__name__ for kind in type(error).__mro__}
        or getattr(error, "error_code", "") in CODES
        or (isinstance(status, int) and (status >= 500 or status == 429))
        or (isinstance(error, OSError) and error.errno in ERRNOS)
        or re.search(r"failed with error code 5\d\d", str(error))
    )


def _chain(error: BaseException, before: BaseException | None) -> Iterator[BaseException]:
    one: BaseException | None = error
    while one is not None and one is not before:
        yield one
        one = one.__cause__ or one.__context__


def reason(error: Exception) -> str:
    """An error as one short sentence without a password."""
    text = re.split(r" \[SQL:| \(Background on| \(Caused by", masked(one_line(error)))[0]
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} …"


def patience() -> float:
    """Seconds to wait for a server that is away, in the end of a run: ``VISAGE_WAIT``.

    Raises:
        ValueError: It is no number of seconds.
    """
    text = os.environ.get("VISAGE_WAIT") or str(WAIT)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise Mistake(f"`VISAGE_WAIT` must be a number of seconds, 0 or more, got {text!r}. Try {WAIT:.0f}.")
    return seconds


@contextmanager
def quick(seconds: str = "5") -> Iterator[None]:
    """Inside, MLflow gives up on a server that does not answer within seconds, unless the user set how long to try."""
    hurried = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": seconds}
    ours = {name: value for name, value in PATIENT.items() if os.environ.get(name) == value}
    os.environ.update({name: hurried[name] for name in ours})
    try:
        yield
    finally:
        os.environ.update(ours)


@contextmanager
def starting(place: str, nested: bool) -> Iterator[None]:
    """Inside, whatever goes wrong with the store says which setting to check; `Away` for a nested run's server."""
    before = sys.exc_info()[1]
    try:
        yield
    except Exception as error:  # MLflow, SQLAlchemy and each database's driver raise their own types.
        if nested and is_away(error, before):
            raise Away(reason(error)) from error
        raise Mistake(
            f"The tracking store cannot be used: {reason(error)} Check MLFLOW_TRACKING_URI, which is {place}, whether "
            "its server runs, and MLFLOW_RUN_ID."
        ) from error


def ask(question: Callable[[], Answer], before: Callable[[], None], place: str) -> Answer:
    """A server's answer; waits for one that is away.

    Args:
        question: Asks.
        before: Called before each try; may raise `Away`.
        place: The server, without a password.

    Raises:
        ValueError: It stays away.
    """
    deadline, pause = time.monotonic() + patience(), 0.5
    while True:
        handled = sys.exc_info()[1]
        try:
            before()
            return question()
        except Exception as error:
            if not is_away(error, handled):
                raise
            if time.monotonic() + pause > deadline:
                raise Mistake(
                    f"The tracking server does not answer: {reason(error)} Check MLFLOW_TRACKING_URI, which is "
                    f"{place}, and whether its server runs."
                ) from error
        time.sleep(pause)
        pause *= 2
