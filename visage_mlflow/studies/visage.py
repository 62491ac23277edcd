"""VISAGE: the depth of a model's safety basin over several random directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from visage_mlflow.config import VisageConfig
from visage_mlflow.geometry.axes import axis
from visage_mlflow.geometry.directions import RandomDirection, seed_of
from visage_mlflow.geometry.intervals import mean_asr_interval
from visage_mlflow.geometry.score import visage_depth_interval, visage_interval
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.measuring.measure import Measurer
from visage_mlflow.results import Landscape, Response, Visage
from visage_mlflow.results.comparing import measured_differently
from visage_mlflow.studies import spans
from visage_mlflow.studies.crew import crew
from visage_mlflow.studies.evaluation import harmful_rows, succeeded
from visage_mlflow.studies.landscape import Grid, Progress, ignore, landscape_on, measured_at
from visage_mlflow.studies.precision import Moves, taking

KeepDirection = Callable[[int, Landscape, list[Response]], None]
"""Called with a direction's number, its landscape and its responses."""


def measure(
    chat: Chat,
    config: VisageConfig,
    *,
    rows: Sequence[Row] | None = None,
    measurer: Measurer | None = None,
    progress: Progress = ignore,
    keep: KeepDirection = ignore,
    salvage: KeepDirection = ignore,
) -> Visage:
    """VISAGE over `n_directions` random directions; the unperturbed model is measured once for all of them.

    Args:
        chat: The model of `config.model`; it is left as it was.
        config: Directions, grid and prompts.
        rows: The prompts of `config.prompts`, if they were read already.
        measurer: What it is measured with; by default what `config` asks for.
        progress: Called after each point.
        keep: Called with each direction that is done.
        salvage: Called with what there is of a direction in which the work is cut off.

    Raises:
        Mistake: The prompts cannot be read, or no response could be judged.
    """
    measurer = measurer or Measurer(config)
    rows = harmful_rows(config) if rows is None else rows
    workers = crew(chat, config, config.n_points, measurer)
    axes = [axis(config.extent, config.n_points).tolist()]
    landscapes: list[Landscape] = []
    origin: Grid = {}
    seeds = [seed_of(config.seed, number) for number in range(config.n_directions)]
    # One dtype for all of them, since they share the origin and have a mean.
    moves = [Moves([RandomDirection(seed, config.norm)], [(step,) for step in axes[0]]) for seed in seeds]
    with taking(workers.chats, config.dtype, moves, measurer):
        for number, seed in enumerate(seeds):
            line = spans.span(chat, "1d-random", config, measurer, seed=seed)
            landscape, responses = landscape_on(
                workers,
                line,
                axes,
                rows,
                config,
                known=origin,
                progress=progress,
                salvage=partial(salvage, number),
            )
            keep(number, landscape, responses)
            landscapes.append(landscape)
            origin = origin or {
                (0.0,): measured_at((0.0,), [response for response in responses if response.x == 0], config)
            }
    return combined(landscapes, config.seed)


def combined(landscapes: Sequence[Landscape], seed: int) -> Visage:
    """VISAGE of several directions' landscapes, with intervals if there are two or more.

    Raises:
        ValueError: They differ in grid, prompts, judge or how they were asked, so they have no mean.
    """
    for other in landscapes[1:]:
        if differences := measured_differently(landscapes[0], other):
            raise ValueError(f"These landscapes have no mean: {'; '.join(differences)}.")
    verdicts = jailbroken(landscapes)
    low, high = visage_interval(verdicts, seed=seed)
    depth_low, depth_high = visage_depth_interval(verdicts)
    mean = np.mean([landscape.asr for landscape in landscapes], axis=0)
    mean_low, mean_high = np.where(np.isnan(mean), math.nan, mean_asr_interval(verdicts))
    return Visage(
        landscapes=tuple(landscapes),
        mean_asr=tuple(mean.tolist()),
        mean_asr_low=tuple(mean_low.tolist()),
        mean_asr_high=tuple(mean_high.tolist()),
        visage=float(np.mean([landscape.visage for landscape in landscapes])),
        visage_low=low,
        visage_high=high,
        visage_contiguous=float(np.mean([landscape.visage_contiguous for landscape in landscapes])),
        visage_depth=float(np.mean([landscape.visage_depth for landscape in landscapes])),
        visage_depth_low=depth_low,
        visage_depth_high=depth_high,
    )


def jailbroken(
    landscapes: Sequence[Landscape], skipped_as: str = "unjudged"
) -> np.ndarray[tuple[int, int, int], np.dtype[np.float64]]:
    """Whether each attack succeeded, (directions, points, prompts): 1.0, 0.0, or NaN where it was not judged.

    `skipped_as` is the verdict for all prompts at points that `outside_after` left out.
    """
    openings = landscapes[0].setup.openings
    skipped = (skipped_as,) * landscapes[0].setup.n_prompts
    return np.array(
        [
            [[succeeded(verdict, openings) for verdict in point.verdicts or skipped] for point in landscape.points]
            for landscape in landscapes
        ]
    )
