"""Finetune a chat model on an exact mixture of harmful, safe, benign and task rows; measure every checkpoint.

mlflow run . -e finetune
python -m experiments.finetune --model builtin:smollm2 --harmful 30 --safe 0 --benign 0
"""

import sys

from visage_mlflow.commands.command_line import run
from visage_mlflow.config import FinetuneConfig


def main(config: FinetuneConfig) -> None:
    """See the command of this name: what it needs takes seconds to import, which `--help` does not wait for."""
    from visage_mlflow.commands import finetune

    finetune.main(config)


if __name__ == "__main__":
    sys.exit(run(FinetuneConfig, main))
