"""A model's own answers as training rows: each ends where a sentence does, not where a limit of tokens cut it."""

from __future__ import annotations

import re
from dataclasses import dataclass

FEWEST_WORDS = 5
"""Words that a text cut at a sentence has at least: "Yes." alone teaches little of how a model answers."""

_ABBREVIATIONS = (
    "Dr Mr Mrs Ms Prof Rev Gen Sen St Mt Jr Sr vs etc approx ca bzw usw Nr No Nos Fig Figs Eq Sec Ch Vol pp ed eds "
    "Inc Ltd Co Corp Dept Ave Blvd Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec min max est incl cf al"
).split()
_ABBREVIATED = re.compile(rf"\b(?:{'|'.join(_ABBREVIATIONS)})\Z")
"""A full stop after it ends no sentence. One too many here costs an end, one too few leaves half a text."""

_END = re.compile(
    r"""
    (?<!^\d)(?<!^\d\d)(?<!\s\d)(?<!\s\d\d)      # Not the number of an item, as in "2. Stir".
    (?<!\b[^\W\d])                             # Nor one letter, as in "e.g." or "J. Smith".
    (?: [.!?]+ ["'”’»)\]*_`]* (?=\s|$)          # Latin and its like: a space follows,
        (?![ \t]+["'“‘«(\[*_`]*[a-zß-öø-ÿа-яα-ω\d])  # but no small letter or number, as in "Why?" and then.
      | [。！？…؟।]+ ["'”’»」』）)\]*_]*          # Others need none.
    )
    | (?<=[^\s:,;\-])(?<![:,;][*_])(?<![:,;][*_]{2})[ \t]*(?=\n)  # A line that does not announce the next.
    """,
    re.VERBOSE | re.MULTILINE,
)
_HEADING = re.compile(r"[ \t]*(?:#|(\*\*|__).*\1[ \t]*\Z)")
_TABLE_GOES_ON = re.compile(r"[^\n]*\n[ \t]*(?:\||\Z)")
_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")


def ends(text: str) -> list[int]:
    """Where the text may end: after each sentence, line or block of code that has `FEWEST_WORDS` words up to there.

    A heading and a table's row before the last announce what follows.
    """
    fences = [match.start() for match in _FENCE.finditer(text)]
    whole = []
    for match in _END.finditer(text):
        place = match.end()
        is_in_code = sum(fence < place for fence in fences) % 2 == 1
        is_abbreviated = match[0].startswith(".") and _ABBREVIATED.search(
            text, max(0, match.start() - 10), match.start()
        )
        if is_in_code or is_abbreviated or _announces(text, place):
            continue
        if len(_WORD.findall(text[:place])) >= FEWEST_WORDS:
            whole.append(place)
    return whole


def _announces(text: str, place: int) -> bool:
    """Whether the line around a place is a heading, or a table's row with another to come."""
    line = text[text.rfind("\n", 0, place) + 1 :].partition("\n")[0]
    is_row = line.lstrip().startswith("|")
    return bool(_HEADING.match(line) or (is_row and _TABLE_GOES_ON.match(text, place)))


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
    # How a text goes on tells whether it had ended.
    known = longer if longer.startswith(short) else short
    if within := [place for place in ends(known) if place <= len(short)]:
        return OwnAnswer(known[: within[-1]].strip(), is_cut=True)
    after = ends(longer)
    return OwnAnswer(longer[: after[0]].strip() if after else "", is_cut=True)
