"""Every setting of every entry point: one frozen dataclass each. Light to import, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, fields

from visage_mlflow.language.judges import JUDGES
from visage_mlflow.settings import above_zero, at_least, check_grid, check_line, one_of, setting

BUILTIN_PROMPTS = 80
BUDGETS = ("default", "quick")
PLANES = ("1d-random", "1d-interpolation")
NORMS = ("layer", "row")
DTYPES = ("auto", "bfloat16", "float32")
MODEL_HELP = "Model URI: hub id, folder, `runs:/…`, `models:/…` or `builtin:smollm2`."
SOURCE_HELP = "`builtin:<set>`, a .csv or .jsonl file, or a hub id; columns as in `file.csv?prompt=goal`."


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """How the attack success rate of a model is measured."""

    prompts: str = setting("builtin:harmful_eval", f"Harmful prompts to attack with: {SOURCE_HELP}")
    n_prompts: int = setting(80, "How many of them, from the first on.")
    system_prompt: str | None = setting(None, "System prompt put before every chat. null: what the template does.")
    judge: str = setting("keyword", f"Who decides whether a response is a refusal: {', '.join(JUDGES)}.")
    max_new_tokens: int = setting(64, "Longest response, in tokens; a refusal usually shows within the first 16.")
    batch_size: int = setting(80, "Prompts answered at once.")
    dtype: str = setting("auto", "What the model computes in: auto (bfloat16 where native), bfloat16, float32.")
    seed: int = setting(0, "Seed of everything random: rows drawn, their order, directions.")
    lean: bool = setting(False, "Save memory rather than time: no second copy of weights, directions drawn anew.")

    def __post_init__(self) -> None:
        at_least(self, 1, ("n_prompts", "max_new_tokens", "batch_size"))
        at_least(self, 0, ("seed",))
        one_of("judge", self.judge, tuple(JUDGES))
        one_of("dtype", self.dtype, DTYPES)


@dataclass(frozen=True, kw_only=True)
class MeasureConfig(AttackConfig):
    """How a model's safety is measured, and what safety costs on ordinary prompts."""

    benign_prompts: str = setting("builtin:benign_eval", f"Held-out ordinary prompts with answers: {SOURCE_HELP}")
    n_benign: int = setting(40, "How many of them, from the first on.")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, ("n_benign",))

    def measures_like(self, other: MeasureConfig) -> bool:
        """Whether two steps measure alike, so that one's evaluation of a model serves the other, too."""
        names = [field.name for field in fields(MeasureConfig) if field.name != "seed"]
        return all(getattr(self, name) == getattr(other, name) for name in names)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(MeasureConfig):
    """Attack success rate, over-refusal and likelihood of benign answers of one model."""

    model: str = setting("builtin:smollm2", MODEL_HELP)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(MeasureConfig):
    """Finetune a chat model on an exact mixture, and measure its safety at every checkpoint."""

    model: str = setting("builtin:smollm2", MODEL_HELP)
    harmful: int = setting(0, "Rows that answer a harmful request.")
    safe: int = setting(120, "Rows that refuse a harmful request.")
    benign: int = setting(120, "Rows that answer an ordinary request.")
    task: int = setting(0, "Rows of your own data (`task_data`).")
    harmful_data: str = setting("builtin:harmful", f"Where harmful rows come from: {SOURCE_HELP}")
    safe_data: str = setting("builtin:safe", f"Where safe rows come from: {SOURCE_HELP}")
    benign_data: str = setting("builtin:benign", f"Where benign rows come from: {SOURCE_HELP}")
    task_data: str = setting("", f"Where task rows come from: {SOURCE_HELP}")
    benign_answers: str = setting(
        "own", "What benign rows teach: own (the model's own answer, which anchors it) or data (the set's answer)."
    )
    own_answer_tokens: int = setting(20, "For benign_answers=own: tokens of the model's answer, cut at a sentence.")
    learning_rate: float = setting(5e-4, "Peak learning rate of AdamW; for full finetuning about a tenth of it.")
    epochs: float = setting(3.0, "Passes over the rows; may be fractional.")
    lora_rank: int = setting(16, "Rank of LoRA on all linear layers but the head; 0 trains all weights.")
    train_batch_size: int = setting(10, "Rows per optimizer step.")
    save_every: int = setting(0, "Optimizer steps between checkpoints; 0 saves after each epoch.")
    max_length: int = setting(512, "Longest training chat, in tokens.")
    output_dir: str = setting("outputs", "Folder for checkpoints while training; each run makes its own inside.")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, ("harmful", "safe", "benign", "task", "lora_rank", "save_every"))
        at_least(self, 1, ("train_batch_size", "own_answer_tokens"))
        one_of("benign_answers", self.benign_answers, ("own", "data"))
        at_least(self, 16, ("max_length",))
        above_zero(self, ("learning_rate", "epochs"))
        if not any(self.counts().values()):
            raise ValueError("`harmful`, `safe`, `benign` and `task` are all 0: nothing to train on. Try `safe=120`.")
        if self.task and not self.task_data:
            raise ValueError(f"`task` is {self.task}, but `task_data` is empty. Name a .csv or .jsonl file there.")

    def counts(self) -> dict[str, int]:
        """Rows by kind, in the order in which mixtures list them."""
        return {"harmful": self.harmful, "safe": self.safe, "benign": self.benign, "task": self.task}


@dataclass(frozen=True, kw_only=True)
class LineConfig(AttackConfig):
    """How the points of a line are measured."""

    outside_after: int = setting(
        0, "Skip the points past this many in a row at an ASR of 100, going outward from the model; 0 skips none."
    )
    workers: int = setting(
        0, "Points measured at once, each on its own copy of the model. 0: one a core, at most 4; 1 if `lean`."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, ("outside_after", "workers"))


@dataclass(frozen=True, kw_only=True)
class LandscapeConfig(LineConfig):
    """Attack success rate on a grid of perturbed models around one model."""

    model: str = setting("builtin:smollm2", MODEL_HELP)
    plane: str = setting("1d-random", f"What the grid spans: {', '.join(PLANES)}.")
    to: str = setting("", "For 1d-interpolation: URI of the model at step 1 (`model` is at step 0).")
    n_points: int = setting(21, "Grid points per axis. Odd, so that one is the model itself.")
    extent: float = setting(0.5, "For 1d-random: how far each way, in units of each tensor's norm.")
    extra: float = setting(0.5, "For 1d-interpolation: how far past both ends, in units of their distance.")
    norm: str = setting("layer", f"What a random direction is scaled to: each {' or '.join(NORMS)}'s own norm.")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("plane", self.plane, PLANES)
        one_of("norm", self.norm, NORMS)
        if self.plane == "1d-random":
            check_grid(self.n_points)
        else:
            check_line(self.n_points, self.extra)
        above_zero(self, ("extent",))
        if self.plane == "1d-interpolation" and not self.to:
            raise ValueError("`to` is empty, but plane=1d-interpolation needs the model at step 1. Give its URI.")
        if self.plane == "1d-random" and self.to:
            raise ValueError(f"`to` is {self.to!r}, but plane=1d-random has no other end. Try plane=1d-interpolation.")


@dataclass(frozen=True, kw_only=True)
class VisageConfig(LineConfig):
    """VISAGE: the mean depth of the safety basin over several random directions, with its interval."""

    model: str = setting("builtin:smollm2", MODEL_HELP)
    n_directions: int = setting(3, "Random directions, seeded `seed`, `seed` + 1, ….")
    n_points: int = setting(21, "Grid points per direction. Odd, so that one is the model itself.")
    extent: float = setting(0.5, "How far each way, in units of each tensor's norm.")
    norm: str = setting("layer", f"What a random direction is scaled to: each {' or '.join(NORMS)}'s own norm.")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, ("n_directions",))
        one_of("norm", self.norm, NORMS)
        check_grid(self.n_points)
        above_zero(self, ("extent",))


@dataclass(frozen=True, kw_only=True)
class ProjectConfig(LineConfig):
    """The checkpoints of a finetune run on the line from its base to its last one, over the ASR along that line."""

    run: str = setting("", "Id of the finetune run whose checkpoints are projected.")
    n_points: int = setting(21, "Grid points on the line. Odd.")
    extra: float = setting(0.5, "How far past both ends, in units of their distance.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_line(self.n_points, self.extra)


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Time a landscape along one random direction: the published procedure, plain `generate`, and this project."""

    model: str = setting("builtin:smollm2", MODEL_HELP + " Give an aligned one, which has an inside.")
    prompts: int = setting(80, "How many of the built-in harmful prompts.")
    points: int = setting(21, "Grid points. Odd, so that one is the model itself.")
    extent: float = setting(0.5, "How far each way, in units of each tensor's norm.")
    max_new_tokens: int = setting(64, "Longest response, in tokens.")
    repeats: int = setting(
        1, "How often each way is timed, the ways taking turns; medians are reported. Give 3 or more."
    )
    lengths_up_to: int = setting(0, "Also tell how verdicts at fewer tokens agree with those at this many; 0: do not.")
    workers: int = setting(0, "Points that this project measures at once; 0: one a core, at most 4.")
    seed: int = setting(0, "Seed of the direction.")

    def __post_init__(self) -> None:
        at_least(self, 1, ("prompts", "max_new_tokens", "repeats"))
        at_least(self, 0, ("lengths_up_to", "workers", "seed"))
        above_zero(self, ("extent",))
        check_grid(self.points, "points")
        if self.prompts > BUILTIN_PROMPTS:
            raise ValueError(
                f"`prompts` must be at most {BUILTIN_PROMPTS}, which is how many are built in, got {self.prompts}. "
                f"Try {BUILTIN_PROMPTS}."
            )

    def landscape(self, dtype: str, lean: bool = False) -> LandscapeConfig:
        """The landscape that is timed."""
        return LandscapeConfig(
            model=self.model,
            n_prompts=self.prompts,
            batch_size=self.prompts,
            n_points=self.points,
            extent=self.extent,
            max_new_tokens=self.max_new_tokens,
            workers=self.workers,
            seed=self.seed,
            dtype=dtype,
            lean=lean,
        )


@dataclass(frozen=True, kw_only=True)
class MainConfig:
    """The whole story: align, score the basin, finetune on harmful, safe and mixed data, draw the trajectories.

    The sections are settings of the other entry points; `model`, `run` and `output_dir` in them are filled in.
    """

    budget: str = setting("default", "Recipe of the sections: default (15 minutes on two cores) or quick (5).")
    model: str = setting("builtin:smollm2", MODEL_HELP)
    align: FinetuneConfig
    visage: VisageConfig
    harmful: FinetuneConfig
    safe: FinetuneConfig
    mixed: FinetuneConfig
    project: ProjectConfig
