"""Search the mixture and training settings that keep a model inside the safety basin, and useful, with Optuna.

mlflow run . -e search -P harmful=30 -P n_trials=30
python -m experiments.search --model <a chat model> --harmful 30 --safe 0..120 --benign 0..60 --n_trials 30
"""

import sys

from visage_mlflow.commands.command_line import run
from visage_mlflow.config import SearchConfig


def main(config: SearchConfig) -> None:
    """See the command of this name: what it needs takes seconds to import, which `--help` does not wait for."""
    from visage_mlflow.commands import search

    search.main(config)


if __name__ == "__main__":
    sys.exit(run(SearchConfig, main))
