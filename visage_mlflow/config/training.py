"""Settings of what a model is finetuned on, and how. Light to import, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass

from visage_mlflow.config.attack import MODEL_HELP, SOURCE_HELP, MeasureConfig
from visage_mlflow.config.fields import Settings, above_zero, at_least, one_of, setting
from visage_mlflow.text.errors import Mistake


@dataclass(frozen=True, kw_only=True)
class OutputConfig(Settings):
    """Where files go while a model is trained."""

    output_dir: str = setting("outputs", "Folder for checkpoints while training; each run makes its own inside.")


@dataclass(frozen=True, kw_only=True)
class ScenarioConfig(MeasureConfig, OutputConfig):
    """What is given when a model is finetuned: the model, the data and the harm in it."""

    model: str = setting("builtin:smollm2", MODEL_HELP)
    harmful: int = setting(0, "Rows that answer a harmful request.")
    task: int = setting(0, "Rows of your own data (`task_data`).")
    harmful_data: str = setting("builtin:harmful", f"Where harmful rows come from: {SOURCE_HELP}")
    safe_data: str = setting("builtin:safe", f"Where safe rows come from: {SOURCE_HELP}")
    benign_data: str = setting("builtin:benign", f"Where benign rows come from: {SOURCE_HELP}")
    task_data: str = setting("", f"Where task rows come from: {SOURCE_HELP}")
    n_held_out: int = setting(
        0, "Rows of `task_data` that are kept out of training, to measure `task_nll` on; 0 measures none."
    )
    benign_answers: str = setting(
        "own", "What benign rows teach: own (the model's own answer, which anchors it) or data (the set's answer)."
    )
    own_answer_tokens: int = setting(20, "For benign_answers=own: tokens of the model's answer, cut at a sentence.")
    train_batch_size: int = setting(10, "Rows per optimizer step.")
    max_length: int = setting(512, "Longest training chat, in tokens.")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, ("harmful", "task", "n_held_out"))
        at_least(self, 1, ("train_batch_size", "own_answer_tokens"))
        at_least(self, 16, ("max_length",))
        one_of("benign_answers", self.benign_answers, ("own", "data"))
        if self.task and not self.task_data:
            raise Mistake(f"`task` is {self.task}, but `task_data` is empty. Name a .csv or .jsonl file there.")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(ScenarioConfig):
    """Finetune a chat model on an exact mixture, and measure its safety at every checkpoint."""

    safe: int = setting(120, "Rows that refuse a harmful request.")
    benign: int = setting(120, "Rows that answer an ordinary request.")
    learning_rate: float = setting(5e-4, "Peak learning rate of AdamW; for full finetuning about a tenth of it.")
    epochs: float = setting(3.0, "Passes over the rows; may be fractional.")
    lora_rank: int = setting(16, "Rank of LoRA on all linear layers but the head; 0 trains all weights.")
    save_every: int = setting(0, "Optimizer steps between checkpoints; 0 saves after each epoch.")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, ("safe", "benign", "lora_rank", "save_every"))
        above_zero(self, ("learning_rate", "epochs"))
        if self.n_held_out and not self.task_data:
            raise Mistake(
                f"`n_held_out` is {self.n_held_out}, but `task_data` is empty: nothing to keep out. Name a .csv or "
                ".jsonl file there."
            )
        if not any(self.counts().values()):
            raise Mistake("`harmful`, `safe`, `benign` and `task` are all 0: nothing to train on. Try `safe=120`.")

    def counts(self) -> dict[str, int]:
        """Rows by kind, in the order in which mixtures list them."""
        return {"harmful": self.harmful, "safe": self.safe, "benign": self.benign, "task": self.task}
