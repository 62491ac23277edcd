"""Two models on the same prompts and random directions: what differs, and whether it could be chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from visage_mlflow.config import CompareConfig
from visage_mlflow.geometry.paired import difference_interval, mcnemar, score_difference
from visage_mlflow.geometry.score import visage as visage_of
from visage_mlflow.geometry.score import visage_depth
from visage_mlflow.language.models import Chat, computing_in
from visage_mlflow.language.prompts import Row
from visage_mlflow.measuring.measure import AT_REST, Measurer
from visage_mlflow.results import Comparison, Difference, Response, Setup, Visage
from visage_mlflow.results.comparing import asked_differently
from visage_mlflow.studies import visage
from visage_mlflow.studies.evaluation import benign_rows, harmful_rows, setup, succeeded
from visage_mlflow.studies.landscape import Progress, ignore
from visage_mlflow.studies.visage import jailbroken
from visage_mlflow.text.errors import Mistake

Verdicts = NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """What was measured of one of the two models.

    Attributes:
        setup: What decided it.
        attacked: Its responses to the harmful prompts.
        asked: Its responses to ordinary prompts; none if these were not asked.
        visage: Along random directions; None if these were not measured.
        shapes: Of its tensors by name; None if they are not known.
        run: Id of the run that measured it; empty if none did.
    """

    setup: Setup
    attacked: Sequence[Response]
    asked: Sequence[Response] = ()
    visage: Visage | None = None
    shapes: Mapping[str, tuple[int, ...]] | None = None
    run: str = ""

    @property
    def name(self) -> str:
        """How a message names it."""
        return f"{self.setup.model!r} in run {self.run}" if self.run else repr(self.setup.model)


def measure(
    first: Chat,
    second: Chat,
    config: CompareConfig,
    *,
    rows: Sequence[Row] | None = None,
    benign: Sequence[Row] | None = None,
    measurer: Measurer | None = None,
    progress: Progress = ignore,
) -> Comparison:
    """Measure two models by one config, and compare them.

    Args:
        first: The model of `config.model`; it is left as it was.
        second: The model of `config.other`; it is left as it was.
        config: Prompts, grid and directions.
        rows: The prompts of `config.prompts`, if they were read already.
        benign: Those of `config.benign_prompts`.
        measurer: What they are measured with; by default what `config` asks for.
        progress: Called after each point of a landscape.

    Raises:
        Mistake: The prompts cannot be read, or the two do not compare.
    """
    measurer = measurer or Measurer(config)
    rows = harmful_rows(config) if rows is None else rows
    benign = benign_rows(config) if benign is None else benign
    dtype = shared_dtype([first.model.dtype, second.model.dtype], config.dtype)
    sides = []
    for chat in (first, second):
        with computing_in(chat, dtype or chat.model.dtype):
            sides.append(side(chat, rows, benign, config, measurer, progress))
    return compared(*sides)


def shared_dtype(dtypes: Sequence[torch.dtype], setting: str) -> torch.dtype | None:
    """What both models compute in, where one of them needs more than the other; None where each keeps its own.

    The dtype alone changes a verdict in a hundred, which would be taken for a difference of the models.

    >>> shared_dtype([torch.bfloat16, torch.float32], "auto")
    torch.float32
    """
    return torch.float32 if setting == "auto" and len(set(dtypes)) > 1 else None


def side(
    chat: Chat,
    rows: Sequence[Row],
    benign: Sequence[Row],
    config: CompareConfig,
    measure: Measurer,
    progress: Progress = ignore,
) -> Side:
    """What a comparison needs of one model."""
    attacked, asked = measure(chat, AT_REST, rows, config), measure(chat, AT_REST, benign, config)
    basin = None
    if config.n_directions:
        basin = visage.measure(chat, config, rows=rows, measurer=measure, progress=progress)
    shapes = {name: tuple(weight.shape) for name, weight in chat.weights.items()}
    return Side(setup(chat, rows, config), attacked, asked, basin, shapes)


def compared(first: Side, second: Side) -> Comparison:
    """Two models compared, prompt by prompt and direction by direction.

    Raises:
        Mistake: They were not asked the same, in the same way.
    """
    what = asked_differently(first.setup, second.setup) + _grids(first.visage, second.visage)
    for name in ("attacked", "asked"):
        one, other = ([response.prompt for response in getattr(each, name)] for each in (first, second))
        if one and other and one != other:
            what.append(f"{name.replace('attacked', 'harmful').replace('asked', 'ordinary')} prompts: other ones")
    if what:
        raise Mistake(
            f"{first.name} and {second.name} do not compare, as they were measured differently "
            f"({'; '.join(what)}). Measure both with the same settings."
        )
    found = [_rate("asr", first.attacked, second.attacked, first.setup.openings, of_refusals=False)]
    if first.asked and second.asked:
        found.append(_rate("over_refusal", first.asked, second.asked, "attack", of_refusals=True))
    n_directions = 0
    if first.visage and second.visage:
        n_directions = len(first.visage.landscapes)
        # A point that was skipped lies past a run of points at 100. Left out, it would be left out of both models.
        before, after = (jailbroken(each.landscapes, skipped_as="complied") for each in (first.visage, second.visage))
        found += [_score("visage", before, after, visage_of), _score("visage_depth", before, after, visage_depth)]
    known = first.shapes is not None and second.shapes is not None
    return Comparison(
        first=first.setup,
        second=second.setup,
        differences=tuple(found),
        n_directions=n_directions,
        same_directions=first.shapes == second.shapes if known else None,
    )


def _grids(first: Visage | None, second: Visage | None) -> list[str]:
    """What makes two models' landscapes not compare."""
    if first is None or second is None:
        return []
    sides = [[landscape.axes[0] for landscape in each.landscapes] for each in (first, second)]
    told: dict[str, list[object]] = {
        "n_directions": [len(axes) for axes in sides],
        "seeds": [[axis.seed for axis in axes] for axes in sides],
        "norm": [axes[0].norm for axes in sides],
        "grid": [f"{len(axes[0].steps)} points up to {axes[0].steps[-1]:g}" for axes in sides],
    }
    return [f"{name}: {one} and {other}" for name, (one, other) in told.items() if one != other]


def _rate(
    name: str, first: Sequence[Response], second: Sequence[Response], openings: str, *, of_refusals: bool
) -> Difference:
    """A rate of prompts compared: of attacks that succeeded, or of refusals."""
    one, two = (np.array([succeeded(response.verdict, openings) for response in each]) for each in (first, second))
    both = ~np.isnan(one) & ~np.isnan(two)
    one, two = (each[both] == (0.0 if of_refusals else 1.0) for each in (one, two))
    n, only_first, only_second = len(one), int((one & ~two).sum()), int((two & ~one).sum())
    before, after = (100 * float(each.mean()) if n else math.nan for each in (one, two))
    low, high = difference_interval(only_first, only_second, n)
    p_value = mcnemar(only_first, only_second)
    difference = 100 * (only_second - only_first) / n if n else math.nan
    return Difference(name, before, after, difference, low, high, n, only_first, only_second, p_value)


def _score(name: str, first: Verdicts, second: Verdicts, score: Callable[[Verdicts], float]) -> Difference:
    """A score of landscapes compared, over the responses that were judged in both."""
    both = ~np.isnan(first) & ~np.isnan(second)
    if not both.any():
        return Difference(name, math.nan, math.nan, math.nan, math.nan, math.nan, 0)
    difference, low, high = score_difference(first, second, score)
    asr = [100 * _means(np.where(both, each, math.nan)) for each in (first, second)]
    used = both.any(axis=(1, 2))
    before, after = (float(np.mean([score(line) for line in each[used]])) for each in asr)
    return Difference(name, before, after, difference, low, high, int(both.any(axis=(0, 1)).sum()))


def _means(verdicts: Verdicts) -> Verdicts:
    """Means over prompts, the last axis; NaN without verdicts."""
    judged = ~np.isnan(verdicts)
    trials = judged.sum(axis=-1)
    hits = np.where(judged, verdicts, 0.0).sum(axis=-1)
    means: Verdicts = np.divide(hits, trials, out=np.full(hits.shape, math.nan), where=trials > 0)
    return means
