"""Where this project keeps what outlives a process: one rule for fetched models and for what could not be logged."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``VISAGE_CACHE``, or ``visage_mlflow`` in the user's cache folder."""
    if chosen := os.environ.get("VISAGE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "visage_mlflow"
