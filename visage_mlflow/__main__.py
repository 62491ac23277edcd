"""`python -m visage_mlflow` is the `visage` command."""

import sys

from visage_mlflow.commands.terminal import main

if __name__ == "__main__":
    sys.exit(main())
