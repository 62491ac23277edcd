"""The safety landscape along one line through a model.

mlflow run . -e landscape -P model=builtin:smollm2
python -m experiments.landscape --plane 1d-interpolation --model builtin:smollm2 --to runs:/<run id>/checkpoint-40
"""

from __future__ import annotations

import sys

from experiments import command_line
from visage_mlflow.config import LandscapeConfig


def main(config: LandscapeConfig) -> None:
    """Measure the ASR on the grid that the config asks for, into MLflow."""
    from visage_mlflow import landscape
    from visage_mlflow.evaluation import harmful_rows
    from visage_mlflow.language import models
    from visage_mlflow.record import plots, tracking

    with tracking.tracked("landscape", config) as run:
        harmful_rows(config)  # A mistake in the prompts shows before a model is loaded.
        if config.to:
            models.check_uri(config.to, "to")
        chat = models.load(config.model, dtype=config.dtype, system_prompt=config.system_prompt, fetch=tracking.fetch)
        end = dict(models.load_weights(config.to, tracking.fetch, "to").named_parameters()) if config.to else None
        with command_line.bar(config.n_points, "landscape") as progress:
            result, responses = landscape.measure(chat, config, end=end, progress=progress)
        run.history(result)
        run.metrics(result.metrics())
        run.result(result, "landscape.json")
        run.responses(responses)
        run.figure(plots.landscape(result), "landscape.png")
    basin = result.basin
    print(
        f"{config.model}, {config.plane}: VISAGE {result.visage:.1f}, basin from {basin.left:+.3f} to "
        f"{basin.right:+.3f}{' (open)' if basin.open_left or basin.open_right else ''}"
    )


if __name__ == "__main__":
    sys.exit(command_line.run(LandscapeConfig, main))
