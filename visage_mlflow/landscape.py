"""Directions and a model become safety along lines: landscapes, and VISAGE over several of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
from torch import Tensor

from visage_mlflow.config import AttackConfig, LandscapeConfig, VisageConfig
from visage_mlflow.evaluation import attack, harmful_rows, rates, setup
from visage_mlflow.geometry import directions, plane, score
from visage_mlflow.geometry.directions import Difference, Direction, Materialized, RandomDirection
from visage_mlflow.geometry.perturb import perturbed
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.record.results import Edges, Landscape, Point, Response, Visage

Progress = Callable[[float, float], None]
"""Called after each point with its step and its ASR."""


def relative_norm(chat: Chat, direction: Direction) -> float:
    """Length of a direction over all weights together, relative to the norm of the model's weights."""
    return directions.norm(chat.weights, direction) / chat.norm


def measure_line(
    chat: Chat,
    direction: Direction,
    steps: Sequence[float],
    rows: Sequence[Row],
    config: AttackConfig,
    *,
    known: dict[float, list[Response]] | None = None,
    progress: Progress | None = None,
) -> tuple[tuple[Point, ...], list[Response]]:
    """Safety at base + step * direction for each step; the model is left as it was.

    Args:
        chat: The model at step 0.
        direction: What a step of 1 is.
        steps: Places on the line.
        rows: The prompts.
        config: How to ask and judge.
        known: Responses at step 0, if an earlier line measured them; filled in if it was empty.
        progress: Told of each point.

    Returns:
        The points in the order of the steps, and all their responses.
    """
    known = {} if known is None else known
    points, responses = [], []
    for step in map(float, steps):
        if step == 0 and 0.0 in known:
            answered = known[0.0]
        else:
            with perturbed(chat.model, [direction], [step], weights=chat.weights):
                answered = attack(chat, rows, config, step)
        if step == 0:
            known[0.0] = answered
        verdicts = tuple(response.verdict for response in answered)
        shares = rates(verdicts)
        points.append(
            Point(step, shares.asr, shares.asr_low, shares.asr_high, shares.coherent_asr, shares.n_unjudged, verdicts)
        )
        responses += answered
        if progress:
            progress(step, shares.asr)
    return tuple(points), responses


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
    chat: Chat,
    rows: Sequence[Row],
    config: LandscapeConfig | VisageConfig,
    *,
    seed: int,
    known: dict[float, list[Response]] | None = None,
    progress: Progress | None = None,
) -> tuple[Landscape, list[Response]]:
    """The landscape along one random direction."""
    # Drawing 135M Gaussians anew for each point would take longer than answering the prompts inside the basin.
    direction = Materialized(RandomDirection(seed=seed, norm=config.norm), chat.weights)
    steps = plane.axis(config.extent, config.n_points)
    points, responses = measure_line(chat, direction, steps.tolist(), rows, config, known=known, progress=progress)
    about: dict[str, str | int | float] = {
        "kind": "random",
        "seed": seed,
        "norm": config.norm,
        "relative_norm": relative_norm(chat, direction),
    }
    return describe(chat, "1d-random", about, points, rows, config), responses


def interpolation_line(
    chat: Chat,
    end: Mapping[str, Tensor],
    end_uri: str,
    rows: Sequence[Row],
    config: AttackConfig,
    *,
    n_points: int,
    extra: float,
    progress: Progress | None = None,
) -> tuple[Landscape, list[Response]]:
    """The landscape on the line from a model (step 0) to other weights (step 1).

    Raises:
        ValueError: The two are of different architecture, or identical.
    """
    direction = Difference(end)
    direction.check(chat.weights)
    length = relative_norm(chat, direction)
    if length == 0:
        raise ValueError(
            f"The models {chat.uri!r} and {end_uri!r} have the same weights: there is no line between them. "
            f"Give two models that differ."
        )
    steps = plane.interpolation_axis(n_points, extra)
    points, responses = measure_line(chat, direction, steps.tolist(), rows, config, progress=progress)
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
    if config.plane == "1d-random":
        return random_line(chat, rows, config, seed=config.seed, progress=progress)
    if end is None:
        raise ValueError("`end` is None, but plane=1d-interpolation needs the weights of `to`. Load and pass them.")
    return interpolation_line(
        chat, end, config.to, rows, config, n_points=config.n_points, extra=config.extra, progress=progress
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
    measured = [
        random_line(chat, rows, config, seed=config.seed + index, known=known, progress=progress)
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
    return np.array([[[code[v] for v in point.verdicts] for point in land.points] for land in landscapes])
