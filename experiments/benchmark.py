"""Time a landscape: the published procedure, plain `generate`, and this project, on the same model and points.

mlflow run . -e benchmark -P model=runs:/<run id>/checkpoint-72
python -m experiments.benchmark --model builtin:smollm2 --prompts 8 --points 3 --repeats 3
"""

from __future__ import annotations

import sys
import time

from experiments import command_line
from experiments.landscape import keep
from visage_mlflow.config import BenchmarkConfig


def main(config: BenchmarkConfig) -> None:
    """Print and log the table."""
    from dataclasses import replace

    from visage_mlflow import benchmark, landscape
    from visage_mlflow.language import models
    from visage_mlflow.record import runs, tracking
    from visage_mlflow.record.tally import TALLY

    with runs.tracked("benchmark", config) as run:
        settings = config.landscape("auto", store=config.store)
        place = str(models.locate(config.model, tracking.fetch))
        config = replace(config, model=place)  # Fetched once, for this process and the one that measures memory.
        exact = models.load(place, dtype="float32")
        fast = models.load(place, dtype="auto")
        result = benchmark.measure(exact, fast, config, progress=lambda text: command_line.tell(text, sys.stderr))
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


if __name__ == "__main__":
    sys.exit(command_line.run(BenchmarkConfig, main))
