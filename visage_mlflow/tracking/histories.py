"""Results as metric histories: (step, name -> number), which MLflow's charts overlay for several runs."""

from __future__ import annotations

import math
from dataclasses import asdict

from visage_mlflow.results import Landscape, Trajectory, Visage

History = list[tuple[int, dict[str, float]]]

PLACE_LABELS = ("uri", "training_step", "asr_low", "asr_high", "plane_asr_low", "plane_asr_high")


def along(landscape: Landscape) -> History:
    """ASR along the first axis, through the model; the step is the position in percent."""
    return [
        (round(100 * point.x), {"asr": point.asr, "coherent_asr": point.coherent_asr})
        for point in landscape.points
        if point.y == 0 and point.verdicts  # A skipped one was not measured, so it has no place in a history.
    ]


def mean_along(visage: Visage) -> History:
    """The mean ASR of several directions."""
    positions = visage.landscapes[0].axis
    return [(round(100 * at), {"asr": asr}) for at, asr in zip(positions, visage.mean_asr, strict=True)]


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
    """How far each finetuning's edge (ASR 50 %) is, with its interval, and that of a random direction.

    `margin_high` is a lower bound where the interval has no end, as `margin` is where the edge is open.
    """
    numbers: dict[str, float] = {}
    for index, course in enumerate(trajectory.courses):
        if course.edge:
            name, edge = prefix(trajectory, index), course.edge
            numbers |= {f"{name}margin": edge.margin, f"{name}edge": edge.distance}
            if not math.isnan(edge.low):
                numbers |= {f"{name}margin_low": edge.low - 1, f"{name}margin_high": edge.high - 1}
            numbers[f"{name}edge_crossings"] = float(len(edge.turns))
            numbers[f"{name}asr_falls"] = float(edge.falls)
    return numbers | ({"random_edge": trajectory.random_edge.distance} if trajectory.random_edge else {})


def prefix(trajectory: Trajectory, index: int) -> str:
    """What the names of a course's numbers begin with."""
    return f"trajectory_{index}_" if len(trajectory.courses) > 1 else ""
