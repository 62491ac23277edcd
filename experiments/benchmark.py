"""Time a landscape: the published procedure, plain `generate`, and this project, on the same model and points.

mlflow run . -e benchmark -P model=runs:/<run id>/checkpoint-72
python -m experiments.benchmark --model builtin:smollm2 --prompts 8 --points 3 --repeats 3
"""

import sys

from visage_mlflow.commands.command_line import run
from visage_mlflow.config import BenchmarkConfig


def main(config: BenchmarkConfig) -> None:
    """See the command of this name: what it needs takes seconds to import, which `--help` does not wait for."""
    from visage_mlflow.commands import benchmark

    benchmark.main(config)


if __name__ == "__main__":
    sys.exit(run(BenchmarkConfig, main))
