"""The safety landscape on a line or plane through a model.

mlflow run . -e landscape -P model=builtin:smollm2
python -m experiments.landscape --plane 1d-interpolation --model builtin:smollm2 --to runs:/<run id>/checkpoint-40
"""

import sys

from visage_mlflow.commands.command_line import run
from visage_mlflow.commands.landscape import main
from visage_mlflow.config import LandscapeConfig

if __name__ == "__main__":
    sys.exit(run(LandscapeConfig, main))
