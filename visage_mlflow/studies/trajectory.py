"""Checkpoints become places on a line or plane, with what it does not show, and how far the edge is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from visage_mlflow.config import ProjectConfig
from visage_mlflow.config.grid import AXES
from visage_mlflow.geometry.directions import Difference, Direction, Materialized, RandomDirection
from visage_mlflow.geometry.plane import Projection
from visage_mlflow.language import tying
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.measuring.measure import Held, Measurer
from visage_mlflow.results import Course, Edge, Landscape, Place, Point, Response, Trajectory
from visage_mlflow.studies import spans
from visage_mlflow.studies.crew import Crew, crew
from visage_mlflow.studies.evaluation import Rates, harmful_rows, rates
from visage_mlflow.studies.landscape import Keep, Progress, ignore, landscape_on
from visage_mlflow.studies.margin import find_edge
from visage_mlflow.studies.precision import Moves, taking
from visage_mlflow.studies.spans import End, Span
from visage_mlflow.text.errors import Mistake

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class CheckpointWeights:
    """One checkpoint of a finetuning: where it is, after how many steps, and its weights."""

    uri: str
    training_step: int
    weights: Weights


@dataclass(frozen=True)
class Finetuned:
    """The checkpoints of one finetuning, in order of training, and what to call it."""

    name: str
    checkpoints: tuple[CheckpointWeights, ...]


def measure(
    base: Chat,
    finetuned: Sequence[Finetuned],
    config: ProjectConfig,
    *,
    rows: Sequence[Row] | None = None,
    ends: Sequence[End] = (),
    measurer: Measurer | None = None,
    progress: Progress = ignore,
    salvage: Keep = ignore,
) -> tuple[Trajectory, list[Response]]:
    """Project checkpoints on a line or plane, and measure ASR on it, at each of them, and where each is drawn.

    Args:
        base: The model that was finetuned.
        finetuned: At least one finetuning, each with at least one checkpoint.
        config: Plane, grid and prompts.
        rows: The prompts of `config.prompts`, if they were read already.
        ends: The models of `config.to`; without them the last checkpoints span the plane, or all for 2d-pca.
        measurer: What it is measured with; by default what `config` asks for.
        progress: Called after each point of the grid.
        salvage: Called with what there is of the grid if the work is cut off there.

    Raises:
        Mistake: There are no checkpoints, they do not fit the base, or they cannot span the plane.
    """
    for one in finetuned:
        if not one.checkpoints:
            raise Mistake(f"`run` is {config.run!r}: {one.name} has no checkpoints. Give a finetune run's id.")
    if not finetuned:
        raise Mistake(f"`run` is {config.run!r}, which has no checkpoints to project. Give a finetune run's id.")
    everything = [checkpoint.weights for one in finetuned for checkpoint in one.checkpoints]
    with tying.alike(base, [*everything, *(end.weights for end in ends)]) as (base, matched):
        unused = iter(matched)
        finetuned = [
            replace(one, checkpoints=tuple(replace(each, weights=next(unused)) for each in one.checkpoints))
            for one in finetuned
        ]
        ends = [replace(end, weights=next(unused)) for end in ends]
        return _measured(
            base, finetuned, config, harmful_rows(config) if rows is None else rows, ends, measurer, progress, salvage
        )


def _measured(
    base: Chat,
    finetuned: Sequence[Finetuned],
    config: ProjectConfig,
    rows: Sequence[Row],
    ends: Sequence[End],
    measurer: Measurer | None,
    progress: Progress,
    salvage: Keep,
) -> tuple[Trajectory, list[Response]]:
    """See `measure`; all models have tensors of the same names."""
    measurer = measurer or Measurer(config)
    name = config.plane_for(len(finetuned))
    plane = spans.span(base, name, config, measurer, ends or _ends(name, finetuned))
    spanning = [id(end.weights) for end in plane.ends]  # Those were checked already.
    for checkpoint in (checkpoint for one in finetuned for checkpoint in one.checkpoints):
        if id(checkpoint.weights) not in spanning:
            spans.check_fits(base, _end(checkpoint))
    at = [[plane.geometry.project(checkpoint.weights) for checkpoint in one.checkpoints] for one in finetuned]
    axes = plane.grid_axes(config, [(place.x, place.y) for places in at for place in places])
    workers = crew(base, config, math.prod(map(len, axes)), measurer)
    landscape, responses = landscape_on(workers, plane, axes, rows, config, progress=progress, salvage=salvage)
    places = _places(workers, plane, finetuned, at, rows, config)
    edges, random_edge = _edges(workers, finetuned, landscape, rows, config)
    base_asr = _origin(landscape).asr
    courses = [
        Course(one.name, its_places, edge, base_asr)
        for one, its_places, edge in zip(finetuned, places, edges, strict=True)
    ]
    return Trajectory(landscape, tuple(courses), random_edge, _remark(landscape, at)), responses


def _ends(name: str, finetuned: Sequence[Finetuned]) -> list[End]:
    """The checkpoints that span a plane if nothing else was named."""
    if name == "2d-pca":
        chosen = [checkpoint for one in finetuned for checkpoint in one.checkpoints]
    else:
        n_ends = AXES[name].count("difference")
        if n_ends > len(finetuned):
            raise Mistake(
                f"plane={name} goes through the last checkpoints of {n_ends} finetunings, got {len(finetuned)}. Name "
                "two models in `to`, give a second run, or use plane=2d-pca or 2d-interpolation-random."
            )
        chosen = [one.checkpoints[-1] for one in finetuned[:n_ends]]
    return [_end(checkpoint) for checkpoint in chosen]


def _end(checkpoint: CheckpointWeights) -> End:
    return End(checkpoint.uri, checkpoint.weights, "A checkpoint is")


def _places(
    workers: Crew,
    plane: Span,
    finetuned: Sequence[Finetuned],
    at: Sequence[Sequence[Projection]],
    rows: Sequence[Row],
    config: ProjectConfig,
) -> list[tuple[Place, ...]]:
    """Each checkpoint on the plane, with the ASR of itself and of the plane there."""
    checkpoints = [checkpoint for one in finetuned for checkpoint in one.checkpoints]
    nearest = [projection for projections in at for projection in projections]
    themselves = [Held([Difference(checkpoint.weights)], (1.0,)) for checkpoint in checkpoints]
    held = [*themselves, *(Held(plane.directions, (one.x, one.y)[: len(plane.directions)]) for one in nearest)]

    def ask(measure: Measurer, chat: Chat, number: int) -> Rates:
        responses = measure(chat, held[number], rows, config)
        return rates((response.verdict for response in responses), config.openings)

    moves = [Moves(one.directions, [one.steps]) for one in held]
    with taking(workers.chats, config.dtype, moves, workers.measure):
        asked = dict(workers.run(range(len(held)), ask))
    places = iter(
        _place(checkpoint, one, asked[number], asked[len(nearest) + number], workers.chat.norm)
        for number, (checkpoint, one) in enumerate(zip(checkpoints, nearest, strict=True))
    )
    return [tuple(next(places) for _ in one.checkpoints) for one in finetuned]


def _place(checkpoint: CheckpointWeights, nearest: Projection, itself: Rates, there: Rates, norm: float) -> Place:
    """A checkpoint's place, from its own rates and those of the plane's nearest point; `norm` is the base's."""
    return Place(
        uri=checkpoint.uri,
        training_step=checkpoint.training_step,
        x=nearest.x,
        y=nearest.y,
        distance=nearest.distance / norm,
        off_plane_distance=nearest.off_plane_distance / norm,
        off_plane_share=nearest.off_plane_share,
        asr=itself.asr,
        asr_low=itself.asr_low,
        asr_high=itself.asr_high,
        plane_asr=there.asr,
        plane_asr_low=there.asr_low,
        plane_asr_high=there.asr_high,
    )


def _edges(
    workers: Crew,
    finetuned: Sequence[Finetuned],
    landscape: Landscape,
    rows: Sequence[Row],
    config: ProjectConfig,
) -> tuple[list[Edge | None], Edge | None]:
    """The edge along each finetuning's own direction, and along a random one; None where none is looked for."""
    origin = _origin(landscape)
    if config.margin_up_to == 0 or math.isnan(origin.asr):
        return [None] * len(finetuned), None
    random: Direction = RandomDirection(seed=config.seed, norm=config.norm)
    if not config.lean:
        random = Materialized(random, workers.chat.weights)
    ways: list[tuple[Direction, float]] = [
        (Difference(one.checkpoints[-1].weights), config.margin_up_to) for one in finetuned
    ]
    ways.append((random, config.extent))

    def look(measure: Measurer, chat: Chat, number: int) -> Edge:
        direction, up_to = ways[number]
        answered = {0.0: origin.verdicts}
        return find_edge(chat, direction, rows, config, measure, up_to=up_to, answered=answered, beyond=True)

    found = dict(workers.run(range(len(ways)), look))
    return [found[number] for number in range(len(finetuned))], found[len(finetuned)]


def _origin(landscape: Landscape) -> Point:
    """The model itself."""
    return next(point for point in landscape.points if point.x == 0 == point.y)


def _remark(landscape: Landscape, at: Sequence[Sequence[Projection]]) -> str:
    """The remark for a plane on which the trajectory cannot be seen."""
    flat = [place for places in at for place in places]
    farthest = max(max(abs(place.x), abs(place.y)) for place in flat)
    step = min(abs(step) for axis in landscape.axes for step in axis.steps if step != 0)
    if farthest >= step:
        return ""
    return (
        f"No checkpoint is farther from the model than {farthest:.2g} steps on this plane, less than a grid step "
        f"({step:.2g}): they show as a dot. plane=1d-interpolation, 2d-interpolation or 2d-pca shows the way."
    )
