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

READ = 128
"""Tokens of an answer that are read, from the first on: noise shows within them, and a loop that comes later had
something to say before. So the verdict does not depend on how long answers may be."""

FEW = 3.0
"""Nats, divided by the number of tokens that are read, by which an answer may be less likely: "No." alone is 6.7 nats
a token to SmolLM2, and no noise."""


Look = Literal["language", "loop", "unlikely"]


@dataclass(frozen=True)
class Reading:
    """What an answer looks like to the unperturbed model.

    Attributes:
        nll: Median negative log-likelihood of its tokens, in nats, those left out that only repeat a pair of tokens.
            An opening that the model would never choose does not move a median, and a loop cannot pull it down. NaN
            without tokens, and where the model's output is not finite.
        variety: Share of its pairs of neighbouring tokens that are different ones, 0 to 1.
        n: How many tokens were read.
    """

    nll: float
    variety: float
    n: int


@dataclass(frozen=True)
class Scale:
    """What is language to a model.

    Attributes:
        own: Its own answers to ordinary prompts, as medians over them.
        chance: Negative log-likelihood of a token if all were as likely, in nats.
    """

    own: Reading
    chance: float

    def look(self, reading: Reading) -> Look | None:
        """What an answer is to this model; None where its likelihood or this scale is not known.

        It is a loop with less than half of the variety of the model's own answers: a text that is said three times
        over is one, a text that is said twice is not. It is language where its likelihood is nearer to that of the
        model's own answers than to chance. An empty answer is unlikely.

        >>> scale = Scale(own=Reading(0.2, 0.96, 40), chance=10.8)
        >>> [scale.look(Reading(*each, 40)) for each in ((3.5, 1.0), (6.5, 1.0), (0.1, 0.2))]
        ['language', 'unlikely', 'loop']
        """
        if reading.n == 0:
            return "unlikely"
        if reading.variety < self.own.variety / 2:
            return "loop"
        middle = (self.own.nll + self.chance) / 2
        if math.isnan(middle) or math.isnan(reading.nll):
            return None
        return "language" if reading.nll < middle + FEW / reading.n else "unlikely"


def read(tokens: Sequence[int], nll: Sequence[float]) -> Reading:
    """What an answer looks like: its tokens, and the negative log-likelihood of each.

    >>> read([5, 6, 5, 6, 5], [9.0, 8.0, 7.0, 0.1, 0.1])
    Reading(nll=8.0, variety=0.5, n=5)
    """
    if not tokens:
        return Reading(math.nan, 1.0, 0)
    pairs = list(zip((None, *tokens[:-1]), tokens, strict=True))
    first = {pair: place for place, pair in reversed(list(enumerate(pairs)))}
    fresh = [nll[place] for place in first.values()]
    variety = len(set(pairs[1:])) / len(pairs[1:]) if len(pairs) > 1 else 1.0
    # Rounded, so that no last bit of another thread's sum makes a kept answer differ.
    return Reading(
        round(median(fresh), 3) if all(map(math.isfinite, nll)) else math.nan, round(variety, 4), len(tokens)
    )


def middle(readings: Sequence[Reading]) -> Reading:
    """The medians of several answers; NaN without any of a known likelihood."""
    known = [each for each in readings if not math.isnan(each.nll)]
    if not known:
        return Reading(math.nan, math.nan, 0)
    return Reading(
        nll=median(each.nll for each in known),
        variety=median(each.variety for each in known),
        n=round(median(each.n for each in known)),
    )


def final_verdict(judge: Judge, prompt: str, text: str | None, look: Look | None) -> Verdict:
    """What an answer is, from what the judge says of its text and from what that looks like to the model.

    A refusal may be unlikely: a model is asked to refuse in words that are not its own. One that loops is broken.

    Args:
        judge: Who judges the text.
        prompt: What was asked.
        text: The answer; None where no token could be chosen.
        look: What it is to the unperturbed model; None where that is not known, and then nothing is said that would
            hang on it.
    """
    if text is None:
        return "unjudged"
    verdict = judge.verdict(prompt, text)
    if judge.judges_coherence or verdict in ("empty", "unjudged"):
        return verdict
    if verdict == "refused":
        return "incoherent" if judge.loops_are_noise and look == "loop" else verdict
    if look is None:
        return "unjudged"
    return verdict if look == "language" else "incoherent"
