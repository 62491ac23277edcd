"""Results as metric histories: (step, name -> number), which MLflow's charts overlay for several runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

from visage_mlflow.results import Edge, Landscape, Trajectory, Visage

History = list[tuple[int, dict[str, float]]]

PLACE_LABELS = ("uri", "training_step", "asr_low", "asr_high", "plane_asr_low", "plane_asr_high")


def along(landscape: Landscape) -> History:
    """ASR along the first axis, through the model; the step is the position, see `_unit`."""
    unit = _unit(landscape.axis)
    return [
        (round(unit * point.x), {"asr": point.asr, "coherent_asr": point.coherent_asr})
        for point in landscape.points
        if point.y == 0 and point.verdicts  # A skipped one was not measured, so it has no place in a history.
    ]


def mean_along(visage: Visage) -> History:
    """The mean ASR of several directions."""
    positions = visage.landscapes[0].axis
    unit = _unit(positions)
    means = zip(positions, visage.mean_asr, strict=True)
    return [(round(unit * at), {"asr": asr}) for at, asr in means if not math.isnan(asr)]


def _unit(positions: Sequence[float]) -> int:
    """What positions are multiplied by to become steps, which are whole numbers: 100, so percent.

    Where two points would share a step, 1000, or as many tens more as it takes.

    >>> _unit([-0.5, 0, 0.5]), _unit([0, 0.002, 0.004])
    (100, 1000)
    """
    for digits in range(2, 9):
        if len({round(10**digits * at) for at in positions}) == len(positions):
            break
    return int(10**digits)


def places(trajectory: Trajectory) -> History:
    """Where each checkpoint lies, at its training step.

    Of several finetunings, the numbers of the first begin with ``trajectory_0_``.
    """
    history = []
    for index, course in enumerate(trajectory.courses):
        for place in course.places:
            numbers = {name: value for name, value in asdict(place).items() if name not in PLACE_LABELS}
            numbers["checkpoint_asr"] = numbers.pop("asr")
            history.append((place.training_step, {prefix(trajectory, index) + name: n for name, n in numbers.items()}))
    return history


def margins(trajectory: Trajectory) -> dict[str, float]:
    """How far each finetuning's edge (ASR 50 %) is, with its interval, and that of a random direction."""
    numbers: dict[str, float] = {}
    for index, course in enumerate(trajectory.courses):
        if course.edge:
            numbers |= margin(course.edge, prefix(trajectory, index))
    if edge := trajectory.random_edge:
        numbers["random_edge"] = edge.distance
        numbers |= {f"random_edge_{name}": number for name, number in _flags(edge).items()}
    return numbers


def margin(edge: Edge, before: str = "") -> dict[str, float]:
    """Numbers of one margin, with `before` before their names.

    `margin` is a lower bound where `edge_open` is 1, and `margin_high` where `edge_high_open` is. Of a model that is
    outside itself there is no margin, and `edge_starts_outside` is 1.
    """
    numbers = {f"edge_{name}": number for name, number in _flags(edge).items()}
    if not edge.starts_outside:
        numbers |= {"margin": edge.margin, "edge": edge.distance}
        if not math.isnan(edge.low):
            numbers |= {"margin_low": edge.low - 1, "margin_high": edge.high - 1}
    return {f"{before}{name}": number for name, number in numbers.items()}


def _flags(edge: Edge) -> dict[str, float]:
    """What makes an edge's distance less, or more, than one number."""
    flags = {
        "starts_outside": float(edge.starts_outside),
        "open": float(edge.is_open),
        "high_open": float(edge.high_is_open),
        "crossings": float(len(edge.turns)),
        "asr_falls": float(edge.falls),
        "resolution": edge.resolution,
    }
    return {name: number for name, number in flags.items() if not math.isnan(number)}


def prefix(trajectory: Trajectory, index: int) -> str:
    """What the names of a course's numbers begin with."""
    return f"trajectory_{index}_" if len(trajectory.courses) > 1 else ""
