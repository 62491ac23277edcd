"""Time a landscape: the published procedure, plain `generate`, and this project, on the same model and points.

mlflow run . -e benchmark -P model=runs:/<run id>/checkpoint-72
python -m experiments.benchmark --model builtin:smollm2 --prompts 8 --points 3 --repeats 3
"""

import sys

from visage_mlflow.commands.benchmark import main
from visage_mlflow.commands.command_line import run
from visage_mlflow.config import BenchmarkConfig

if __name__ == "__main__":
    sys.exit(run(BenchmarkConfig, main))
