"""Settings that only cost time, memory and disk. In bfloat16 `batch_size` may still move the last bit of a number."""

from __future__ import annotations

from dataclasses import dataclass

from visage_mlflow.config.fields import MOST_WORKERS, Settings, setting


@dataclass(frozen=True, kw_only=True)
class ComputeConfig(Settings):
    """How measuring spends time, memory and disk."""

    batch_size: int = setting(80, "Prompts answered at once.", least=1, most=100_000)
    store: str = setting(
        "", "Folder that keeps computed points. Empty: VISAGE_STORE, or the user's cache folder; off: none."
    )
    reuse: bool = setting(True, "Read points that the store has; false computes them anew and counts what differs.")
    lean: bool = setting(False, "Save memory rather than time: no second copy of weights, directions drawn anew.")


@dataclass(frozen=True, kw_only=True)
class WorkersConfig(ComputeConfig):
    """How the points of a grid share the machine."""

    workers: int = setting(
        0,
        "Points measured at once, each on its own copy of the model. 0: one a core, at most 4; 1 if `lean`.",
        least=0,
        most=MOST_WORKERS,
    )
