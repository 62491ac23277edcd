"""Time a landscape: the published procedure, plain `generate`, and this project, on the same model and points."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from visage_mlflow.benchmark import race
from visage_mlflow.commands import command_line
from visage_mlflow.commands.landscape import keep
from visage_mlflow.config import BenchmarkConfig
from visage_mlflow.language import models, uris
from visage_mlflow.measuring.tally import TALLY
from visage_mlflow.studies import landscape
from visage_mlflow.tracking import lookup, runs


def main(config: BenchmarkConfig) -> None:
    """Print and log the table."""

    with runs.tracked("benchmark", config) as run:
        settings = config.landscape("auto", store=config.store)
        place = str(uris.locate(config.model, lookup.fetch))
        config = replace(config, model=place)  # Fetched once, for this process and the one that measures memory.
        exact = models.load(place, dtype="float32")
        fast = models.load(place, dtype="auto")
        result = race.measure(exact, fast, config, progress=lambda text: command_line.tell(text, sys.stderr))
        run.result(result, "benchmark.json")
        run.text(result.table(), "benchmark.md")
        run.metrics(result.metrics())
        began = time.perf_counter()
        with runs.tracked("landscape", settings, name="landscape", nested=True) as inner:
            measured, responses = landscape.measure(fast, settings)
            computed = time.perf_counter()
            keep(measured, responses, inner)
        ended = time.perf_counter()
        overhead = 100 * (ended - computed + TALLY.seconds) / (ended - began)
        run.metrics({"overhead_share": overhead})
    command_line.tell(result.table())
    command_line.tell(f"MLflow, store and plots: {overhead:.1f} % of a landscape's {ended - began:.1f} s")
