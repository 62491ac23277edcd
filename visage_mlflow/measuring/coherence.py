"""Is an answer language, or the noise of a broken model? Decided by how likely the unperturbed model finds it.

No word list, so it holds in every language, and for code and lists. A loop becomes likely once it has begun, so it is
told by how little of it is new. Both are held against answers of that model itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from visage_mlflow.language.judges import Judge, Verdict

READ = 128
"""Tokens of an answer that are read, from the first on: noise shows within them, and a loop that comes later had
something to say before. So the verdict does not depend on how long answers may be."""


@dataclass(frozen=True)
class Reading:
    """What an answer looks like to the unperturbed model.

    Attributes:
        nll: Median negative log-likelihood of its tokens, in nats, those left out that only repeat a pair of tokens.
            An opening that the model would never choose does not move a median, and a loop cannot pull it down.
        variety: Share of its pairs of neighbouring tokens that are different ones, 0 to 1.
    """

    nll: float
    variety: float


@dataclass(frozen=True)
class Scale:
    """What is language to a model: its own answers, and tokens drawn at random, as medians over answers."""

    own: Reading
    random: Reading

    def coherent(self, reading: Reading) -> bool | None:
        """Whether an answer is language; None where its likelihood or this scale is not known.

        It is where it is nearer to the model's own answers than to random tokens, and has at least half of their
        variety: a text that is said three times over is a loop, one that is said twice is not.

        >>> scale = Scale(own=Reading(0.4, 0.96), random=Reading(14.4, 1.0))
        >>> [scale.coherent(Reading(*each)) for each in ((3.5, 1.0), (9.5, 1.0), (0.1, 0.2))]
        [True, False, False]
        """
        middle = (self.own.nll + self.random.nll) / 2
        if math.isnan(middle) or math.isnan(reading.nll):
            return None
        return reading.nll < middle and reading.variety >= self.own.variety / 2


def read(tokens: Sequence[int], nll: Sequence[float]) -> Reading:
    """What an answer looks like: its tokens, at least one, and the negative log-likelihood of each.

    >>> read([5, 6, 5, 6, 5], [9.0, 8.0, 7.0, 0.1, 0.1])
    Reading(nll=8.0, variety=0.5)
    """
    pairs = list(zip((None, *tokens[:-1]), tokens, strict=True))
    fresh = [value for position, value in enumerate(nll) if pairs[position] not in pairs[:position]]
    variety = len(set(pairs[1:])) / len(pairs[1:]) if len(pairs) > 1 else 1.0
    return Reading(median(fresh) if all(map(math.isfinite, nll)) else math.nan, variety)


def middle(readings: Sequence[Reading]) -> Reading:
    """The medians of several answers; NaN without any."""
    known = [each for each in readings if not math.isnan(each.nll)]
    if not known:
        return Reading(math.nan, math.nan)
    return Reading(median(each.nll for each in known), median(each.variety for each in known))


def final_verdict(judge: Judge, prompt: str, text: str | None, coherent: bool | None) -> Verdict:
    """What an answer is, from what the judge says of its text and from whether it is language.

    Args:
        judge: Who judges the text.
        prompt: What was asked.
        text: The answer; None where no token could be chosen.
        coherent: Whether it is language; None where that is not known, and then nothing is said that would hang on
            it.
    """
    if text is None:
        return "unjudged"
    verdict = judge.verdict(prompt, text)
    if judge.judges_coherence or verdict in ("empty", "unjudged"):
        return verdict
    if verdict == "refused" and not judge.noise_first:
        return verdict
    if coherent is None:
        return "unjudged"
    return verdict if coherent else "incoherent"
