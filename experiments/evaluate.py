"""How safe is a model, and what does its safety cost?

mlflow run . -e evaluate -P model=builtin:smollm2
python -m experiments.evaluate --model runs:/<run id>/checkpoint-40
"""

import sys

from visage_mlflow.commands.command_line import run
from visage_mlflow.commands.evaluate import main
from visage_mlflow.config import EvaluateConfig

if __name__ == "__main__":
    sys.exit(run(EvaluateConfig, main))
