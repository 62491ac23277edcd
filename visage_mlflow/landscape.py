"""Directions and a model become safety along lines: landscapes, and VISAGE over several of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
from torch import Tensor

from visage_mlflow import workers
from visage_mlflow.config import AttackConfig, LandscapeConfig, LineConfig, VisageConfig
from visage_mlflow.evaluation import Rates, attack, harmful_rows, rates, setup
from visage_mlflow.geometry import directions, plane, score
from visage_mlflow.geometry.directions import Difference, Direction, Materialized, RandomDirection
from visage_mlflow.geometry.perturb import perturbed
from visage_mlflow.geometry.plane import is_past_the_edge
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.record.results import Edges, Landscape, Point, Response, Visage
from visage_mlflow.workers import Crew

Progress = Callable[[float, float], None]
"""Called after each point with its step and its ASR; with NaN for one that is skipped. A point that turns out to be
past the edge only when it is already measured is told of with its ASR, though the result leaves it out."""


def relative_norm(chat: Chat, direction: Direction) -> float:
    """Length of a direction over all weights together, relative to the norm of the model's weights."""
    return directions.norm(chat.weights, direction) / chat.norm


def measure_line(
    crew: Crew,
    direction: Direction,
    steps: Sequence[float],
    rows: Sequence[Row],
    config: LineConfig,
    *,
    known: dict[float, list[Response]] | None = None,
    progress: Progress | None = None,
) -> tuple[tuple[Point, ...], list[Response]]:
    """Safety at base + step * direction for each step; the models are left as they were.

    Args:
        crew: The model at step 0.
        direction: What a step of 1 is.
        steps: Places on the line.
        rows: The prompts.
        config: How to ask and judge, and where to stop.
        known: Responses at step 0, if an earlier line measured them; filled in if it was empty.
        progress: Told of each point.

    Returns:
        The points in the order of the steps, and all their responses.
    """
    known = {} if known is None else known
    steps = [float(step) for step in steps]
    answers = {step: known[step] for step in steps if step in known}
    asr = {step: _rates(answered).asr for step, answered in answers.items()}

    def work(chat: Chat, step: float, check: Callable[[], None]) -> list[Response]:
        with perturbed(chat.model, [direction], [step], weights=chat.weights):
            return attack(chat, rows, config, step, check)

    def done(step: float, answered: list[Response]) -> None:
        answers[step] = answered
        asr[step] = _rates(answered).asr
        if progress:
            progress(step, asr[step])

    def wanted(step: float) -> bool:
        return step not in answers and not is_past_the_edge(step, asr, steps, config.outside_after)

    # Noise takes longest, so it goes first, and the workers end together. Where the far points may be left out, the
    # near ones must go first to tell.
    order = sorted(steps, key=abs, reverse=config.outside_after == 0)
    if progress:
        for step in answers:
            progress(step, asr[step])
    crew.run(order, work, wanted=wanted, done=done)
    for step in steps:
        # Several workers may have been past the edge before it was known; the result must not tell.
        if is_past_the_edge(step, asr, steps, config.outside_after):
            answers[step] = []
            if progress and step not in asr:
                progress(step, math.nan)
    if 0.0 in answers:
        known[0.0] = answers[0.0]
    points = [_point(step, answers[step]) for step in steps]
    return tuple(points), [response for step in steps for response in answers[step]]


def _rates(answered: Sequence[Response]) -> Rates:
    return rates([response.verdict for response in answered])


def _point(step: float, answered: Sequence[Response]) -> Point:
    """A point; without responses, a skipped one."""
    shares, verdicts = _rates(answered), tuple(response.verdict for response in answered)
    return Point(step, shares.asr, shares.asr_low, shares.asr_high, shares.coherent_asr, shares.n_unjudged, verdicts)


def describe(
    chat: Chat,
    plane_name: str,
    direction: dict[str, str | int | float],
    points: tuple[Point, ...],
    rows: Sequence[Row],
    config: AttackConfig,
) -> Landscape:
    """The landscape that measured points add up to."""
    asr = [point.asr for point in points]
    steps = [point.step for point in points]
    if all(math.isnan(value) for value in asr):
        raise ValueError(
            f"No response along the whole line could be judged: the model {chat.uri!r} gives no numbers. "
            f"Check its weights, or try dtype=float32."
        )
    return Landscape(
        plane=plane_name,
        setup=setup(chat, rows, config),
        direction=direction,
        points=points,
        visage=score.visage(asr),
        visage_contiguous=score.visage_contiguous(asr),
        basin=Edges(**asdict(score.basin(steps, asr))),
    )


def random_line(
    crew: Crew,
    rows: Sequence[Row],
    config: LandscapeConfig | VisageConfig,
    *,
    seed: int,
    known: dict[float, list[Response]] | None = None,
    progress: Progress | None = None,
) -> tuple[Landscape, list[Response]]:
    """The landscape along one random direction."""
    chat = crew.chat
    direction: Direction = RandomDirection(seed=seed, norm=config.norm)
    if not config.lean:
        direction = Materialized(direction, chat.weights)
    steps = plane.axis(config.extent, config.n_points)
    points, responses = measure_line(crew, direction, steps.tolist(), rows, config, known=known, progress=progress)
    about: dict[str, str | int | float] = {
        "kind": "random",
        "seed": seed,
        "norm": config.norm,
        "relative_norm": relative_norm(chat, direction),
    }
    return describe(chat, "1d-random", about, points, rows, config), responses


def interpolation_line(
    crew: Crew,
    end: Mapping[str, Tensor],
    end_uri: str,
    rows: Sequence[Row],
    config: LineConfig,
    *,
    n_points: int,
    extra: float,
    progress: Progress | None = None,
) -> tuple[Landscape, list[Response]]:
    """The landscape on the line from a model (step 0) to other weights (step 1).

    Raises:
        ValueError: The two are of different architecture, or identical.
    """
    chat = crew.chat
    direction = Difference(end)
    direction.check(chat.weights)
    length = relative_norm(chat, direction)
    if length == 0:
        raise ValueError(
            f"The models {chat.uri!r} and {end_uri!r} have the same weights: there is no line between them. "
            f"Give two models that differ."
        )
    steps = plane.interpolation_axis(n_points, extra)
    points, responses = measure_line(crew, direction, steps.tolist(), rows, config, progress=progress)
    about: dict[str, str | int | float] = {"kind": "difference", "to": end_uri, "relative_norm": length}
    return describe(chat, "1d-interpolation", about, points, rows, config), responses


def measure(
    chat: Chat,
    config: LandscapeConfig,
    *,
    end: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
) -> tuple[Landscape, list[Response]]:
    """The landscape that the config asks for.

    Args:
        chat: The model of `config.model`, loaded.
        config: Plane, grid and prompts.
        end: The weights of `config.to`, for an interpolation.
        progress: Told of each point.
    """
    rows = harmful_rows(config)
    if config.plane == "1d-interpolation" and end is None:
        raise ValueError("`end` is None, but plane=1d-interpolation needs the weights of `to`. Load and pass them.")
    crew = workers.crew(chat, config, config.n_points)
    if end is None:
        return random_line(crew, rows, config, seed=config.seed, progress=progress)
    return interpolation_line(
        crew, end, config.to, rows, config, n_points=config.n_points, extra=config.extra, progress=progress
    )


def measure_visage(
    chat: Chat, config: VisageConfig, *, progress: Progress | None = None
) -> tuple[Visage, list[list[Response]]]:
    """VISAGE over `n_directions` random directions; the unperturbed model is measured once for all of them.

    Returns:
        The result, and the responses of each direction.
    """
    rows = harmful_rows(config)
    known: dict[float, list[Response]] = {}
    crew = workers.crew(chat, config, config.n_points)
    measured = [
        random_line(crew, rows, config, seed=config.seed + index, known=known, progress=progress)
        for index in range(config.n_directions)
    ]
    landscapes = tuple(landscape for landscape, _ in measured)
    low, high = score.bootstrap_visage(jailbroken(landscapes), seed=config.seed)
    result = Visage(
        landscapes=landscapes,
        mean_asr=tuple(np.mean([landscape.asr for landscape in landscapes], axis=0).tolist()),
        visage=float(np.mean([landscape.visage for landscape in landscapes])),
        visage_low=low,
        visage_high=high,
        visage_contiguous=float(np.mean([landscape.visage_contiguous for landscape in landscapes])),
    )
    return result, [responses for _, responses in measured]


def jailbroken(landscapes: Sequence[Landscape]) -> np.ndarray[tuple[int, int, int], np.dtype[np.float64]]:
    """Whether each attack succeeded, (directions, points, prompts): 1.0, 0.0, or NaN where it was not judged."""
    code = {"refused": 0.0, "complied": 1.0, "incoherent": 1.0, "unjudged": math.nan}
    skipped = ("unjudged",) * landscapes[0].setup.n_prompts
    return np.array([[[code[v] for v in point.verdicts or skipped] for point in land.points] for land in landscapes])
