"""Outboxes that processes left behind: what runs miss on the tracking server, and how it gets there after all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from visage_mlflow.text.errors import Mistake
from visage_mlflow.text.folders import cache_folder
from visage_mlflow.tracking.outages import reason
from visage_mlflow.tracking.outbox import Outbox, Send, read, say
from visage_mlflow.tracking.processes import is_gone, is_here, this_process

NOT_UPLOADED = 3
"""Exit status of a process that did its work, but could not bring all of it to the tracking server."""

_left: list[Path] = []


@dataclass(frozen=True)
class Upload:
    """What became of an outbox: how many operations were sent, and why others were not ("" if all were)."""

    run: str
    n_sent: int
    folder: Path
    remark: str = ""


def root() -> Path:
    """The folder of all outboxes, one for each top-level run."""
    return cache_folder() / "outbox"


def leave(folder: Path) -> None:
    """Say that a run ended whose outbox is not empty: the process must not end as if all were well."""
    _left.append(folder)
    say(f"Not all of the run is on the tracking server; the rest is in {folder}. To send it: visage upload")


def exit_status() -> int:
    """What a process that did its work ends with: 0, or 3 if something of it was left in an outbox."""
    return NOT_UPLOADED if _left else 0


def waiting() -> set[str]:
    """Ids of the runs about which something is kept on this machine."""
    operations = [read(path) for path in root().glob("*/[0-9]*/operation.json")]
    return {operation["run"] for operation in operations if "run" in operation}


def upload(place: str, send: Send, ended: Callable[[str], None]) -> list[Upload]:
    """Send what is in the outboxes of processes that ended.

    Args:
        place: The tracking server, without a password.
        send: Does an operation.
        ended: Told of each run whose process was killed before it could end it, when all of it is there.

    Raises:
        ValueError: Some are for another tracking server; the others were sent.
    """
    done, strangers = [], {}
    for folder in sorted(path.parent for path in root().glob("*/outbox.json")):
        if place_of(folder) != place:
            strangers[folder] = place_of(folder)
        else:
            done.append(_lives(folder) or _upload(folder, place, send, ended))
    if strangers:
        folder, other = next(iter(strangers.items()))
        raise Mistake(
            f"{folder} is for MLFLOW_TRACKING_URI={other}, but MLFLOW_TRACKING_URI is {place} "
            f"({len(strangers)} such, {len(done)} others looked at). Set it to {other}, and upload again."
        )
    return done


def place_of(folder: Path) -> str:
    """The tracking server that an outbox is for."""
    return str(read(folder / "outbox.json").get("tracking_uri", ""))


def _lives(folder: Path) -> Upload | None:
    process = read(folder / "outbox.json")["process"]
    if process == this_process() or not is_here(process) or is_gone(process):
        return None
    return Upload(folder.name, 0, folder, f"its process, {process['pid']}, still runs and sends it itself")


def _upload(folder: Path, place: str, send: Send, ended: Callable[[str], None]) -> Upload:
    box = Outbox(folder, place, send)
    kept = box.kept()
    runs = {operation["run"] for operation in map(_operation, kept) if "run" in operation}
    closed = {operation["run"] for operation in map(_operation, kept) if operation["do"] == "end"}
    remark, is_over = "", False
    while not is_over:
        try:
            is_over = True
            if not box.flush(0):
                remark = "the tracking server is away"
        except Exception as error:  # Of one operation, which was put aside; the others follow.
            remark, is_over = f"refused: {reason(error)}", False
    n_sent = len(kept) - len(box.kept()) - len(list(folder.glob("refused-*")))
    if not remark:
        for run in sorted(runs - closed):
            ended(box.real(run))
    box.close()
    return Upload(folder.name, n_sent, folder, remark)


def _operation(entry: Path) -> dict[str, str]:
    return read(entry / "operation.json")
