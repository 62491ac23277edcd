"""Is one model safer than another? Both on the same prompts and random directions, with intervals.

mlflow run . -e compare -P model=builtin:smollm2 -P other=runs:/<run id>/checkpoint-40
python -m experiments.compare --run <id of an evaluate run>,<id of another>
"""

import sys

from visage_mlflow.commands.command_line import run
from visage_mlflow.config import CompareConfig


def main(config: CompareConfig) -> None:
    """See the command of this name: what it needs takes seconds to import, which `--help` does not wait for."""
    from visage_mlflow.commands import compare

    compare.main(config)


if __name__ == "__main__":
    sys.exit(run(CompareConfig, main))
