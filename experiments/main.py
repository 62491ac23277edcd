"""The whole story on one model: align it, score its basin, finetune it on harmful, safe and mixed data, compare.

mlflow run .
python -m experiments.main --budget quick
"""

import sys

from visage_mlflow.commands.command_line import run
from visage_mlflow.config import MainConfig


def main(config: MainConfig) -> None:
    """See the command of this name: what it needs takes seconds to import, which `--help` does not wait for."""
    from visage_mlflow.commands import main

    main.main(config)


if __name__ == "__main__":
    sys.exit(run(MainConfig, main))
