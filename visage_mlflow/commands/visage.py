"""VISAGE of a model: the mean depth of its safety basin over several random directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from visage_mlflow.commands import command_line
from visage_mlflow.commands.landscape import keep_part
from visage_mlflow.config import VisageConfig

if TYPE_CHECKING:
    from visage_mlflow.language.models import Chat
    from visage_mlflow.results import Visage
    from visage_mlflow.tracking.runs import Run


def main(config: VisageConfig) -> None:
    """Score `config.model`, into MLflow."""
    from visage_mlflow.figures.style import short
    from visage_mlflow.language import models
    from visage_mlflow.studies import evaluation
    from visage_mlflow.tracking import lookup, runs

    with runs.tracked("visage", config, name=f"VISAGE of {short(config.model)}") as run:
        evaluation.check(config)  # Mistakes in the prompts and the store show before a model is loaded.
        chat = models.load(config.model, dtype=config.dtype, system_prompt=config.system_prompt, fetch=lookup.fetch)
        result = score(chat, config, run)
    command_line.tell(
        f"{config.model}: VISAGE {result.visage:.1f} ({result.visage_low:.1f} to {result.visage_high:.1f})"
    )


def score(chat: Chat, config: VisageConfig, run: Run) -> Visage:
    """VISAGE of a loaded model, logged on an open run."""
    from visage_mlflow.figures import lines
    from visage_mlflow.pages import landscape as pages
    from visage_mlflow.studies import landscape
    from visage_mlflow.tracking import histories

    with command_line.bar(config.n_directions * config.n_points, "VISAGE") as progress:
        result, responses = landscape.measure_visage(
            chat,
            config,
            progress=progress,
            salvage=lambda index, part, answered: keep_part(part, answered, run, f"direction_{index}"),
        )
    run.metrics(result.metrics())
    run.history(histories.mean_along(result))
    run.result(result, "visage.json")
    for index, (one, answered) in enumerate(zip(result.landscapes, responses, strict=True)):
        run.result(one, f"direction_{index}/landscape.json")
        run.lines(answered, f"direction_{index}/responses.jsonl")
        run.text(pages.landscape(one, answered), f"direction_{index}/landscape.html")
    run.figure(lines.visage(result), "visage.png")
    return result
