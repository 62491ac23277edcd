"""VISAGE of a model: the mean depth of its safety basin over several random directions.

mlflow run . -e visage -P model=builtin:smollm2
python -m experiments.visage --model runs:/<run id>/checkpoint-40 --n_directions 3
"""

import sys

from visage_mlflow.commands.command_line import run
from visage_mlflow.config import VisageConfig


def main(config: VisageConfig) -> None:
    """See the command of this name: what it needs takes seconds to import, which `--help` does not wait for."""
    from visage_mlflow.commands import visage

    visage.main(config)


if __name__ == "__main__":
    sys.exit(run(VisageConfig, main))
