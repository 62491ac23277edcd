"""What the tracking server could not take while it was away: kept on disk, in order, until it can.

An entry is a folder with ``operation.json`` and, where files belong to it, ``payload``. A run or model that could not
be made is called by an id made up here; the server's own takes its place in all that is sent later.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from visage_mlflow.text.printing import tell
from visage_mlflow.tracking.outages import Away
from visage_mlflow.tracking.processes import this_process

Operation = dict[str, Any]
"""What to do (`do`), with which run or model, and numbers and texts, all of which JSON can hold."""
Send = Callable[[Operation, Path | None], str]
"""Does an operation, with the file or folder that belongs to it; returns the id of what it made, or ""."""

LONGEST_PAUSE = 60.0
"""Seconds between two tries, at most."""
WITH_IDS = (".json", ".jsonl", ".md", ".txt", ".csv", ".html", ".yaml")
"""Files in whose text a made-up id is replaced."""


class Outbox:
    """The operations of a process on the server, in order.

    Args:
        folder: Made when something must be kept.
        place: The tracking server, without a password.
        send: Does an operation. Raises `Away`; any other error is about the operation itself.
    """

    def __init__(self, folder: Path, place: str, send: Send) -> None:
        self.folder = folder
        self.place = place
        self._send = send
        self._lock = threading.RLock()
        self._names: dict[str, str] = read(folder / "names.json")
        if folder.exists():  # A process that died left it, and this one goes on with its run.
            _write(folder / "outbox.json", {"tracking_uri": place, "process": this_process()})
        self._pause = 1.0
        self._next_try = 0.0

    def put(self, operation: Operation, payload: Path | None = None) -> str:
        """Do an operation, or keep it, with a copy of its file or folder, where the server is away.

        Returns:
            The id of what was made, which is the one that the operation brought where it waits; or "".
        """
        with self._lock:
            if not self.kept():
                try:
                    return self._deliver(operation, payload)
                except Away as away:
                    self._keep(operation, payload)
                    self._pause = 1.0
                    self._next_try = time.monotonic() + self._pause
                    say(f"The tracking server is away ({away}). What it misses is kept in {self.folder}.")
            else:
                self._keep(operation, payload)
                if time.monotonic() >= self._next_try:
                    self._try()
            name: str = operation.get("id", "")
            return self.real(name)

    def flush(self, seconds: float) -> bool:
        """Send all that is kept, trying for some seconds; whether nothing is left."""
        deadline = time.monotonic() + seconds
        self._pause = 0.5
        while not self._try():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(self._pause, left))
        return True

    def close(self) -> None:
        """Remove the folder, unless something is left in it."""
        if self.folder.exists() and not self.kept() and not list(self.folder.glob("refused-*")):
            shutil.rmtree(self.folder)

    def kept(self) -> list[Path]:
        """The entries that wait, in order."""
        return sorted(path.parent for path in self.folder.glob("[0-9]*/operation.json"))

    def real(self, name: str) -> str:
        """The server's id of a run or model, as far as it is known."""
        return self._names.get(name, name)

    def files_of(self, model: str) -> Path | None:
        """The folder of a model's files, if they were kept here."""
        for path in sorted(self.folder.glob("[0-9]*")):
            content = read(path / "operation.json") or read(path / "done.json")
            if content.get("do") == "model files" and self.real(content["model"]) == self.real(model):
                return path / "payload"
        return None

    def _try(self) -> bool:
        """Send what is kept, until the server is away."""
        with self._lock:
            entries = self.kept()
            for entry in entries:
                operation = read(entry / "operation.json")
                try:
                    if "id" not in operation or operation["id"] not in self._names:
                        made = self._deliver(operation, _payload(entry, operation))
                        if made:
                            self._names[operation["id"]] = made
                            _write(self.folder / "names.json", self._names)
                except Away:
                    self._pause = min(LONGEST_PAUSE, 2 * self._pause)
                    self._next_try = time.monotonic() + self._pause
                    return False
                except Exception as error:
                    _write(entry / "reason.json", {"reason": " ".join(str(error).split())})
                    entry.rename(entry.with_name(f"refused-{entry.name}"))  # It must not hold up the others.
                    raise
                _settle(entry, operation)
            if entries:
                say("The tracking server is back, and has all that was kept.")
            return True

    def _deliver(self, operation: Operation, payload: Path | None) -> str:
        if not self._names:
            return self._send(operation, payload)
        with tempfile.TemporaryDirectory(prefix="visage-") as folder:
            if payload and payload.suffix in WITH_IDS:
                text = payload.read_text(encoding="utf-8")
                payload = Path(folder) / payload.name
                payload.write_text(self._with_names(text), encoding="utf-8")
            return self._send(json.loads(self._with_names(json.dumps(operation))), payload)

    def _with_names(self, text: str) -> str:
        for name, real in self._names.items():
            text = text.replace(name, real)
        return text

    def _keep(self, operation: Operation, payload: Path | None) -> None:
        if not self.folder.exists():
            self.folder.mkdir(parents=True, mode=0o700)
            _write(self.folder / "outbox.json", {"tracking_uri": self.place, "process": this_process()})
        numbers = [int(path.name.rpartition("-")[2]) for path in self.folder.glob("*[0-9]") if path.is_dir()]
        number = 1 + max(numbers, default=0)
        entry = Path(tempfile.mkdtemp(prefix="new-", suffix=".part", dir=self.folder))
        if payload and payload.is_dir():
            shutil.copytree(payload, entry / "payload")
        elif payload:
            (entry / "payload").mkdir()
            shutil.copyfile(payload, entry / "payload" / payload.name)
        for path in [path for path in entry.rglob("*") if path.is_file()]:
            _sync(path)
        _write(entry / "operation.json", {**operation, "has_file": bool(payload and payload.is_file())})
        entry.rename(self.folder / f"{number:06d}")
        _sync(self.folder)


_opened: list[Outbox] = []


@contextmanager
def opened(box: Outbox) -> Iterator[Outbox]:
    """Inside, this is where what this process sends goes through."""
    _opened.append(box)
    try:
        yield box
    finally:
        _opened.remove(box)


def current() -> Outbox | None:
    """The one that is open in this process."""
    return _opened[-1] if _opened else None


def settle() -> None:
    """Send all that waits, before something is asked about it.

    Raises:
        Away: The server is away.
    """
    if _opened and not _opened[-1].flush(0):
        raise Away("what was not sent yet must go first")


def files_of(model: str) -> Path | None:
    """The folder of a model's files, if the open outbox has them."""
    return _opened[-1].files_of(model) if _opened else None


def say(line: str) -> None:
    """Tell the user."""
    tell(line, sys.stderr)


def _payload(entry: Path, operation: Operation) -> Path | None:
    payload = entry / "payload"
    if not payload.exists():
        return None
    return next(payload.iterdir()) if operation["has_file"] else payload


def _settle(entry: Path, operation: Operation) -> None:
    """Take a sent operation out of the line. A model's files stay to the end: they may be loaded from here."""
    if operation["do"] == "model files":
        (entry / "operation.json").rename(entry / "done.json")
    else:
        (entry / "operation.json").unlink()
        shutil.rmtree(entry)


def read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    """A whole file, or none."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content), encoding="utf-8")
    _sync(part)
    part.replace(path)


def _sync(path: Path) -> None:
    """Have a file or folder on the disk before what comes next."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
