"""What ends an entry point from outside: SIGINT, SIGTERM, and the end of the `mlflow run` that started it.

The first signal interrupts the work, and the MLflow run is closed as KILLED; the second is not heard while that goes
on; the third ends the process at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import psutil

from visage_mlflow.tracking import interrupts

AGAIN = 2.0
"""Seconds after which an interrupt that nobody noticed is raised again: Python swallows one in some places."""
LOOK = 0.5
"""Seconds between two looks at whether `mlflow run` lives."""
PATIENCE = 1.0
"""Seconds that child processes have to end by themselves."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHELLS = ("bash", "sh", "dash", "zsh", "cmd.exe")
MLFLOW = "MLFLOW_RUN_ID"
"""Set by `mlflow run`; MLflow clears it once the run was adopted."""


@dataclass
class _Heard:
    """How many signals came from outside, and whether the next one is a reminder of the first."""

    count: int = 0
    is_reminder: bool = False


@contextmanager
def handled() -> Iterator[None]:
    """Inside, a signal ends the work as Ctrl-C does, and no child process outlives that."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only.
        return
    heard, over = _Heard(), threading.Event()

    def hear(number: int, frame: FrameType | None) -> None:
        _hear(heard, over, number)

    # A shell's background jobs are started so that they do not hear Ctrl-C.
    wanted = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, hear) for number in wanted}
    interrupts.forget()
    if parent := mlflow_run():
        threading.Thread(target=_watch, args=(parent, heard, over), name="mlflow run", daemon=True).start()
    try:
        yield
    finally:
        interrupts.notice()
        over.set()
        if heard.count:
            end_children()
        for number, handler in before.items():
            signal.signal(number, handler)


def _hear(heard: _Heard, over: threading.Event, number: int) -> None:
    if heard.is_reminder:
        heard.is_reminder = False
        if not interrupts.is_noticed(0):
            interrupts.interrupt()
        return
    heard.count += 1
    if heard.count == 2:
        _say("closing the run; once more ends at once, and leaves it open")
    elif heard.count > 2:
        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(128 + number)
    else:
        threading.Thread(target=_remind, args=(heard, over), name="reminder", daemon=True).start()
        interrupts.interrupt()


def _remind(heard: _Heard, over: threading.Event) -> None:
    """Raise the interrupt again until somebody noticed it."""
    while not interrupts.is_noticed(AGAIN) and not over.is_set():
        heard.is_reminder = True
        # A signal, not a flag: it also ends a system call that the main thread waits in.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def mlflow_run() -> psutil.Process | None:
    """The process of the `mlflow run` that started this one, past the shell between them; None without one."""
    if not os.environ.get(MLFLOW):
        return None
    try:
        for ancestor in psutil.Process().parents():
            if ancestor.name() not in SHELLS:
                words = " ".join(ancestor.cmdline())
                return ancestor if "mlflow" in words or "python" in words else None
    except psutil.Error:
        pass  # Who cannot be looked at, or is gone by now, cannot be watched.
    return None


def _watch(parent: psutil.Process, heard: _Heard, over: threading.Event) -> None:
    """Stop as at SIGTERM when `mlflow run` is gone, which ends without a word to what it started."""
    while not over.wait(LOOK):
        try:
            is_gone = not parent.is_running() or parent.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            is_gone = True
        if is_gone:
            if not heard.count:  # Otherwise it heard the same Ctrl-C.
                _say("`mlflow run` is gone")
                os.kill(os.getpid(), signal.SIGTERM)
            return


def end_children() -> None:
    """End all processes that this one started, and those that they did."""
    children = psutil.Process().children(recursive=True)
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for child in children:
            try:
                end(child)
            except psutil.NoSuchProcess:
                pass  # It ended by itself.
        _, children = psutil.wait_procs(children, timeout=PATIENCE)


def _say(line: str) -> None:
    """Tell the user, from a signal's handler or a thread."""
    try:
        os.write(sys.stderr.fileno(), f"{line}\n".encode())
    except (OSError, ValueError):
        pass  # Nobody listens any more, and the run is to be closed all the same.
