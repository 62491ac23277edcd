"""Are two prompts the same, or nearly? Told by the pieces of their words, so in any language and order."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from visage_mlflow.language.judges import FUNCTION_WORDS

NEAR = 0.8
"""Share of pieces in common from which two prompts count as the same one."""
PIECE = 3
"""Characters in a piece."""
FEWEST_FOR_A_TEMPLATE = 10
"""Prompts from which on what more than half of them share is taken for a template, and says nothing."""


def pieces(text: str) -> frozenset[str]:
    """Each three characters of the words, edges included; case, punctuation and function words do not count.

    >>> sorted(pieces("The LOCK!"))
    [' lo', 'ck ', 'loc', 'ock']
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = re.findall(r"\w+", re.sub("['’]", "", plain))
    told = [word for word in words if word not in FUNCTION_WORDS] or words
    return frozenset(f" {word} "[i : i + PIECE] for word in told for i in range(max(1, len(word))))


def similarity(one: str, other: str) -> float:
    """Of the pieces of two texts, the share that both have, 0 to 1.

    >>> similarity("Pick a lock", "Pick the lock!")
    1.0
    """
    return _shared(pieces(one), pieces(other))


def _shared(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other) if one or other else 0.0


def nearest(prompts: Iterable[str], among: Sequence[str]) -> dict[str, list[int]]:
    """Which of the prompts come again, equal or nearly (`NEAR`), among others.

    A prompt is compared only with those that share one of its rarest pieces: two that share `NEAR` of all pieces must.

    Returns:
        Prompt -> the places in `among` of those that it is equal or nearly equal to; prompts with none are left out.
    """
    sets = [pieces(other) for other in among]
    counts = Counter(piece for each in sets for piece in each)
    most = len(sets) / 2 if len(sets) >= FEWEST_FOR_A_TEMPLATE else len(sets)
    template = {piece for piece, count in counts.items() if count > most}
    sets = [each - template for each in sets]
    equal, holders = defaultdict(list), defaultdict(list)
    for place, (other, each) in enumerate(zip(among, sets, strict=True)):
        equal[other].append(place)
        for piece in each:
            holders[piece].append(place)
    found = {}
    for prompt in dict.fromkeys(prompts):
        own = pieces(prompt) - template
        n_rarest = len(own) - math.ceil(NEAR * len(own)) + 1
        rarest = sorted(own, key=lambda piece: (counts[piece], piece))[:n_rarest]
        candidates = {place for piece in rarest for place in holders.get(piece, ())}
        near = {place for place in candidates if _shared(own, sets[place]) >= NEAR} | set(equal.get(prompt, ()))
        if near:
            found[prompt] = sorted(near)
    return found
