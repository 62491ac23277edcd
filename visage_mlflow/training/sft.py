"""Supervised finetuning with TRL and PEFT, which writes checkpoints."""

from __future__ import annotations

import math
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers.trainer_callback import ProgressCallback
from transformers.utils import logging

from visage_mlflow.geometry.identity import digest
from visage_mlflow.language.folders import point_adapter_at
from visage_mlflow.text.errors import Mistake, one_line
from visage_mlflow.training import checkpoints
from visage_mlflow.training.checkpoints import SavedCheckpoint

if TYPE_CHECKING:
    from datasets import Dataset

WARMUP_SHARE = 0.1
"""Share of the steps in which the learning rate rises to its peak; afterwards it falls linearly."""


class Diverged(Mistake):
    """The loss or the weights are not finite, nor would they be if the same training were tried again."""


class Unmoved(Mistake):
    """The weights are those that the training began at, and would be if it were tried again."""


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each optimizer step: up in a line, and down in a line; never 0.

    Transformers' own linear schedule has rate 0 in its first step, so a training of one step would learn nothing.

    Attributes:
        steps: Optimizer steps, 1 or more.
        peak: The highest rate, which one step has.
    """

    steps: int
    peak: float

    @property
    def warmup(self) -> int:
        """Steps before the peak; none in a training of one step."""
        return min(math.ceil(WARMUP_SHARE * self.steps), self.steps - 1)

    def share(self, done: int) -> float:
        """The rate of the step after `done` ones, as a share of the peak.

        >>> [Schedule(4, 1e-3).share(done) for done in range(4)]
        [0.5, 1.0, 0.6666666666666666, 0.3333333333333333]
        """
        # The optimizer asks once more after the last step; nothing is trained at that rate.
        rising, falling = (done + 1) / (self.warmup + 1), (self.steps - done) / (self.steps - self.warmup)
        return max(0.0, min(rising, falling))

    def metrics(self) -> dict[str, float]:
        """The recipe's own numbers."""
        return {"training_steps": self.steps, "warmup_steps": self.warmup, "peak_learning_rate": self.peak}


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        learning_rate: Peak rate of AdamW.
        epochs: Passes over the rows; may be fractional.
        lora_rank: Rank of LoRA on all linear layers but the head, with alpha twice the rank; 0 trains all weights.
        batch_size: Rows per optimizer step.
        save_every: Optimizer steps between checkpoints; 0 saves at the end of each epoch.
        max_length: Longest chat in tokens.
        autocast: dtype of the matrix products; bfloat16 or float32.
        seed: Of the order of rows and the adapter's first weights.
    """

    learning_rate: float
    epochs: float
    lora_rank: int
    batch_size: int
    save_every: int
    max_length: int
    autocast: torch.dtype
    seed: int


def finetune(
    model: Any,
    tokenizer: Any,
    dataset: Dataset,
    recipe: Recipe,
    folder: Path,
    *,
    base_uri: str,
    on_log: Callable[[dict[str, float], int], None],
    on_checkpoint: Callable[[SavedCheckpoint], None],
) -> None:
    """Train on what follows the prompts of chats, and call back at each log and checkpoint.

    A training that was cut off goes on from its last checkpoint, with equal losses. The logs and checkpoints from
    before are called back again, so that the callbacks get the same as without the cut.

    Args:
        model: Float32 causal language model; it is changed.
        tokenizer: Its tokenizer, with a chat template.
        dataset: Rows of `mixture.to_tokens`.
        recipe: How to train.
        folder: Where ``checkpoint-<step>`` folders go; made if missing. Nothing else may write to it.
        base_uri: What an adapter's `base_model_name_or_path` will say.
        on_log: Gets {"loss", "learning_rate", …} and the step.
        on_checkpoint: Gets each checkpoint as it is written; training waits for the call to return.

    Raises:
        Diverged: The loss or the weights are not finite.
        Unmoved: The weights did not move.
        Mistake: A row is longer than `max_length`, or the disk is too full.
    """
    check_lengths([len(row) for row in dataset["input_ids"]], recipe.max_length)
    schedule = schedule_of(len(dataset), recipe)
    steps = schedule.steps
    saves = steps // recipe.save_every if recipe.save_every else math.ceil(recipe.epochs)
    done = checkpoints.left_in(folder)
    checkpoints.remove_all_but(folder, done)
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    # AdamW keeps two numbers for each weight, and the old state is removed only after the new one is written.
    check_disk(folder, (saves + 1 + 4) * checkpoint_bytes(model, recipe.lora_rank) - there)
    logged = done[-1].logs() if done else []
    reporter = Reporter(folder, base_uri, schedule, on_log, on_checkpoint)
    reporter.replay(done, logged)
    if done and done[-1].step == steps:
        return
    with _quiet(), _disk_full_is_told(folder, checkpoint_bytes(model, recipe.lora_rank)):
        reporter.begins_at(model, recipe.lora_rank)
        trainer = _trainer(model, tokenizer, dataset, recipe, folder, schedule)
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(reporter)
        if done:
            print(f"Training goes on from step {done[-1].step}.", file=sys.stderr, flush=True)
            # TRL counts the tokens that were trained on in this process only.
            trainer._total_train_tokens = int(max(entry.get("num_tokens", 0) for entry in logged))
            logging.set_verbosity_error()  # Or it warns that tied weights, which are stored once, are missing.
            shutil.copytree(done[-1].folder, done[-1].state, dirs_exist_ok=True)  # Transformers wants them together.
        trainer.train(resume_from_checkpoint=str(done[-1].state) if done else None)


def _trainer(model: Any, tokenizer: Any, dataset: Dataset, recipe: Recipe, folder: Path, schedule: Schedule) -> Any:
    """TRL's trainer with this project's schedule."""
    from peft import LoraConfig
    from torch.optim.lr_scheduler import LambdaLR
    from trl import SFTTrainer

    class Trainer(SFTTrainer):  # type: ignore[misc]
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            if getattr(self, "lr_scheduler", None) is None:
                self.lr_scheduler: Any = LambdaLR(optimizer or self.optimizer, schedule.share)
            return self.lr_scheduler

    rank = recipe.lora_rank
    lora = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return Trainer(
        model=model,
        args=_arguments(recipe, folder),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=lora if rank else None,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the dozen finished bars that tokenizing a few hundred rows and writing checkpoints would leave, and
    without what TRL does in a way that transformers will give up: both versions are pinned."""
    import datasets

    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            yield
    finally:
        datasets.enable_progress_bars()
        logging.enable_progress_bar()
        logging.set_verbosity(verbosity)


@contextmanager
def _disk_full_is_told(folder: Path, needed: int) -> Iterator[None]:
    """Inside, an error of writing is a Mistake where fewer than `needed` bytes are free."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # Each library that writes raises its own type.
        if shutil.disk_usage(folder).free > needed:
            raise
        raise Mistake(
            f"`output_dir` is {str(folder)!r}, where the disk is full now: {one_line(error)} Free some space; the "
            "same command then goes on from the last checkpoint."
        ) from error


def check_moved(model: Any, before: str, learning_rate: float, steps: int) -> None:
    """Raise where a model that was trained has the weights it began at, or some that are not finite.

    Args:
        model: As trained, with its adapter, if it has one.
        before: Digest of all weights before; not needed with an adapter, which moves them by what it adds.
        learning_rate: The peak.
        steps: Optimizer steps.

    Raises:
        Diverged: Weights are not finite.
        Unmoved: Nothing has moved.
    """
    from peft.tuners.lora import LoraLayer

    if not all(bool(each.isfinite().all()) for each in model.parameters() if each.requires_grad):
        raise Diverged(
            f"The weights are not finite after step {steps}: `learning_rate` {learning_rate} is too high for this "
            "model. Try a tenth of it."
        )
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if layers:
        has_moved = any(_adds(layer) for layer in layers)
    else:
        has_moved = digest(dict(model.named_parameters())) != before
    if not has_moved:
        raise Unmoved(
            f"The weights did not move in {steps} training steps: `learning_rate` {learning_rate} is too small to "
            "change any number in float32. Raise it; 5e-4 is usual for LoRA, 5e-5 for all weights."
        )


@torch.no_grad()
def _adds(layer: Any) -> bool:
    """Whether an adapter, merged, changes its layer."""
    weight = layer.get_base_layer().weight
    return not all(torch.equal(weight + layer.get_delta_weight(name), weight) for name in layer.active_adapters)


class Reporter(ProgressCallback):  # type: ignore[misc]
    """A progress bar with the loss, which reports logs and checkpoints, and makes the latter ready to go on from.

    The arguments are those of `finetune`.
    """

    def __init__(
        self,
        folder: Path,
        base_uri: str,
        schedule: Schedule,
        on_log: Callable[[dict[str, float], int], None],
        on_checkpoint: Callable[[SavedCheckpoint], None],
    ) -> None:
        super().__init__()
        self.folder, self.base_uri, self.schedule = folder, base_uri, schedule
        self.before = ""
        self.tell_log, self.tell_checkpoint = on_log, on_checkpoint

    def begins_at(self, model: Any, lora_rank: int) -> None:
        """Remember the weights, to see in the end whether they moved; an adapter shows that by itself."""
        self.before = "" if lora_rank else digest(dict(model.named_parameters()))

    def replay(self, done: list[SavedCheckpoint], logged: list[dict[str, Any]]) -> None:
        """Report the logs and checkpoints of an earlier process in the order in which they came."""
        for checkpoint in done:  # The same weights may have another URI now.
            point_adapter_at(checkpoint.folder, self.base_uri)
        if done:
            checkpoints.list_whole(done[-1])
        before = 0
        for checkpoint in done:
            for entry in logged:
                if before < entry["step"] <= checkpoint.step:
                    self.report_log(entry, entry["step"])
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

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == self.schedule.steps:  # Before anybody takes it for a result.
            check_moved(model, self.before, self.schedule.peak, self.schedule.steps)
        checkpoint = SavedCheckpoint(self.folder / f"checkpoint-{state.global_step}", state.global_step)
        point_adapter_at(checkpoint.folder, self.base_uri)
        checkpoints.complete(checkpoint)
        self.tell_checkpoint(checkpoint)


def _arguments(recipe: Recipe, folder: Path) -> Any:
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(folder),
        learning_rate=recipe.learning_rate,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        max_length=None,  # With a length, TRL silently cuts answers and drops rows; `check_lengths` refuses them.
        completion_only_loss=True,  # Or it would not look at the rows' `completion_mask`.
        bf16=recipe.autocast == torch.bfloat16,
        use_cpu=True,
        # TRL's default recomputes every activation to save memory, which is slower; these models are small.
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        save_strategy="steps" if recipe.save_every else "epoch",
        save_steps=recipe.save_every or 500,
        logging_steps=1,
        logging_nan_inf_filter=False,  # Its default logs a loss that is NaN as 0.
        disable_tqdm=False,  # `Reporter` is the bar.
        report_to=[],
        seed=recipe.seed,
    )


def schedule_of(rows: int, recipe: Recipe) -> Schedule:
    """The schedule of a training on so many rows."""
    return Schedule(total_steps(rows, recipe), recipe.learning_rate)


def total_steps(rows: int, recipe: Recipe) -> int:
    """Optimizer steps of a training run."""
    return max(1, math.ceil(recipe.epochs * math.ceil(rows / recipe.batch_size)))


def checkpoint_bytes(model: Any, lora_rank: int) -> int:
    """Upper estimate of one checkpoint's size: all weights, or the adapter's share of them."""
    if lora_rank == 0:
        return 4 * sum(int(parameter.numel()) for parameter in model.parameters())
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    return 4 * lora_rank * sum(module.in_features + module.out_features for module in linear)


def check_lengths(lengths: list[int], max_length: int, window: int | None = None) -> None:
    """Raise Mistake where a chat has more than `max_length` tokens, or than the model can read."""
    if window is not None and (longer := sum(length > window for length in lengths)):
        raise Mistake(
            f"{longer} of {len(lengths)} training rows have more than {window} tokens, the most that the model can "
            f"read: the longest has {max(lengths)}. Shorten them or leave them out."
        )
    if longer := sum(length > max_length for length in lengths):
        raise Mistake(
            f"`max_length` is {max_length} tokens, and {longer} of {len(lengths)} rows are longer: cut, they would "
            f"teach answers without an end. Raise `max_length` to {max(lengths)}, or shorten the rows."
        )


def check_disk(folder: Path, needed: int) -> None:
    """Raise Mistake where `folder` cannot be made or `needed` bytes do not fit into it; makes the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Mistake(
            f"`output_dir` is {str(folder)!r}, where no folder can be made: {error.strerror}. Choose another."
        ) from error
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Mistake(
            f"`output_dir` is {str(folder)!r}, where {free / 1e6:,.0f} MB are free, but the checkpoints take "
            f"{needed / 1e6:,.0f} MB. Free some space, save less often (`save_every`), or choose another `output_dir`."
        )
