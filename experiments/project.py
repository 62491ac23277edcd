"""Where finetunings went: their checkpoints on a line or plane from their base, over the ASR there.

mlflow run . -e project -P run=<id of a finetune run>
python -m experiments.project --run <id of a finetune run>,<id of another>
"""

import sys

from visage_mlflow.commands.command_line import run
from visage_mlflow.config import ProjectConfig


def main(config: ProjectConfig) -> None:
    """See the command of this name: what it needs takes seconds to import, which `--help` does not wait for."""
    from visage_mlflow.commands import project

    project.main(config)


if __name__ == "__main__":
    sys.exit(run(ProjectConfig, main))
