"""VISAGE of a model: the mean depth of its safety basin over several random directions.

mlflow run . -e visage -P model=builtin:smollm2
python -m experiments.visage --model runs:/<run id>/checkpoint-40 --n_directions 3
"""

import sys

from visage_mlflow.commands.command_line import run
from visage_mlflow.commands.visage import main
from visage_mlflow.config import VisageConfig

if __name__ == "__main__":
    sys.exit(run(VisageConfig, main))
