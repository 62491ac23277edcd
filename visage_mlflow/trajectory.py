"""Checkpoints become places on a plane, with what the plane does not show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from visage_mlflow import workers
from visage_mlflow.config import ProjectConfig
from visage_mlflow.evaluation import Rates, attack, harmful_rows, rates
from visage_mlflow.geometry.directions import Difference
from visage_mlflow.geometry.perturb import perturbed
from visage_mlflow.geometry.plane import Plane
from visage_mlflow.landscape import Progress, interpolation_line
from visage_mlflow.language.models import Chat
from visage_mlflow.record.results import Place, Response, Trajectory


@dataclass(frozen=True)
class CheckpointWeights:
    """One checkpoint of a finetuning: where it is, after how many steps, and its weights."""

    uri: str
    training_step: int
    weights: Mapping[str, Tensor]


def measure(
    base: Chat,
    checkpoints: Sequence[CheckpointWeights],
    config: ProjectConfig,
    *,
    progress: Progress | None = None,
) -> tuple[Trajectory, list[Response]]:
    """Project checkpoints on the line from the base to the last of them, and measure ASR at each and on the line.

    Args:
        base: The model that was finetuned.
        checkpoints: At least one, in order of training.
        config: Grid and prompts.
        progress: Told of each point of the line.

    Raises:
        ValueError: There are no checkpoints, or one has other tensors than the base.
    """
    if not checkpoints:
        raise ValueError(f"`run` is {config.run!r}, which has no checkpoints to project. Give a finetune run's id.")
    rows = harmful_rows(config)
    for checkpoint in checkpoints:
        Difference(checkpoint.weights).check(base.weights)
    last = checkpoints[-1]
    crew = workers.crew(base, config, config.n_points)
    landscape, responses = interpolation_line(
        crew,
        last.weights,
        last.uri,
        rows,
        config,
        n_points=config.n_points,
        extra=config.extra,
        progress=progress,
    )
    asked: dict[str, Rates] = {}

    def work(chat: Chat, checkpoint: CheckpointWeights, check: Callable[[], None]) -> Rates:
        with perturbed(chat.model, [Difference(checkpoint.weights)], [1.0], weights=chat.weights):
            return rates([response.verdict for response in attack(chat, rows, config, check=check)])

    crew.run(checkpoints, work, done=lambda checkpoint, shares: asked.update({checkpoint.uri: shares}))
    line = Plane(base.weights, x=Difference(last.weights))
    places = []
    for checkpoint in checkpoints:
        at = line.project(checkpoint.weights)
        shares = asked[checkpoint.uri]
        places.append(
            Place(
                uri=checkpoint.uri,
                training_step=checkpoint.training_step,
                x=at.x,
                distance=at.distance / base.norm,
                off_plane_distance=at.off_plane_distance / base.norm,
                off_plane_share=at.off_plane_share,
                asr=shares.asr,
                asr_low=shares.asr_low,
                asr_high=shares.asr_high,
            )
        )
    return Trajectory(landscape=landscape, places=tuple(places)), responses
