"""The safety landscape on a line or plane through a model.

mlflow run . -e landscape -P model=builtin:smollm2
python -m experiments.landscape --plane 1d-interpolation --model builtin:smollm2 --to runs:/<run id>/checkpoint-40
"""

import sys

from visage_mlflow.commands.command_line import run
from visage_mlflow.config import LandscapeConfig


def main(config: LandscapeConfig) -> None:
    """See the command of this name: what it needs takes seconds to import, which `--help` does not wait for."""
    from visage_mlflow.commands import landscape

    landscape.main(config)


if __name__ == "__main__":
    sys.exit(run(LandscapeConfig, main))
