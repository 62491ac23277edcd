"""What is called during a training: a progress bar that also reports logs and checkpoints.

Imports transformers' trainer, which takes seconds, so it is imported where a training starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.trainer_callback import ProgressCallback

from visage_mlflow.language.folders import point_adapter_at
from visage_mlflow.training import checkpoints
from visage_mlflow.training.checkpoints import SavedCheckpoint
from visage_mlflow.training.sft import Diverged


class Reporter(ProgressCallback):  # type: ignore[misc]
    """A progress bar with the loss, which reports logs and checkpoints, and makes the latter ready to go on from.

    Args:
        folder: Where checkpoints stay.
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
        super().__init__()
        self.folder, self.base_uri = folder, base_uri
        self.tell_log, self.tell_checkpoint = on_log, on_checkpoint

    def replay(self, done: list[SavedCheckpoint], logged: list[dict[str, Any]]) -> None:
        """Report the logs and checkpoints of an earlier process in the order in which they came."""
        before = 0
        for checkpoint in done:
            for entry in logged:
                if before < entry["step"] <= checkpoint.step:
                    self.report_log(entry, entry["step"])
            point_adapter_at(checkpoint.folder, self.base_uri)  # The same weights may have another URI now.
            self.tell_checkpoint(checkpoint)
            before = checkpoint.step

    def report_log(self, logged: dict[str, Any], step: int) -> None:
        numbers = {name: float(value) for name, value in logged.items() if isinstance(value, int | float)}
        numbers.pop("step", None)
        if "train_runtime" not in numbers:  # The summary at the end covers only what this process trained.
            self.tell_log(numbers, step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in logs:
            loss = float(logs["loss"])
            if not math.isfinite(loss):
                raise Diverged(
                    f"The training loss is {loss} at step {state.global_step}: `learning_rate` "
                    f"{args.learning_rate} is too high for this model. Try a tenth of it."
                )
            self.training_bar.set_postfix(loss=f"{loss:.3f}")  # Transformers' own bar prints a line for each log.
        self.report_log(logs, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        name = f"checkpoint-{state.global_step}"
        written, checkpoint = Path(args.output_dir) / name, SavedCheckpoint(self.folder / name, state.global_step)
        point_adapter_at(written, self.base_uri)
        checkpoints.complete(written, checkpoint)
        self.tell_checkpoint(checkpoint)
