"""A model's own answers as training rows: each ends where a sentence does, not where a limit of tokens cut it."""

from __future__ import annotations

import re
from dataclasses import dataclass

FEWEST_WORDS = 5
"""Words that a text cut at a sentence has at least: "Yes." alone teaches little of how a model answers."""

_END = re.compile(
    r"""
    (?<!^\d)(?<!^\d\d)(?<!\s\d)(?<!\s\d\d)      # Not the number of an item, as in "2. Stir".
    (?<!\b[^\W\d])                             # Nor one letter, as in "e.g." or "J. Smith".
    (?<!\bDr)(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bvs)
    (?: [.!?]+ ["'”’»)\]*_`]* (?=\s|$)          # Latin and its like: a space follows.
      | [。！？…؟।]+ ["'”’»」』）)\]*_]*          # Others need none.
    )
    | (?<=[^\s:,;\-])(?<![:,;][*_])(?<![:,;][*_]{2})[ \t]*(?=\n)  # A line that does not announce the next.
    """,
    re.VERBOSE | re.MULTILINE,
)
_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")


def ends(text: str) -> list[int]:
    """Where the text may end: after each sentence, line or block of code that has `FEWEST_WORDS` words up to there."""
    places = [match.end() for match in _END.finditer(text)]
    fences = [match.start() for match in _FENCE.finditer(text)]
    whole = []
    for place in places:
        is_in_code = sum(fence < place for fence in fences) % 2 == 1
        if not is_in_code and len(_WORD.findall(text[:place])) >= FEWEST_WORDS:
            whole.append(place)
    return whole


@dataclass(frozen=True)
class OwnAnswer:
    """What a model answers a prompt with, and whether it would say more; the text is "" if none of it is whole."""

    text: str
    is_cut: bool


def own_answer(short: str, longer: str) -> OwnAnswer:
    """A greedy answer up to where it ends by itself, or else to the end of a sentence.

    Args:
        short: The answer within some tokens.
        longer: The same answer within more. Where it says no more than the short one, that ended by itself.

    >>> own_answer("Turn the key to the left first. Then pull", "Turn the key to the left first. Then pull it.").text
    'Turn the key to the left first.'
    >>> own_answer("Turn the key to", "Turn the key to the left first. Then pull the").text
    'Turn the key to the left first.'
    >>> own_answer("Paris", "Paris"), own_answer("Turn the", "Turn the key to the")
    (OwnAnswer(text='Paris', is_cut=False), OwnAnswer(text='', is_cut=True))
    """
    if short.strip() == longer.strip():
        return OwnAnswer(short.strip(), is_cut=False)
    if within := ends(short):
        return OwnAnswer(short[: within[-1]].strip(), is_cut=True)
    after = ends(longer)
    return OwnAnswer(longer[: after[0]].strip() if after else "", is_cut=True)
