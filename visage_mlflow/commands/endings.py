"""How a command ends that was stopped or could not go on: one line, and an exit status that is not 0."""

from __future__ import annotations

import sys

from visage_mlflow.text.errors import Mistake, ServerAway, explained
from visage_mlflow.text.names import undecodable
from visage_mlflow.text.printing import tell

ENDINGS = (Exception, ServerAway, KeyboardInterrupt)
"""What ends a command early and is told in one line; ServerAway is no Exception."""


def told(error: BaseException) -> int:
    """Say in one line why a command ends early.

    Returns:
        The exit status: 2 for what the user can mend (`Mistake`), 3 where the tracking server stays away: the same
        command goes on later, 130 after an interrupt, else 1.
    """
    if isinstance(error, KeyboardInterrupt):
        tell("\nstopped", sys.stderr)
        return 130
    error = undecodable(error) or error
    tell(f"error: {explained(error)}", sys.stderr)
    return 2 if isinstance(error, Mistake) else 3 if isinstance(error, ServerAway) else 1
