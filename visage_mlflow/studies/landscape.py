"""Directions and a model become safety on lines and planes: landscapes, and VISAGE over several directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from visage_mlflow.config import LandscapeConfig, LineConfig, VisageConfig
from visage_mlflow.geometry import score
from visage_mlflow.geometry.axes import Steps, by_distance, grid, past_the_edge
from visage_mlflow.geometry.directions import Direction
from visage_mlflow.geometry.intervals import bootstrap_mean_asr
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.measuring import measure as points
from visage_mlflow.measuring.measure import Held
from visage_mlflow.results import Landscape, Point, Response, Visage
from visage_mlflow.studies import crew as workers
from visage_mlflow.studies import spans
from visage_mlflow.studies.crew import Crew
from visage_mlflow.studies.evaluation import attack, harmful_rows
from visage_mlflow.studies.spans import End, Span
from visage_mlflow.studies.summary import describe, in_order, jailbroken, rates_of

Progress = Callable[[Steps, float], None]
"""Called after each point with its steps and its ASR; with NaN for one that is skipped. A point that turns out to be
past the edge only when it is already measured is told of with its ASR, though the result leaves it out."""

Salvage = Callable[[Landscape, list[Response]], None]
"""Called with what there is when the work is cut off, by an error or an interrupt; points without verdicts are not
measured. Not called if there is nothing."""


def measure_grid(
    crew: Crew,
    directions: Sequence[Direction],
    axes: Sequence[Sequence[float]],
    rows: Sequence[Row],
    config: LineConfig,
    *,
    known: dict[Steps, list[Response]] | None = None,
    progress: Progress | None = None,
    answers: dict[Steps, list[Response]] | None = None,
) -> tuple[tuple[Point, ...], list[Response]]:
    """Safety at base + sum(step * direction) at each point of a grid; the models are left as they were.

    Args:
        crew: The model at the origin.
        directions: What a step of 1 along each axis is.
        axes: Steps along each; 0 is one of them.
        rows: The prompts.
        config: How to ask and judge, and where to stop.
        known: Responses at the origin, if an earlier grid measured them; filled in if it was empty.
        progress: Told of each point.
        answers: Filled with the responses at each point as they come.

    Returns:
        The points in the order of `grid`, and all their responses.
    """
    known = {} if known is None else known
    places = grid(axes)
    answers = {} if answers is None else answers
    answers |= {place: known[place] for place in places if place in known}
    asr = {place: rates_of(answered).asr for place, answered in answers.items()}
    past: set[Steps] = set()

    def work(chat: Chat, place: Steps, check: Callable[[], None]) -> list[Response]:
        held = Held(directions, place)
        return points.responses(chat, held, rows, config, place, lambda: attack(chat, rows, config, place, check))

    def done(place: Steps, answered: list[Response]) -> None:
        answers[place] = answered
        asr[place] = rates_of(answered).asr
        if asr[place] == 100:  # Nothing else puts others past the edge.
            past.update(past_the_edge(axes, asr, config.outside_after))
        if progress:
            progress(place, asr[place])

    def wanted(place: Steps) -> bool:
        return place not in answers and place not in past

    # Noise takes longest, so it goes first, and the workers end together. Where the far points may be left out, the
    # near ones must go first to tell.
    order = by_distance(axes, far_first=config.outside_after == 0)
    if progress:
        for place in answers:
            progress(place, asr[place])
    crew.run(order, work, wanted=wanted, done=done)
    for place in past_the_edge(axes, asr, config.outside_after):
        # Several workers may have been past the edge before it was known; the result must not tell.
        answers[place] = []
        if progress and place not in asr:
            progress(place, math.nan)
    origin = (0.0,) * len(axes)
    if origin in answers:
        known[origin] = answers[origin]
    return in_order(axes, answers)


def landscape_on(
    crew: Crew,
    plane: Span,
    axes: Sequence[Sequence[float]],
    rows: Sequence[Row],
    config: LineConfig,
    *,
    known: dict[Steps, list[Response]] | None = None,
    progress: Progress | None = None,
    salvage: Salvage | None = None,
) -> tuple[Landscape, list[Response]]:
    """The landscape on a grid of a line or plane, and all responses."""
    answers: dict[Steps, list[Response]] = {}
    try:
        measured, responses = measure_grid(
            crew, plane.directions, axes, rows, config, known=known, progress=progress, answers=answers
        )
    except BaseException:
        measured, responses = in_order(axes, answers)
        if salvage and not all(math.isnan(point.asr) for point in measured):
            salvage(describe(crew.chat, plane, axes, measured, rows, config), responses)
        raise
    return describe(crew.chat, plane, axes, measured, rows, config), responses


def measure(
    chat: Chat,
    config: LandscapeConfig,
    *,
    ends: Sequence[End] = (),
    progress: Progress | None = None,
    salvage: Salvage | None = None,
) -> tuple[Landscape, list[Response]]:
    """The landscape that `config` asks for; the model is left as it was.

    Args:
        chat: The model of `config.model`.
        config: Plane, grid and prompts.
        ends: The models of `config.to`, in order.
        progress: Told of each point.
        salvage: Given what there is if the work is cut off.

    Raises:
        ValueError: The ends cannot span the plane, or the prompts cannot be read.
    """
    rows = harmful_rows(config)
    plane = spans.span(chat, config.plane, config, ends)
    axes = plane.grid_axes(config)
    crew = workers.crew(chat, config, math.prod(map(len, axes)))
    return landscape_on(crew, plane, axes, rows, config, progress=progress, salvage=salvage)


def measure_visage(
    chat: Chat,
    config: VisageConfig,
    *,
    progress: Progress | None = None,
    salvage: Callable[[int, Landscape, list[Response]], None] = lambda index, landscape, responses: None,
) -> tuple[Visage, list[list[Response]]]:
    """VISAGE over `n_directions` random directions; the unperturbed model is measured once for all of them.

    If the work is cut off, `salvage` is given what there is of each direction, with its index.

    Returns:
        The result, and the responses of each direction.
    """
    rows = harmful_rows(config)
    known: dict[Steps, list[Response]] = {}
    crew = workers.crew(chat, config, config.n_points)
    settings = config.line()
    measured: list[tuple[Landscape, list[Response]]] = []
    cut: list[tuple[Landscape, list[Response]]] = []

    def keep(part: Landscape, responses: list[Response]) -> None:
        cut.append((part, responses))

    try:
        for index in range(config.n_directions):
            line = spans.span(chat, "1d-random", settings, seed=config.seed + index)
            axes = line.grid_axes(settings)
            measured.append(
                landscape_on(
                    crew,
                    line,
                    axes,
                    rows,
                    config,
                    known=known,
                    progress=progress,
                    salvage=lambda *one: cut.append(one),
                )
            )
    except BaseException:
        for index, one in enumerate(measured + cut):
            salvage(index, *one)
        raise
    landscapes = tuple(landscape for landscape, _ in measured)
    verdicts = jailbroken(landscapes)
    low, high = score.bootstrap_visage(verdicts, seed=config.seed)
    mean = np.mean([landscape.asr for landscape in landscapes], axis=0)
    mean_low, mean_high = np.where(np.isnan(mean), math.nan, bootstrap_mean_asr(verdicts, seed=config.seed))
    result = Visage(
        landscapes=landscapes,
        mean_asr=tuple(mean.tolist()),
        mean_asr_low=tuple(mean_low.tolist()),
        mean_asr_high=tuple(mean_high.tolist()),
        visage=float(np.mean([landscape.visage for landscape in landscapes])),
        visage_low=low,
        visage_high=high,
        visage_contiguous=float(np.mean([landscape.visage_contiguous for landscape in landscapes])),
    )
    return result, [responses for _, responses in measured]
