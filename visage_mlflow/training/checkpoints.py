"""What a training leaves on disk so that it goes on after a kill: whole checkpoints, and the state of the last one.

In the folder of a training, ``checkpoint-<step>`` holds a model and nothing else, ``state-<step>`` what only going on
needs (optimizer, schedule, random numbers, log), and ``<either>.json`` seals it: the SHA-256 of each file in it. What
has no seal, or is not as it was sealed, was cut off.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOG = "trainer_state.json"
STATE_FILES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", LOG)
"""Read back by transformers with `weights_only=True`, which runs no code."""
UNUSED_FILES = ("training_args.bin",)
"""A pickle that nobody reads."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder with an adapter (or whole weights), and the number of optimizer steps behind it."""

    folder: Path
    step: int

    @property
    def state(self) -> Path:
        """Folder of what going on from here needs."""
        return self.folder.with_name(f"state-{self.step}")

    def logs(self) -> list[tuple[int, dict[str, Any]]]:
        """(step, what was logged) up to here."""
        history = json.loads((self.state / LOG).read_text(encoding="utf-8"))["log_history"]
        return [(entry["step"], {name: value for name, value in entry.items() if name != "step"}) for entry in history]


def keep(checkpoint: Checkpoint) -> None:
    """Seal a checkpoint that was just written, with its state, and drop the states of earlier ones."""
    for name in UNUSED_FILES:
        (checkpoint.folder / name).unlink(missing_ok=True)
    checkpoint.state.mkdir(exist_ok=True)
    for name in STATE_FILES:
        if (checkpoint.folder / name).exists():
            (checkpoint.folder / name).replace(checkpoint.state / name)
    seal(checkpoint.state)
    seal(checkpoint.folder)  # Last: a sealed checkpoint without its state would not do.
    for folder in checkpoint.folder.parent.glob("state-*/"):
        if folder != checkpoint.state:
            _remove(folder)


def found(folder: Path) -> list[Checkpoint]:
    """The checkpoints of a training that was cut off, in order, the last one with its state; removes all else.

    None if one of them, or that state, is not as it was sealed: then the training begins anew.
    """
    numbered = [
        (re.fullmatch(r"checkpoint-(\d+)\.json", path.name), path) for path in folder.glob("checkpoint-*.json")
    ]
    steps = sorted(int(match[1]) for match, _ in numbered if match)
    checkpoints = [Checkpoint(folder / f"checkpoint-{step}", step) for step in steps]
    kept = [checkpoint.folder for checkpoint in checkpoints] + [checkpoint.state for checkpoint in checkpoints[-1:]]
    if not all(map(is_whole, kept)):
        checkpoints, kept = [], []
    wanted = {path.name for each in kept for path in (each, _seal_of(each))}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name not in wanted:
            _remove(path)
    return checkpoints


def finish(checkpoint: Checkpoint) -> None:
    """Drop what going on from the last checkpoint would need; its log stays."""
    for path in checkpoint.state.iterdir():
        if path.name != LOG:
            path.unlink()
    seal(checkpoint.state)


def resumable(checkpoint: Checkpoint) -> Path:
    """A folder that transformers can go on from: the model and the state together, as links or copies."""
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
    """Note the SHA-256 of each file in a folder, beside it."""
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
    """Remove a file, or a folder with its seal; the seal first, so that half a folder never counts as whole."""
    if path.is_dir() and not path.is_symlink():
        _seal_of(path).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
