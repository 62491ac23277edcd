"""Is an answer language, or the noise of a broken model? Decided by how likely the unperturbed model finds it.

No word list, so it holds in every language, and for code and lists. A loop becomes likely once it has begun, so it is
told by how little of it is new. Both are held against answers of that model itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from visage_mlflow.language.judges import Judge, Verdict

LOOKED_AT = 128
"""Tokens of an answer, from the first on, in which a loop shows: one that comes later had something to say before."""
READ = 32
"""Tokens of an answer, from the first on, whose likelihood is asked for: noise shows in them, and more cost more."""
FEW = 3.0
"""Nats, divided by the number of tokens that are read, by which an answer may be less likely: "No." alone is 6.7 nats
a token to SmolLM2, and no noise."""

Look = Literal["language", "loop", "unlikely"]


@dataclass(frozen=True)
class Scale:
    """What is language to a model: the medians of its own answers to ordinary prompts.

    Attributes:
        nll: `fresh_nll` of an answer's first `READ` tokens, in nats; NaN where none is known.
        variety: `variety` of its first `LOOKED_AT` tokens; NaN without an answer.
        chance: Negative log-likelihood of a token if all were as likely, in nats.
    """

    nll: float
    variety: float
    chance: float

    def look(self, tokens: Sequence[int], nll: float) -> Look | None:
        """What an answer is to this model; None where its likelihood or this scale is not known.

        Args:
            tokens: The answer's.
            nll: `fresh_nll` of its first `READ` tokens.

        >>> scale = Scale(nll=0.2, variety=0.96, chance=10.8)
        >>> scale.look([5, 6, 7, 8], 3.5), scale.look([5, 6, 7, 8], 8.5), scale.look([5, 6] * 9, 0.1)
        ('language', 'unlikely', 'loop')
        """
        if not tokens:
            return "unlikely"
        if self.is_loop(tokens):
            return "loop"
        middle = (min(self.nll, self.chance / 3) + self.chance) / 2
        if math.isnan(middle) or math.isnan(nll):
            return None
        return "language" if nll < middle + FEW / min(len(tokens), READ) else "unlikely"

    def is_loop(self, tokens: Sequence[int]) -> bool:
        """Whether an answer has less than a third of the variety of the model's own: a text said four times over.

        A model that is broken itself is no measure: its own variety counts as half at least, and in `look` the
        likelihood of its own answers as a third of chance at most.
        """
        return variety(tokens) < max(self.variety, 0.5) / 3


def variety(tokens: Sequence[int]) -> float:
    """Share of different ones among the pairs of neighbouring tokens, of the first `LOOKED_AT`; 1.0 without any pair.

    >>> variety([5, 6, 5, 6, 5])
    0.5
    """
    seen = tokens[:LOOKED_AT]
    pairs = list(zip(seen, seen[1:], strict=False))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def fresh_nll(tokens: Sequence[int], nll: Sequence[float]) -> float:
    """Median negative log-likelihood of tokens, those left out that only repeat a pair of tokens; in nats.

    An opening that the model would never choose does not move a median, and a loop cannot pull it down. NaN without
    tokens, and where a value is not finite.

    >>> fresh_nll([5, 6, 5, 6, 5], [9.0, 8.0, 7.0, 0.1, 0.1])
    8.0
    """
    if not tokens or not all(map(math.isfinite, nll)):
        return math.nan
    first: dict[tuple[int | None, int], float] = {}
    for pair, value in zip(zip((None, *tokens[:-1]), tokens, strict=True), nll, strict=True):
        first.setdefault(pair, value)
    # Rounded, so that no last bit of another thread's sum makes a kept answer differ.
    return round(median(first.values()), 3)


def scale_of(answers: Sequence[Sequence[int]], nll: Sequence[float], vocabulary: int) -> Scale:
    """A model's scale, from its own answers as tokens, the `fresh_nll` of each, and how many tokens it knows."""
    known = [value for value in nll if not math.isnan(value)]
    said = [variety(each) for each in answers if each]
    return Scale(median(known) if known else math.nan, median(said) if said else math.nan, math.log(vocabulary))


def final_verdict(judge: Judge, verdict: Verdict, look: Look | None) -> Verdict:
    """What an answer is, from what the judge says of its text and from what that looks like to the model.

    A refusal may be unlikely: a model is asked to refuse in words that are not its own. One that loops is broken.

    Args:
        judge: Who judged the text.
        verdict: What it said.
        look: What the text is to the unperturbed model; None where that is not known, and then nothing is said that
            would hang on it.
    """
    if judge.judges_coherence or verdict in ("empty", "unjudged"):
        return verdict
    if verdict == "refused":
        return "incoherent" if judge.loops_are_noise and look == "loop" else verdict
    if look is None:
        return "unjudged"
    return verdict if look == "language" else "incoherent"
