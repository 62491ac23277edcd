"""Finetunings that were tracked, as later steps need them."""

from __future__ import annotations

from dataclasses import dataclass

from visage_mlflow.results.finetuning import in_words
from visage_mlflow.text.errors import Mistake
from visage_mlflow.tracking import client

KINDS = ("finetune", "trial")
"""Kinds of runs that finetune."""


@dataclass(frozen=True)
class FinetuneRun:
    """What later steps need of a finetune run: its base, its checkpoints' URIs by training step, and its data."""

    id: str
    model: str
    checkpoints: tuple[tuple[str, int], ...]
    name: str = ""

    @property
    def uris(self) -> list[str]:
        """Of the checkpoints, in order."""
        return [uri for uri, _ in self.checkpoints]


def look_up(run_id: str, setting: str = "run") -> FinetuneRun:
    """Look up a finetune run, or a trial of a search, and its checkpoints, in order of training.

    Raises:
        ValueError: There is no such run, it is not a finetune run, or it has no checkpoints.
    """
    kind, checkpoints = client.find(run_id, setting)
    if kind not in KINDS:
        raise Mistake(
            f"`{setting}` is {run_id!r}, which is no finetune run but {kind}. Give the id of a finetune run."
        )
    if not checkpoints:
        raise Mistake(
            f"`{setting}` is {run_id!r}, which has no checkpoints (status {client.status_of(run_id)}). Finetune again."
        )
    settings = client.settings_of(run_id)
    counts = {kind: settings[kind] for kind in ("harmful", "safe", "benign", "task")}
    return FinetuneRun(run_id, settings["model"], checkpoints, in_words(counts))
