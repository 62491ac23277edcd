"""What a training writes to disk so that it can go on after a kill: its checkpoints, and the state of the last one.

In the folder of a training, ``checkpoint-<step>`` holds a model and nothing else, and ``state-<step>`` what is only
needed to go on (optimizer, schedule, random numbers, log). The file ``whole.json`` lists the size of each file in them
once they are written; what is not listed, or not of that size, does not count.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIST = "whole.json"
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

    def logs(self) -> list[dict[str, Any]]:
        """What was logged up to here, each entry with its "step"."""
        entries: list[dict[str, Any]] = json.loads((self.state / LOG).read_text(encoding="utf-8"))["log_history"]
        return entries


def complete(checkpoint: SavedCheckpoint) -> None:
    """Split what a trainer just wrote into model and state, list it, and remove the states before it."""
    (checkpoint.folder / "training_args.bin").unlink(missing_ok=True)  # A pickle that nothing reads.
    checkpoint.state.mkdir(exist_ok=True)
    for name in STATE_FILES:
        if (checkpoint.folder / name).exists():
            (checkpoint.folder / name).replace(checkpoint.state / name)
    list_whole(checkpoint)
    for folder in checkpoint.folder.parent.glob("state-*/"):
        if folder != checkpoint.state:
            shutil.rmtree(folder, ignore_errors=True)


def list_whole(last: SavedCheckpoint) -> None:
    """List the files of all checkpoints up to the last one, and of its state: all at once, by renaming the list."""
    folder = last.folder.parent
    files = [path for each in (*folder.glob("checkpoint-*/"), last.state) for path in each.iterdir()]
    sizes = {f"{path.parent.name}/{path.name}": path.stat().st_size for path in files}
    (folder / "draft").write_text(json.dumps(sizes, indent=1), encoding="utf-8")
    (folder / "draft").replace(folder / LIST)


def left_in(folder: Path) -> list[SavedCheckpoint]:
    """The checkpoints that a training which was cut off can go on from, in order; none if a file is not whole."""
    try:
        sizes: dict[str, int] = json.loads((folder / LIST).read_text(encoding="utf-8"))
        if any((folder / name).stat().st_size != size for name, size in sizes.items()):
            return []
    except (OSError, ValueError):
        return []
    names = {name.partition("/")[0] for name in sizes}
    steps = sorted(int(name.removeprefix("checkpoint-")) for name in names if name.startswith("checkpoint-"))
    return [SavedCheckpoint(folder / f"checkpoint-{step}", step) for step in steps]


def remove_all_but(folder: Path, checkpoints: Sequence[SavedCheckpoint]) -> None:
    """Remove all from a training's folder except for these checkpoints, the last one's state and the list."""
    wanted = [one.folder for one in checkpoints] + [folder / LIST, checkpoints[-1].state] if checkpoints else []
    for path in folder.glob("*"):
        if path not in wanted:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
