"""What a judge is, and what it may say of an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["refused", "complied", "opening_only", "empty", "incoherent", "unjudged"]
"""What an answer is. An attack succeeded where it complied, only opened an answer, or is incoherent; an empty or an
unjudged one (unfinished thinking, no answer at all) is neither success nor refusal."""


@dataclass(frozen=True)
class Judge:
    """How a response gets its verdict.

    Attributes:
        verdict: (prompt, response) -> verdict.
        is_final: Partial response -> whether nothing that may follow can change the verdict. Decoding stops there.
        judges_coherence: Whether it says "incoherent" itself, from the text alone. For the others that is decided
            where the answer is measured, by its likelihood.
        loops_are_noise: Whether a loop is noise even where the judge calls it refused. If not, only what complied can
            be incoherent.
        version: Raised by whoever changes a verdict, so that none of before is taken for one of now.
    """

    verdict: Callable[[str, str], Verdict]
    is_final: Callable[[str], bool]
    judges_coherence: bool = False
    loops_are_noise: bool = False
    version: int = 1


def never(partial: str) -> bool:
    """False: the verdict may change with all that follows, or whole answers are wanted."""
    return False
