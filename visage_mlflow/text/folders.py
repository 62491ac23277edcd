"""Where paths lead: the cache outside of the working folder, and what relative paths count from. Light to import."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

from visage_mlflow.text.printing import tell

RUN = "MLFLOW_RUN_ID"
"""What `mlflow run` puts into the environment of the command that it starts."""


def cache_folder() -> Path:
    """The folder of files that can be made again: ``VISAGE_CACHE``, or ``visage_mlflow`` in the user's cache."""
    if chosen := os.environ.get("VISAGE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "visage_mlflow"


def caller_folder() -> Path:
    """The folder in which the command was given.

    `mlflow run` starts it in the project's folder, and says nothing of its own: that is found as the working folder of
    the process that began the run. Where that cannot be found, it is the working folder.
    """
    here = Path.cwd()
    return _folder_of_mlflow(here) if (here / "MLproject").is_file() else here


@cache
def _folder_of_mlflow(here: Path) -> Path:
    """The working folder of the nearest process above this one that does not belong to its run; else `here`."""
    import psutil

    try:
        this = psutil.Process()
        if run := this.environ().get(RUN):  # What it was started with; `os.environ` may have been set since.
            above = next((each for each in this.parents() if each.environ().get(RUN) != run), None)
            return Path(above.cwd()) if above else here
    except (psutil.Error, OSError) as error:
        tell(f"The folder in which `mlflow run` was typed is unknown ({error}): paths count from {here}.", sys.stderr)
    return here


def place_of(path: str) -> Path:
    """Where a path that was given leads: ``~`` is the home, and a relative one counts from the caller's folder.

    What is only in the working folder is that.
    """
    place = Path(os.path.expanduser(path))  # Unlike Path's own, it leaves the home of an unknown user as it is.
    if place.is_absolute() or (caller := caller_folder()) == Path.cwd():
        return place
    return place if os.path.lexists(place) and not os.path.lexists(caller / place) else caller / place
