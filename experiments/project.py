"""Where finetunings went: their checkpoints on a line or plane from their base, over the ASR there.

mlflow run . -e project -P run=<id of a finetune run>
python -m experiments.project --run <id of a finetune run>,<id of another>
"""

import sys

from visage_mlflow.commands.command_line import run
from visage_mlflow.commands.project import main
from visage_mlflow.config import ProjectConfig

if __name__ == "__main__":
    sys.exit(run(ProjectConfig, main))
