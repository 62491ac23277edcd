"""What finetuning returns: the mixture, and the safety of each checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from visage_mlflow.results.base import Number, Result
from visage_mlflow.results.evaluation import Evaluation


def in_words(counts: Mapping[str, int]) -> str:
    """Rows by kind.

    >>> in_words({"harmful": 30, "safe": 60, "benign": 0})
    '30 harmful + 60 safe'
    """
    return " + ".join(f"{count} {kind}" for kind, count in counts.items() if count)


@dataclass(frozen=True)
class Checkpoint:
    """A finetuned model after some optimizer steps; `distance` from the base is relative to the base's norm.

    `uri` is empty where the files were not kept.
    """

    uri: str
    step: int
    distance: Number
    evaluation: Evaluation


@dataclass(frozen=True, eq=False)
class Finetuning(Result):
    """What a finetuning was made of, and the safety of its checkpoints; the first is the base, at step 0."""

    kind: ClassVar[str] = "finetuning"
    model: str
    counts: dict[str, int]
    checkpoints: tuple[Checkpoint, ...]
