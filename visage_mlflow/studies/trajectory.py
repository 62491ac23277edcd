"""Checkpoints become places on a line or plane, with what it does not show, and how far the edge is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from visage_mlflow.config import ProjectConfig
from visage_mlflow.config.grid import AXES
from visage_mlflow.geometry.directions import Difference, Direction, Materialized, RandomDirection
from visage_mlflow.geometry.plane import Projection
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.measuring import measure as points
from visage_mlflow.measuring.measure import Held
from visage_mlflow.results import Course, Edge, Landscape, Place, Response, Trajectory
from visage_mlflow.studies import crew as workers
from visage_mlflow.studies import spans
from visage_mlflow.studies.crew import Check, Crew
from visage_mlflow.studies.evaluation import Rates, attack, harmful_rows, rates
from visage_mlflow.studies.landscape import Progress, Salvage, landscape_on
from visage_mlflow.studies.margin import find_edge
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
    ends: Sequence[End] = (),
    progress: Progress | None = None,
    salvage: Salvage | None = None,
) -> tuple[Trajectory, list[Response]]:
    """Project checkpoints on a line or plane, and measure ASR on it, at each of them, and where each is drawn.

    Args:
        base: The model that was finetuned.
        finetuned: At least one finetuning, each with at least one checkpoint.
        config: Plane, grid and prompts.
        ends: The models of `config.to`; without them the last checkpoints span the plane, or all for 2d-pca.
        progress: Told of each point of the grid.
        salvage: Given what there is of the grid if the work is cut off there.

    Raises:
        ValueError: There are no checkpoints, they do not fit the base, or they cannot span the plane.
    """
    for one in finetuned:
        if not one.checkpoints:
            raise Mistake(f"`run` is {config.run!r}: {one.name} has no checkpoints. Give a finetune run's id.")
    if not finetuned:
        raise Mistake(f"`run` is {config.run!r}, which has no checkpoints to project. Give a finetune run's id.")
    rows = harmful_rows(config)
    name = config.plane_for(len(finetuned))
    span = spans.span(base, name, config, ends or _ends(name, finetuned))
    used = {id(end.weights) for end in span.ends}
    for checkpoint in (checkpoint for one in finetuned for checkpoint in one.checkpoints):
        if id(checkpoint.weights) not in used:  # The others were looked at already.
            _check(base, checkpoint)
    at = [[span.geometry.project(checkpoint.weights) for checkpoint in one.checkpoints] for one in finetuned]
    axes = span.grid_axes(config, [(place.x, place.y) for places in at for place in places])
    crew = workers.crew(base, config, math.prod(map(len, axes)))
    landscape, responses = landscape_on(crew, span, axes, rows, config, progress=progress, salvage=salvage)
    places = _places(crew, span, finetuned, at, rows, config)
    edges, random_edge = _edges(crew, finetuned, landscape, rows, config)
    courses = [Course(one.name, *rest) for one, rest in zip(finetuned, zip(places, edges, strict=True), strict=True)]
    return Trajectory(landscape, tuple(courses), random_edge, _remark(landscape, at)), responses


def _check(base: Chat, checkpoint: CheckpointWeights) -> None:
    try:
        Difference(checkpoint.weights).check(base.weights)
    except ValueError as error:
        raise Mistake(f"A checkpoint is {checkpoint.uri!r}, which does not fit {base.uri!r}: {error}") from error


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
    return [End(checkpoint.uri, checkpoint.weights, "A checkpoint is") for checkpoint in chosen]


def _places(
    crew: Crew,
    span: Span,
    finetuned: Sequence[Finetuned],
    at: Sequence[Sequence[Projection]],
    rows: Sequence[Row],
    config: ProjectConfig,
) -> list[tuple[Place, ...]]:
    """Each checkpoint on the plane, with the ASR of itself and of the plane there."""
    asked: dict[int, Rates] = {}
    flat = [
        (checkpoint, place)
        for one, places in zip(finetuned, at, strict=True)
        for checkpoint, place in zip(one.checkpoints, places, strict=True)
    ]
    held = [Held([Difference(checkpoint.weights)], (1.0,)) for checkpoint, _ in flat]
    held += [Held(span.directions, (place.x, place.y)[: len(span.directions)]) for _, place in flat]

    def work(chat: Chat, index: int, check: Check) -> Rates:
        answered = points.responses(
            chat, held[index], rows, config, (), lambda: attack(chat, rows, config, check=check)
        )
        return rates([response.verdict for response in answered])

    crew.run(range(len(held)), work, done=lambda index, shares: asked.update({index: shares}))
    norm = crew.chat.norm
    measured = iter(
        Place(
            uri=checkpoint.uri,
            training_step=checkpoint.training_step,
            x=place.x,
            y=place.y,
            distance=place.distance / norm,
            off_plane_distance=place.off_plane_distance / norm,
            off_plane_share=place.off_plane_share,
            asr=asked[index].asr,
            asr_low=asked[index].asr_low,
            asr_high=asked[index].asr_high,
            plane_asr=asked[len(flat) + index].asr,
            plane_asr_low=asked[len(flat) + index].asr_low,
            plane_asr_high=asked[len(flat) + index].asr_high,
        )
        for index, (checkpoint, place) in enumerate(flat)
    )
    return [tuple(next(measured) for _ in one.checkpoints) for one in finetuned]


def _edges(
    crew: Crew,
    finetuned: Sequence[Finetuned],
    landscape: Landscape,
    rows: Sequence[Row],
    config: ProjectConfig,
) -> tuple[list[Edge | None], Edge | None]:
    """The edge along each finetuning's own direction, and along a random one; None where none is looked for."""
    origin = next(point.asr for point in landscape.points if point.x == 0 == point.y)
    if config.margin_up_to == 0 or math.isnan(origin):
        return [None] * len(finetuned), None
    ways: list[tuple[Direction, float]] = [
        (Difference(one.checkpoints[-1].weights), config.margin_up_to) for one in finetuned
    ]
    random: Direction = RandomDirection(seed=config.seed, norm=config.norm)
    ways.append((random if config.lean else Materialized(random, crew.chat.weights), config.extent))
    found: dict[int, Edge] = {}

    def work(chat: Chat, index: int, check: Callable[[], None]) -> Edge:
        direction, up_to = ways[index]
        return find_edge(chat, direction, rows, config, up_to=up_to, known={0.0: origin}, check=check)

    crew.run(range(len(ways)), work, done=lambda index, edge: found.update({index: edge}))
    return [found[index] for index in range(len(finetuned))], found[len(finetuned)]


def _remark(landscape: Landscape, at: Sequence[Sequence[Projection]]) -> str:
    """What to say of a picture that cannot show the way."""
    flat = [place for places in at for place in places]
    farthest = max(max(abs(place.x), abs(place.y)) for place in flat)
    step = min(abs(step) for axis in landscape.axes for step in axis.steps if step != 0)
    if farthest >= step:
        return ""
    return (
        f"No checkpoint is farther from the model than {farthest:.2g} steps on this plane, less than a grid step "
        f"({step:.2g}): they show as a dot. plane=1d-interpolation, 2d-interpolation or 2d-pca shows the way."
    )
