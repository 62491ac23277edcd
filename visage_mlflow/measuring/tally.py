"""How many points were computed, and how many read."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Tally:
    """What this process did about points so far.

    Attributes:
        computed: Points that were computed.
        read: Points that were read from the store.
        differing: Points that were computed although the store had them, and came out otherwise than they were kept.
        seconds: What reading and keeping took, added up over all threads.
    """

    computed: int = 0
    read: int = 0
    differing: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def add(self, **counts: float) -> None:
        """Add to the counts."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the time that a block takes to the seconds."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(seconds=time.perf_counter() - began)

    def since(self, before: Tally) -> dict[str, float]:
        """What was counted since a copy was taken, as it is logged; nothing if no point was asked for."""
        counts = {
            name: float(getattr(self, name) - getattr(before, name)) for name in ("computed", "read", "differing")
        }
        return {f"points_{name}": count for name, count in counts.items()} if any(counts.values()) else {}

    def in_words(self) -> str:
        """One line.

        >>> Tally(computed=3, read=18).in_words()
        '3 points computed, 18 read from the store'
        """
        differing = f"; {self.differing} came out otherwise than they were kept" if self.differing else ""
        return f"{self.computed} points computed, {self.read} read from the store{differing}"


TALLY = Tally()
