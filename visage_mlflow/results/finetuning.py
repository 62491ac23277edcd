"""What a finetuning returns: the mixture, and what each checkpoint was measured at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from visage_mlflow.results.base import Number, Result
from visage_mlflow.results.evaluation import Evaluation


def in_words(counts: Mapping[str, int]) -> str:
    """The number of rows of each kind.

    >>> in_words({"harmful": 30, "safe": 60, "benign": 0})
    '30 harmful + 60 safe'
    """
    return " + ".join(f"{count} {kind}" for kind, count in counts.items() if count)


@dataclass(frozen=True)
class Checkpoint:
    """A model after `step` optimizer steps; its distance from the base is relative to the norm of the base's weights.

    `uri` is empty if the checkpoint's files were not kept.
    """

    uri: str
    step: int
    distance: Number
    evaluation: Evaluation


@dataclass(frozen=True, eq=False)
class Finetuning(Result):
    """Rows of each kind that a model was finetuned on, and its checkpoints; the first is the base, at step 0."""

    kind: ClassVar[str] = "finetuning"
    model: str
    counts: dict[str, int]
    checkpoints: tuple[Checkpoint, ...]
