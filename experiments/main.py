"""The whole story on one model: align it, score its basin, finetune it on harmful, safe and mixed data, compare.

mlflow run .
python -m experiments.main --budget quick
"""

import sys

from visage_mlflow.commands.command_line import run
from visage_mlflow.commands.main import main
from visage_mlflow.config import MainConfig

if __name__ == "__main__":
    sys.exit(run(MainConfig, main))
