"""What a training writes to disk so that it can go on after a kill: its checkpoints, and the state of the last one.

In the folder of a training, ``checkpoint-<step>`` holds a model and nothing else, and ``state-<step>`` what is only
needed to go on (optimizer, schedule, random numbers, log). They are written in ``WRITING``, and moved to these names
when they are whole, first the state and then the checkpoint; so what has its name is whole.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from visage_mlflow.text.errors import Mistake, one_line

WRITING = "writing"
LOG = "trainer_state.json"
STATE_FILES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", LOG)
"""Transformers reads the pickles among them with `weights_only=True`, which runs no code."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """A folder with an adapter (or whole weights), and the number of optimizer steps that led to it."""

    folder: Path
    step: int

    @property
    def state(self) -> Path:
        """Folder with what is only needed to go on from here."""
        return self.folder.with_name(f"state-{self.step}")


def complete(written: Path, checkpoint: SavedCheckpoint) -> None:
    """Split what a trainer just wrote into model and state, and remove the states before it."""
    (written / "training_args.bin").unlink(missing_ok=True)  # A pickle that nothing reads.
    state = written.with_name("state")
    state.mkdir()
    for name in STATE_FILES:
        if (written / name).exists():
            (written / name).rename(state / name)
    state.rename(checkpoint.state)
    written.rename(checkpoint.folder)  # Last, since a checkpoint without its state is of no use.
    for folder in checkpoint.folder.parent.glob("state-*"):
        if folder != checkpoint.state:
            shutil.rmtree(folder, ignore_errors=True)


def left_in(folder: Path) -> list[SavedCheckpoint]:
    """The checkpoints that a training which was cut off can go on from, in order."""
    steps = sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*/"))
    return [SavedCheckpoint(folder / f"checkpoint-{step}", step) for step in steps]


def remove_all_but(folder: Path, checkpoints: list[SavedCheckpoint]) -> None:
    """Remove all from a training's folder except for these checkpoints and the last one's state."""
    wanted = [checkpoint.folder for checkpoint in checkpoints] + [checkpoint.state for checkpoint in checkpoints[-1:]]
    for path in folder.glob("*"):
        if path not in wanted:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def logged(checkpoints: list[SavedCheckpoint]) -> list[dict[str, Any]]:
    """What was logged up to the last of some checkpoints, each entry with its "step".

    Raises:
        Mistake: A file was cut off, as a full or failing disk does.
    """
    try:
        for path in [path for checkpoint in checkpoints for path in checkpoint.folder.glob("*.safetensors")]:
            with safe_open(path, framework="pt"):
                pass
        entries: list[dict[str, Any]] = []
        if checkpoints:
            entries = json.loads((checkpoints[-1].state / LOG).read_text(encoding="utf-8"))["log_history"]
        return entries
    except (OSError, ValueError, SafetensorError) as error:
        raise Mistake(
            f"`output_dir` holds a training that was cut off, {str(checkpoints[0].folder.parent)!r}, of which a file "
            f"is damaged: {one_line(error)} Delete that folder; the training then begins anew."
        ) from error
