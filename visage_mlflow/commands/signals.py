"""What ends an entry point from outside: SIGINT, SIGTERM, and the end of the `mlflow run` that started it."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PR_SET_PDEATHSIG = 1
"""Option of Linux' prctl: the signal that this process gets when the one that started it ends."""
TOGETHER = 3.0
"""Seconds within which a second signal is part of the first: after Ctrl-C, `mlflow run` sends SIGTERM as well."""


@contextmanager
def as_interrupts() -> Iterator[None]:
    """Inside, SIGTERM raises KeyboardInterrupt as Ctrl-C does, and so does the end of `mlflow run` on Linux."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only.
        return
    last = -math.inf

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last > TOGETHER:
            last = time.monotonic()
            raise KeyboardInterrupt

    # A shell's background jobs are started so that they ignore Ctrl-C.
    heard = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heard}
    if os.environ.get("MLFLOW_RUN_ID") and sys.platform == "linux":
        # `mlflow run` ends without a signal to the command. The shell between them has become the command by now.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
