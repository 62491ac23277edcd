"""Where an interrupt may fall: not into the opening of a run, nor into its closing, which it would leave half done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class _State:
    depth: int = 0
    is_due: bool = False
    noticed: threading.Event = field(default_factory=threading.Event)


_state = _State()


@contextmanager
def held() -> Iterator[None]:
    """Inside, an interrupt waits; it comes when this ends, unless an error came first."""
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1
    if _state.is_due and not _state.depth:
        _state.is_due = False
        raise KeyboardInterrupt


def interrupt() -> None:
    """Raise KeyboardInterrupt, or keep it for the end of what holds it back. Called by a signal's handler."""
    if _state.depth:
        _state.is_due = True
        return
    _state.is_due = False
    raise KeyboardInterrupt


def notice() -> None:
    """Note that an interrupt arrived: it ends a run or the process, and need not be raised again."""
    _state.noticed.set()


def is_noticed(seconds: float) -> bool:
    """Whether an interrupt arrived, or does so within some seconds."""
    return _state.noticed.wait(seconds)


def is_held() -> bool:
    """Whether an interrupt would wait."""
    return _state.depth > 0


def forget() -> None:
    """Begin anew: no interrupt was raised or waits."""
    _state.is_due = False
    _state.noticed.clear()
