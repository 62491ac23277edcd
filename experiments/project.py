"""Where a finetuning went: its checkpoints on the line from its base to its last one, over the ASR of that line.

mlflow run . -e project -P run=<id of a finetune run>
python -m experiments.project --run <id of a finetune run>
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from experiments import command_line
from visage_mlflow.config import ProjectConfig

if TYPE_CHECKING:
    from visage_mlflow.language.models import Chat
    from visage_mlflow.record.results import Trajectory
    from visage_mlflow.record.tracking import FinetuneRun, Run


def main(config: ProjectConfig) -> None:
    """Project the checkpoints of `config.run`, into MLflow."""
    from visage_mlflow.evaluation import harmful_rows
    from visage_mlflow.language import models
    from visage_mlflow.record import tracking

    with tracking.tracked("project", config) as run:
        harmful_rows(config)  # Mistakes in the prompts or the run's id show before a model is loaded.
        source = tracking.finetune_run(config.run)
        base = models.load(source.model, dtype=config.dtype, system_prompt=config.system_prompt, fetch=tracking.fetch)
        result = project(base, source, config, run)
    for place in result.places:
        print(
            f"step {place.training_step}: at {place.x:.3f} on the line, off-plane share {place.off_plane_share:.3f}, "
            f"ASR {place.asr:.1f} %"
        )


def project(base: Chat, source: FinetuneRun, config: ProjectConfig, run: Run) -> Trajectory:
    """Project a finetune run's checkpoints, with its base loaded, and log them on an open run."""
    from visage_mlflow import trajectory
    from visage_mlflow.language import models
    from visage_mlflow.record import plots, tracking

    checkpoints = [
        trajectory.CheckpointWeights(
            uri, step, dict(models.load_weights(uri, tracking.fetch, "run").named_parameters())
        )
        for uri, step in source.checkpoints
    ]
    with command_line.bar(config.n_points, "line") as progress:
        result, responses = trajectory.measure(base, checkpoints, config, progress=progress)
    run.history(result.landscape)
    for place in result.places:
        numbers = {name: getattr(place, name) for name in ("x", "distance", "off_plane_distance", "off_plane_share")}
        run.metrics({**numbers, "checkpoint_asr": place.asr}, step=place.training_step)
    run.metrics(result.landscape.metrics())
    run.result(result, "trajectory.json")
    run.responses(responses)
    run.figure(plots.trajectory(result), "trajectory.png")
    return result


if __name__ == "__main__":
    sys.exit(command_line.run(ProjectConfig, main))
