"""How safe is a model, and what does its safety cost?

mlflow run . -e evaluate -P model=builtin:smollm2
python -m experiments.evaluate --model runs:/<run id>/checkpoint-40
"""

import sys

from visage_mlflow.commands.command_line import run
from visage_mlflow.config import EvaluateConfig


def main(config: EvaluateConfig) -> None:
    """See the command of this name: what it needs takes seconds to import, which `--help` does not wait for."""
    from visage_mlflow.commands import evaluate

    evaluate.main(config)


if __name__ == "__main__":
    sys.exit(run(EvaluateConfig, main))
