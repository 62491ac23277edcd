"""What a training writes to disk so that it can go on after a kill: its checkpoints, and the state of the last one.

In the folder of a training, ``checkpoint-<step>`` holds a model and nothing else, ``state-<step>`` holds what is only
needed to go on (optimizer, schedule, random numbers, log), and ``checkpoint-<step>.json`` or ``state-<step>.json``
seals the folder of that name: it holds the SHA-256 of each file. A folder without a seal, or that differs from it, was
not written completely.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOG = "trainer_state.json"
STATE_FILES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", LOG)
"""Transformers reads the pickles among them with `weights_only=True`, which runs no code."""
UNUSED_FILES = ("training_args.bin",)
"""A pickle that nothing reads."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """A folder with an adapter (or whole weights), and the number of optimizer steps that led to it."""

    folder: Path
    step: int

    @property
    def state(self) -> Path:
        """Folder with what is only needed to go on from here."""
        return self.folder.with_name(f"state-{self.step}")

    def logs(self) -> list[tuple[int, dict[str, Any]]]:
        """(step, what was logged) up to here."""
        history = json.loads((self.state / LOG).read_text(encoding="utf-8"))["log_history"]
        return [(entry["step"], {name: value for name, value in entry.items() if name != "step"}) for entry in history]


def complete(checkpoint: SavedCheckpoint) -> None:
    """Split what a trainer just wrote into model and state, seal both, and remove the states before it."""
    for name in UNUSED_FILES:
        (checkpoint.folder / name).unlink(missing_ok=True)
    checkpoint.state.mkdir(exist_ok=True)
    for name in STATE_FILES:
        if (checkpoint.folder / name).exists():
            (checkpoint.folder / name).replace(checkpoint.state / name)
    seal(checkpoint.state)
    seal(checkpoint.folder)  # Last, since a checkpoint without its state is of no use.
    for folder in checkpoint.folder.parent.glob("state-*/"):
        if folder != checkpoint.state:
            _remove(folder)


def sealed_checkpoints(folder: Path) -> list[SavedCheckpoint]:
    """The checkpoints that a training which was cut off can go on from, in order.

    None if one of them, or the last one's state, is not as it was sealed: then the training starts again.
    """
    names = [re.fullmatch(r"checkpoint-(\d+)\.json", path.name) for path in folder.glob("checkpoint-*.json")]
    steps = sorted(int(match[1]) for match in names if match)
    checkpoints = [SavedCheckpoint(folder / f"checkpoint-{step}", step) for step in steps]
    return checkpoints if all(map(is_whole, _folders(checkpoints))) else []


def remove_all_but(folder: Path, checkpoints: Sequence[SavedCheckpoint]) -> None:
    """Remove all from a training's folder except for these checkpoints, the last one's state, and their seals."""
    wanted = {path for each in _folders(checkpoints) for path in (each, _seal_of(each))}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path not in wanted:
            _remove(path)


def _folders(checkpoints: Sequence[SavedCheckpoint]) -> list[Path]:
    """What going on needs: all checkpoints' folders, and the state of the last one."""
    return [checkpoint.folder for checkpoint in checkpoints] + [checkpoint.state for checkpoint in checkpoints[-1:]]


def finish(checkpoint: SavedCheckpoint) -> None:
    """Remove the state of the last checkpoint of a training that has ended, except for its log."""
    for path in checkpoint.state.iterdir():
        if path.name != LOG:
            path.unlink()
    seal(checkpoint.state)


def resume_folder(checkpoint: SavedCheckpoint) -> Path:
    """Make a folder that transformers can go on from: the model and the state together, as links or copies."""
    target = checkpoint.folder.with_name("resume")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in (*checkpoint.folder.iterdir(), *checkpoint.state.iterdir()):
        try:
            os.link(path, target / path.name)
        except OSError:  # Not every file system has links.
            shutil.copy2(path, target / path.name)
    return target


def seal(folder: Path) -> None:
    """Write the SHA-256 of each file in a folder into the file that seals it."""
    text = json.dumps({path.name: _sha256(path) for path in sorted(folder.iterdir())}, indent=1)
    draft = _seal_of(folder).with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(_seal_of(folder))


def is_whole(folder: Path) -> bool:
    """Whether a folder is as it was sealed."""
    try:
        sealed = json.loads(_seal_of(folder).read_text(encoding="utf-8"))
        return bool({path.name: _sha256(path) for path in sorted(folder.iterdir())} == sealed)
    except (OSError, ValueError):
        return False


def size(folders: Iterable[Path]) -> int:
    """Bytes of all files in folders."""
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


def _seal_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    """Remove a file, or a folder with its seal; the seal first, so that a partial folder never counts as whole."""
    if path.is_dir() and not path.is_symlink():
        _seal_of(path).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
