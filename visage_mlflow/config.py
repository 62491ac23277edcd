"""Every setting of every entry point: one frozen dataclass each. Light to import, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, fields

from visage_mlflow.measuring import (
    NORMS,
    PLANES,
    SOURCE_HELP,
    AttackConfig,
    LineConfig,
    MeasureConfig,
    PlaneConfig,
    check_ends,
)
from visage_mlflow.settings import above_zero, at_least, check_grid, listed, one_of, setting

__all__ = [
    "AttackConfig",
    "BenchmarkConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "LandscapeConfig",
    "LineConfig",
    "MainConfig",
    "MeasureConfig",
    "PlaneConfig",
    "ProjectConfig",
    "VisageConfig",
]

BUILTIN_PROMPTS = 80
BUDGETS = ("default", "quick")
MODEL_HELP = "Model URI: hub id, folder, `runs:/…`, `models:/…` or `builtin:smollm2`."
TO_HELP = (
    "URIs of other models that span the plane, separated by commas: one for 1d-interpolation and "
    "2d-interpolation-random, two for 2d-interpolation, three or more for 2d-pca; `runs:/<run id>` is all checkpoints "
    "of a run."
)


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
class LandscapeConfig(PlaneConfig):
    """Attack success rate on a grid of perturbed models around one model."""

    model: str = setting("builtin:smollm2", MODEL_HELP)
    plane: str = setting("1d-random", f"What the grid spans: {', '.join(PLANES)}.")
    to: str = setting("", TO_HELP + " The first is at step 1 of the first axis, `model` at 0.")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("plane", self.plane, PLANES)
        self.check_axes(self.plane)
        check_ends(self.plane, self.ends)

    @property
    def ends(self) -> list[str]:
        """The models in `to`."""
        return listed(self.to)


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

    def line(self) -> PlaneConfig:
        """The settings of each direction's line."""
        shared = {field.name for field in fields(PlaneConfig)} & {field.name for field in fields(self)}
        return PlaneConfig(**{name: getattr(self, name) for name in shared})


@dataclass(frozen=True, kw_only=True)
class ProjectConfig(PlaneConfig):
    """Where finetunings went: their checkpoints on a line or plane from their base, over the ASR there."""

    run: str = setting("", "Ids of the finetune runs whose checkpoints are projected, separated by commas.")
    checkpoints: str = setting("", "Instead of `run`: model URIs in the order of one training, separated by commas.")
    model: str = setting("", "For `checkpoints`: the model that was finetuned, at the origin. " + MODEL_HELP)
    plane: str = setting(
        "auto",
        f"What the grid spans: {', '.join(PLANES)}; auto is 1d-interpolation for one finetuning, else "
        "2d-interpolation through the last checkpoints of the first two.",
    )
    to: str = setting("", TO_HELP + " Empty: last checkpoints, in order; for 2d-pca all of them.")
    margin_up_to: float = setting(
        4.0, "How far to look for the edge along each finetuning's own direction, in units of its length; 0: nowhere."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("plane", self.plane, ("auto", *PLANES))
        # Without a run, as in the recipe of `main`, any number of them may come.
        self.check_axes(self.plane_for(len(self.runs) if self.run or self.checkpoints else 2))
        if self.to:
            check_ends(self.plane_for(len(self.runs)), listed(self.to))
        if self.run and self.checkpoints:
            raise ValueError(f"`run` is {self.run!r} and `checkpoints` {self.checkpoints!r}: give one of the two.")
        if self.checkpoints and not self.model:
            raise ValueError("`model` is empty, but `checkpoints` need the model they began at. Give its URI.")
        if self.model and not self.checkpoints:
            raise ValueError(
                f"`model` is {self.model!r}, but a run knows its own. Leave it out, or use `checkpoints`."
            )
        if self.margin_up_to != 0:
            above_zero(self, ("margin_up_to",))

    @property
    def runs(self) -> list[str]:
        """The ids in `run`."""
        return listed(self.run)

    def plane_for(self, n_finetunings: int) -> str:
        """The plane, chosen if it is auto."""
        chosen = "1d-interpolation" if n_finetunings < 2 else "2d-interpolation"
        return chosen if self.plane == "auto" else self.plane


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

    budget: str = setting("default", "Recipe of the sections: default (15 minutes on two cores) or quick (6).")
    model: str = setting("builtin:smollm2", MODEL_HELP)
    align: FinetuneConfig
    visage: VisageConfig
    harmful: FinetuneConfig
    safe: FinetuneConfig
    mixed: FinetuneConfig
    project: ProjectConfig
