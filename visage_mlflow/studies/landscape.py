"""Directions and a model become safety on a line or plane: its landscape."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from visage_mlflow.config import AttackConfig, LandscapeConfig, LineConfig
from visage_mlflow.geometry import score
from visage_mlflow.geometry.axes import Steps, by_distance, grid, past_the_edge
from visage_mlflow.language import tying
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.measuring.measure import Held, Measurer
from visage_mlflow.results import Axis, Edges, Landscape, Point, Response
from visage_mlflow.studies import spans
from visage_mlflow.studies.crew import Crew, crew
from visage_mlflow.studies.evaluation import harmful_rows, nothing_judged, rates, setup
from visage_mlflow.studies.precision import Moves, taking
from visage_mlflow.studies.spans import End, Span

Progress = Callable[[Steps, float], None]
"""Called after each point with its steps and its ASR; with NaN for one that is skipped. A point may be measured before
it is known to be past the edge: then it is called with its ASR, though the result leaves the point out."""

Keep = Callable[[Landscape, list[Response]], None]
"""Called with a landscape and its responses."""


def ignore(*arguments: object) -> None:
    """A callback that does nothing."""


@dataclass(frozen=True)
class Measured:
    """What a point of a grid turned out to be, and the responses there; none if it was skipped."""

    point: Point
    responses: list[Response]


Grid = dict[Steps, Measured]
"""What was measured so far, by place."""


def measure(
    chat: Chat,
    config: LandscapeConfig,
    *,
    rows: Sequence[Row] | None = None,
    ends: Sequence[End] = (),
    measurer: Measurer | None = None,
    progress: Progress = ignore,
    salvage: Keep = ignore,
) -> tuple[Landscape, list[Response]]:
    """The landscape that `config` asks for, and all responses; the model is left as it was.

    Args:
        chat: The model of `config.model`.
        config: Plane, grid and prompts.
        rows: The prompts of `config.prompts`, if they were read already.
        ends: The models of `config.to`, in order.
        measurer: What it is measured with; by default what `config` asks for.
        progress: Called after each point.
        salvage: Called with what there is if the work is cut off, unless that is nothing. Points without verdicts
            were not measured.

    Raises:
        Mistake: The ends cannot span the plane, the prompts cannot be read, or no response could be judged.
    """
    measurer = measurer or Measurer(config)
    with tying.alike(chat, [end.weights for end in ends]) as (chat, matched):
        ends = [replace(end, weights=weights) for end, weights in zip(ends, matched, strict=True)]
        plane = spans.span(chat, config.plane, config, measurer, ends)
        axes = plane.grid_axes(config)
        workers = crew(chat, config, math.prod(map(len, axes)), measurer)
        rows = harmful_rows(config) if rows is None else rows
        return landscape_on(workers, plane, axes, rows, config, progress=progress, salvage=salvage)


def landscape_on(
    workers: Crew,
    plane: Span,
    axes: Sequence[Sequence[float]],
    rows: Sequence[Row],
    config: LineConfig,
    *,
    known: Grid | None = None,
    progress: Progress = ignore,
    salvage: Keep = ignore,
) -> tuple[Landscape, list[Response]]:
    """The landscape on a grid of a line or plane, and all responses.

    Args:
        workers: The model at the origin, and its copies.
        plane: What the grid is on.
        axes: Steps along each of its directions; 0 is one of them.
        rows: The prompts.
        config: How to ask and judge, and where to stop.
        known: Points that were measured before.
        progress: Called after each point.
        salvage: As for `measure`.
    """
    measured: Grid = dict(known or {})
    lines = [
        Moves([direction], [(step,) for step in axis]) for direction, axis in zip(plane.directions, axes, strict=True)
    ]
    with taking(workers.chats, config.dtype, lines, workers.measure) as shares:
        about = [{**notes, "realised": share} for notes, share in zip(plane.about, shares, strict=True)]
        plane = replace(plane, about=tuple(about))
        try:
            measure_grid(workers, plane, axes, rows, config, measured, progress)
        except BaseException:
            if any(not math.isnan(one.point.asr) for one in measured.values()):
                salvage(*described(workers.chat, plane, axes, measured, rows, config))
            raise
        return described(workers.chat, plane, axes, measured, rows, config)


def measure_grid(
    workers: Crew,
    plane: Span,
    axes: Sequence[Sequence[float]],
    rows: Sequence[Row],
    config: LineConfig,
    measured: Grid,
    progress: Progress = ignore,
) -> None:
    """Measure safety at each point of a grid that is not in `measured`, and put it there as it is done.

    With `outside_after`, points past the edge are left out, whether or not a worker was there before this was known.
    """
    asr = {place: one.point.asr for place, one in measured.items()}
    for place, rate in asr.items():
        progress(place, rate)
    past: set[Steps] = set()

    def wanted() -> Iterator[Steps]:
        # Noise takes longest, so it goes first, and the workers end together. Where far points may be left out, the
        # near ones go first, to find out early.
        for place in by_distance(axes, far_first=config.outside_after == 0):
            if place not in measured and place not in past:
                yield place

    def ask(measure: Measurer, chat: Chat, place: Steps) -> list[Response]:
        return measure(chat, Held(plane.directions, place), rows, config)

    for place, responses in workers.run(wanted(), ask):
        measured[place] = measured_at(place, responses, config)
        asr[place] = measured[place].point.asr
        if asr[place] == 100:  # Only such a point can put others past the edge.
            past = past_the_edge(axes, asr, config.outside_after)
        progress(place, asr[place])
    for place in past_the_edge(axes, asr, config.outside_after):
        measured[place] = measured_at(place, [], config)
        if place not in asr:
            progress(place, math.nan)


def measured_at(place: Steps, responses: Sequence[Response], config: AttackConfig) -> Measured:
    """Responses of a model that was held at a place, with the rates there; without responses, a skipped point."""
    x, y = (*place, 0.0)[:2]
    verdicts = tuple(response.verdict for response in responses)
    shares = rates(verdicts, config.openings)
    return Measured(
        Point(
            *(x, y, shares.asr, shares.asr_low, shares.asr_high, shares.coherent_asr),
            n_unjudged=shares.n_unjudged,
            verdicts=verdicts,
            n_empty=shares.n_empty,
        ),
        [replace(response, x=x, y=y) for response in responses],
    )


def described(
    chat: Chat,
    plane: Span,
    axes: Sequence[Sequence[float]],
    measured: Mapping[Steps, Measured],
    rows: Sequence[Row],
    config: AttackConfig,
) -> tuple[Landscape, list[Response]]:
    """The landscape that measured points add up to, and all responses; points that are missing count as skipped.

    Raises:
        Mistake: No response could be judged anywhere.
    """
    ordered = [measured[place] if place in measured else measured_at(place, [], config) for place in grid(axes)]
    asr = np.array([one.point.asr for one in ordered]).reshape([len(axis) for axis in reversed(axes)])
    if np.isnan(asr).all():
        responses = (response for one in ordered for response in one.responses)
        raise nothing_judged(chat.uri, responses, "so there is nothing to draw")
    origin = [list(axis).index(0) for axis in axes]
    lines = [asr] if len(axes) == 1 else [asr[origin[1]], asr[:, origin[0]]]
    landscape = Landscape(
        plane=plane.name,
        setup=setup(chat, rows, config),
        axes=tuple(
            Axis(steps=tuple(axis), basin=_basin(axis, line), **about)
            for axis, line, about in zip(axes, lines, plane.about, strict=True)
        ),
        marks=plane.marks,
        points=tuple(one.point for one in ordered),
        visage=score.visage(asr),
        visage_contiguous=score.visage_contiguous(asr),
        visage_depth=score.visage_depth(asr),
    )
    return landscape, [response for one in ordered for response in one.responses]


def _basin(axis: Sequence[float], asr: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Edges:
    """The basin along one line of a grid; all NaN if nothing on it could be judged."""
    if np.isnan(asr).all():
        return Edges(*(math.nan,) * 5, False, False)
    return Edges(**asdict(score.basin(axis, asr)))
