"""VISAGE of a model: the mean depth of its safety basin over several random directions."""

from __future__ import annotations

from collections.abc import Sequence

from visage_mlflow.commands import command_line
from visage_mlflow.commands.landscape import keep_part
from visage_mlflow.commands.loading import load
from visage_mlflow.config import VisageConfig
from visage_mlflow.figures import lines
from visage_mlflow.figures.style import short
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.measuring.measure import Measurer
from visage_mlflow.pages import landscape as pages
from visage_mlflow.results import Landscape, Response, Visage
from visage_mlflow.studies import evaluation, visage
from visage_mlflow.tracking import histories, runs
from visage_mlflow.tracking.runs import Run


def main(config: VisageConfig) -> None:
    """Score `config.model`, into MLflow."""
    with runs.tracked("visage", config, name=f"VISAGE of {short(config.model)}") as run:
        measure = Measurer(config)  # Mistakes in the store and the prompts show before a model is loaded.
        rows = evaluation.harmful_rows(config)
        chat = load(config.model, config, rows)
        result = score(chat, rows, config, measure, run)
    command_line.tell(
        f"{config.model}: VISAGE {result.visage:.1f} of {config.n_prompts} prompts ({result.interval}), "
        f"mean depth over the points measured {result.depth_in_words}"
    )


def score(chat: Chat, rows: Sequence[Row], config: VisageConfig, measure: Measurer, run: Run) -> Visage:
    """VISAGE of a loaded model, logged on an open run: each direction as it is done, then all together."""

    def keep(number: int, one: Landscape, responses: Sequence[Response]) -> None:
        run.result(one, f"direction_{number}/landscape.json")
        run.lines(responses, f"direction_{number}/responses.jsonl")
        run.text(pages.landscape(one, responses), f"direction_{number}/landscape.html")

    with command_line.bar(config.n_directions * config.n_points, "VISAGE") as progress:
        result = visage.measure(
            chat,
            config,
            rows=rows,
            measurer=measure,
            progress=progress,
            keep=keep,
            salvage=lambda number, part, responses: keep_part(part, responses, run, f"direction_{number}"),
        )
    run.metrics(result.metrics())
    run.history(histories.mean_along(result))
    run.result(result, "visage.json")
    run.figure(lines.visage(result), "visage.png")
    return result
