"""Settings of what a model is finetuned on, and how. Light to import, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass

from visage_mlflow.config.attack import MODEL_HELP, SOURCE_HELP, MeasureConfig
from visage_mlflow.config.fields import MOST_ROWS, MOST_TOKENS, Settings, setting
from visage_mlflow.text.errors import Mistake

LEAST_RATE = 1e-8
"""AdamW moves a weight by about the rate in each step: by less, a number of usual size does not change in float32."""


@dataclass(frozen=True, kw_only=True)
class OutputConfig(Settings):
    """Where files go while a model is trained."""

    output_dir: str = setting("outputs", "Folder for checkpoints while training; each run makes its own inside.")


@dataclass(frozen=True, kw_only=True)
class ScenarioConfig(MeasureConfig, OutputConfig):
    """What is given when a model is finetuned: the model, the data, harmful rows included."""

    model: str = setting("builtin:smollm2", MODEL_HELP)
    harmful: int = setting(0, "Rows that answer a harmful request.", least=0, most=MOST_ROWS)
    task: int = setting(0, "Rows of your own data (`task_data`).", least=0, most=MOST_ROWS)
    harmful_data: str = setting("builtin:harmful", f"Where harmful rows come from: {SOURCE_HELP}")
    safe_data: str = setting("builtin:safe", f"Where safe rows come from: {SOURCE_HELP}")
    benign_data: str = setting("builtin:benign", f"Where benign rows come from: {SOURCE_HELP}")
    task_data: str = setting("", f"Where task rows come from: {SOURCE_HELP}")
    n_held_out: int = setting(
        0,
        "Rows of `task_data` that are kept out of training, to measure `task_nll` on; 0 measures none.",
        least=0,
        most=MOST_ROWS,
    )
    benign_answers: str = setting(
        "own",
        "What benign rows teach: own (the model's own answer, which anchors it) or data (the set's answer).",
        choices=("own", "data"),
    )
    own_answer_tokens: int = setting(
        20,
        "For benign_answers=own: tokens of the model's answer, up to the last sentence end within them, or else the "
        "first one within four times as many; without one the row keeps the set's answer.",
        least=1,
        most=MOST_TOKENS // 4,
    )
    allow_overlap: bool = setting(
        False, "Train although rows are (nearly) evaluation prompts; how many is on the run as `overlap`."
    )
    train_batch_size: int = setting(10, "Rows per optimizer step.", least=1, most=100_000)
    max_length: int = setting(512, "Longest training chat, in tokens.", least=16, most=1_048_576)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task and not self.task_data:
            raise Mistake(f"`task` is {self.task}, but `task_data` is empty. Name a .csv or .jsonl file there.")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(ScenarioConfig):
    """Finetune a chat model on an exact mixture, and measure its safety at every checkpoint."""

    safe: int = setting(120, "Rows that refuse a harmful request.", least=0, most=MOST_ROWS)
    benign: int = setting(120, "Rows that answer an ordinary request.", least=0, most=MOST_ROWS)
    learning_rate: float = setting(
        5e-4,
        "Peak learning rate of AdamW; for full finetuning about a tenth of it.",
        least=LEAST_RATE,
        most=10.0,
    )
    epochs: float = setting(3.0, "Passes over the rows; may be fractional.", above=0, most=10_000)
    lora_rank: int = setting(
        16, "Rank of LoRA on all linear layers but the head; 0 trains all weights.", least=0, most=4096
    )
    save_every: int = setting(
        0, "Optimizer steps between checkpoints; 0 saves after each epoch.", least=0, most=1_000_000
    )

    def __post_init__(self) -> None:
        super().__post_init__()
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
