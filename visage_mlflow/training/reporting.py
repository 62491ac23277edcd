"""What happens beside a training: its bar, its log, and what becomes of each checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from visage_mlflow.language.adapters import point_adapter_at
from visage_mlflow.text.errors import Mistake
from visage_mlflow.training import checkpoints
from visage_mlflow.training.checkpoints import Checkpoint


class Diverged(Mistake):
    """The loss is not finite, and would not be the next time."""


def quieten(trainer: Any) -> None:
    """Replace the bar that prints a line per log by one that only moves."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    class Bar(ProgressCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if self.training_bar is not None and logs and "loss" in logs:
                self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Bar)


def reporter(
    folder: Path,
    base_uri: str,
    on_log: Callable[[dict[str, float], int], None],
    on_checkpoint: Callable[[Checkpoint], None],
) -> Any:
    """A callback that tells of logs and checkpoints, and keeps the latter so that the training can go on from them.

    Its `replay` tells the same of what an earlier process did; `checkpoints` are all that there are so far.
    """
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.checkpoints: list[Checkpoint] = []

        def replay(self, done: list[Checkpoint]) -> None:
            logs = done[-1].logs() if done else []
            for checkpoint in done:
                for step, logged in [entry for entry in logs if entry[0] <= checkpoint.step]:
                    self.tell(logged, step)
                logs = [entry for entry in logs if entry[0] > checkpoint.step]
                point_adapter_at(checkpoint.folder, base_uri)  # The same weights may have another URI now.
                checkpoints.seal(checkpoint.folder)
                self.reached(checkpoint)

        def tell(self, logged: dict[str, Any], step: int) -> None:
            numbers = {name: float(value) for name, value in logged.items() if isinstance(value, int | float)}
            if "train_runtime" not in numbers:  # The summary at the end is of this process' part only.
                on_log(numbers, step)

        def reached(self, checkpoint: Checkpoint) -> None:
            self.checkpoints.append(checkpoint)
            on_checkpoint(checkpoint)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            loss = float((logs or {}).get("loss", 0.0))
            if not math.isfinite(loss):
                raise Diverged(
                    f"The training loss is {loss} at step {state.global_step}: `learning_rate` "
                    f"{args.learning_rate} is too high for this model. Try a tenth of it."
                )
            self.tell(logs or {}, state.global_step)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            checkpoint = Checkpoint(folder / f"checkpoint-{state.global_step}", state.global_step)
            point_adapter_at(checkpoint.folder, base_uri)
            checkpoints.keep(checkpoint)
            self.reached(checkpoint)

    return Reporter()
