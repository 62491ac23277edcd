"""The safety landscape on a line or plane through a model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from visage_mlflow.commands import command_line
from visage_mlflow.commands.loading import load
from visage_mlflow.config import LandscapeConfig, grid
from visage_mlflow.figures import lines, maps
from visage_mlflow.figures.style import short
from visage_mlflow.language import weights
from visage_mlflow.language.models import check_alike
from visage_mlflow.measuring.measure import Measurer
from visage_mlflow.pages import landscape as pages
from visage_mlflow.results import Landscape, Response
from visage_mlflow.studies import evaluation, landscape
from visage_mlflow.studies.spans import End
from visage_mlflow.tracking import histories, lookup, runs
from visage_mlflow.tracking.runs import Run


def main(config: LandscapeConfig) -> None:
    """Measure the ASR on the grid that the config asks for, into MLflow."""
    name = f"{config.plane} of {short(config.model)}"
    with (
        runs.tracked("landscape", config, name=name) as run,
        tempfile.TemporaryDirectory(prefix="visage-") as folder,
    ):
        measure = Measurer(config)  # Mistakes in the store and the prompts show before a model is loaded.
        rows = evaluation.harmful_rows(config)
        uris = lookup.unfolded(config.ends, "to")
        grid.check_ends(config.plane, uris)
        check_alike(uris, config.model, "to", lookup.fetch, config.base)
        chat = load(config.model, config, rows)
        ends = [End(uri, weights.stored_weights(uri, Path(folder), lookup.fetch, "to", config.base)) for uri in uris]
        with command_line.bar(config.count_points(config.plane), "landscape") as progress:
            result, responses = landscape.measure(
                chat,
                config,
                rows=rows,
                ends=ends,
                measurer=measure,
                progress=progress,
                salvage=lambda part, responses: keep_part(part, responses, run),
            )
        keep(result, responses, run)
    for name, axis in zip(("x", "y"), result.axes, strict=False):
        command_line.tell(
            f"{config.model}, {config.plane}, along {name} (1 = {100 * axis.relative_norm:.3g} % of the norm): basin "
            f"edges (ASR 50 %): {axis.basin.in_words}"
        )
    command_line.tell(f"VISAGE {result.visage:.1f}")


def keep(result: Landscape, responses: Sequence[Response], run: Run) -> None:
    """Log a landscape on an open run: numbers, data, pictures and the page to explore it in."""
    run.history(histories.along(result))
    run.metrics(result.metrics())
    run.result(result, "landscape.json")
    run.lines(responses, "responses.jsonl")
    run.figure(lines.landscape(result), "landscape.png")
    if len(result.axes) == 2:
        run.figure(maps.surface(result), "surface.png")
    run.text(pages.landscape(result, responses), "landscape.html")


def keep_part(part: Landscape, responses: Sequence[Response], run: Run, name: str = "landscape") -> None:
    """Log what there is of a landscape that was cut off, below ``partial/``, with a tag that says how much."""
    n_measured = sum(point.verdicts != () for point in part.points)
    run.tag("partial", f"{name}: {n_measured} of {len(part.points)} points")
    run.lines(responses, f"partial/{name}_responses.jsonl")
    run.result(part, f"partial/{name}.json")
