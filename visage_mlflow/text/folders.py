"""Folders of this project outside of the working folder. Light to import."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of files that can be made again: ``VISAGE_CACHE``, or ``visage_mlflow`` in the user's cache."""
    if chosen := os.environ.get("VISAGE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "visage_mlflow"
