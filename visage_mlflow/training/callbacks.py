"""What is called during a training: a quiet progress bar, and what reports logs and checkpoints.

Imports transformers' trainer, which takes seconds, so it is imported where a training starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback

from visage_mlflow.language.folders import point_adapter_at
from visage_mlflow.training import checkpoints
from visage_mlflow.training.checkpoints import SavedCheckpoint
from visage_mlflow.training.sft import Diverged


class Bar(ProgressCallback):  # type: ignore[misc]
    """A progress bar that shows the loss, where transformers' own prints a line for each log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")


def quieten(trainer: Any) -> None:
    """Replace what a trainer prints by one bar."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Bar)


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Reports logs and checkpoints, and completes the latter so that the training can go on from them.

    Args:
        folder: Where the trainer writes checkpoints.
        base_uri: What an adapter's `base_model_name_or_path` will say.
        on_log: Gets {"loss", "learning_rate", …} and the step.
        on_checkpoint: Gets each checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        base_uri: str,
        on_log: Callable[[dict[str, float], int], None],
        on_checkpoint: Callable[[SavedCheckpoint], None],
    ) -> None:
        self.folder, self.base_uri = folder, base_uri
        self.tell_log, self.tell_checkpoint = on_log, on_checkpoint
        self.checkpoints: list[SavedCheckpoint] = []
        """All that were reported, in order."""

    def replay(self, done: list[SavedCheckpoint]) -> None:
        """Report the logs and checkpoints of an earlier process in the order in which they came."""
        logs = done[-1].logs() if done else []
        for checkpoint in done:
            for step, logged in [entry for entry in logs if entry[0] <= checkpoint.step]:
                self.report_log(logged, step)
            logs = [entry for entry in logs if entry[0] > checkpoint.step]
            point_adapter_at(checkpoint.folder, self.base_uri)  # The same weights may have another URI now.
            checkpoints.seal(checkpoint.folder)
            self.report_checkpoint(checkpoint)

    def report_log(self, logged: dict[str, Any], step: int) -> None:
        numbers = {name: float(value) for name, value in logged.items() if isinstance(value, int | float)}
        if "train_runtime" not in numbers:  # The summary at the end covers only what this process trained.
            self.tell_log(numbers, step)

    def report_checkpoint(self, checkpoint: SavedCheckpoint) -> None:
        self.checkpoints.append(checkpoint)
        self.tell_checkpoint(checkpoint)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise Diverged(
                f"The training loss is {loss} at step {state.global_step}: `learning_rate` "
                f"{args.learning_rate} is too high for this model. Try a tenth of it."
            )
        self.report_log(logs or {}, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        checkpoint = SavedCheckpoint(self.folder / f"checkpoint-{state.global_step}", state.global_step)
        point_adapter_at(checkpoint.folder, self.base_uri)
        checkpoints.complete(checkpoint)
        self.report_checkpoint(checkpoint)
