"""Every setting of every entry point: one frozen dataclass each. Light to import, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass

from visage_mlflow.config.attack import MODEL_HELP, MeasureConfig
from visage_mlflow.config.fields import (
    GREATEST_SEED,
    LONGEST_AXIS,
    MOST_AXIS_POINTS,
    MOST_TOKENS,
    MOST_WORKERS,
    Settings,
    listed,
    setting,
)
from visage_mlflow.config.grid import PLANES, LineConfig, PlaneConfig, check_ends, check_points
from visage_mlflow.config.training import FinetuneConfig
from visage_mlflow.text.errors import Mistake

BUILTIN_PROMPTS = 80
BUDGETS = ("default", "quick")
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
class LandscapeConfig(PlaneConfig):
    """Attack success rate on a grid of perturbed models around one model."""

    model: str = setting("builtin:smollm2", MODEL_HELP)
    plane: str = setting("1d-random", f"What the grid spans: {', '.join(PLANES)}.", choices=PLANES)
    to: str = setting("", TO_HELP + " The first is at step 1 of the first axis, `model` at 0.")

    def __post_init__(self) -> None:
        super().__post_init__()
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
    n_directions: int = setting(
        3, "Random directions; the first has `seed`, the others hashes of it and their number.", least=1, most=1000
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_points("random", "n_points", self.n_points)


@dataclass(frozen=True, kw_only=True)
class CompareConfig(VisageConfig, MeasureConfig):
    """Two models on the same prompts and random directions: what differs, and whether that could be chance."""

    other: str = setting("", "The model that is compared with `model`. " + MODEL_HELP)
    run: str = setting(
        "",
        "Instead of `other`: ids of two finished runs, both of evaluate or both of visage, separated by a comma; what "
        "they measured is compared, and nothing is asked again.",
    )
    n_directions: int = setting(
        3, "Random directions on which VISAGE is compared, as of `visage`; 0: only rates.", least=0, most=1000
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.run and self.other:
            raise Mistake(f"`run` is {self.run!r} and `other` {self.other!r}. Give one of the two.")
        if self.run and (len(self.runs) != 2 or self.runs[0] == self.runs[1]):
            what = "names one run twice" if len(self.runs) == 2 else "must be the ids of two runs"
            raise Mistake(f"`run` is {self.run!r}, which {what}. Give two: `run=<id>,<id>`.")
        if not self.run and not self.other:
            raise Mistake("`other` is empty. Give the URI of the model to compare with `model`, or two runs in `run`.")
        if self.other and self.other == self.model:
            raise Mistake(f"`other` is {self.other!r}, which is `model` itself. Give another model.")

    @property
    def runs(self) -> list[str]:
        """The ids in `run`."""
        return listed(self.run)


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
        choices=("auto", *PLANES),
    )
    to: str = setting("", TO_HELP + " Empty: last checkpoints, in order; for 2d-pca all of them.")
    margin_up_to: float = setting(
        4.0,
        "How far to look for the edge along each finetuning's own direction, in units of its length; 0: nowhere.",
        least=0,
        most=LONGEST_AXIS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # Without a run, as in the recipe of `main`, any number of them may come.
        self.check_axes(self.plane_for(len(self.runs) if self.run or self.checkpoints else 2))
        if self.to:
            check_ends(self.plane_for(len(self.runs)), listed(self.to))
        if self.run and self.checkpoints:
            raise Mistake(f"`run` is {self.run!r} and `checkpoints` {self.checkpoints!r}: give one of the two.")
        if self.checkpoints and not self.model:
            raise Mistake("`model` is empty, but `checkpoints` need the model they began at. Give its URI.")
        if self.model and not self.checkpoints:
            raise Mistake(f"`model` is {self.model!r}, but a run knows its own. Leave it out, or use `checkpoints`.")

    @property
    def runs(self) -> list[str]:
        """The ids in `run`."""
        return listed(self.run)

    def plane_for(self, n_finetunings: int) -> str:
        """The plane, chosen if it is auto."""
        chosen = "1d-interpolation" if n_finetunings < 2 else "2d-interpolation"
        return chosen if self.plane == "auto" else self.plane


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Settings):
    """Time a landscape along one random direction: the published procedure, plain `generate`, and this project."""

    model: str = setting("builtin:smollm2", MODEL_HELP + " Give an aligned one, which has an inside.")
    prompts: int = setting(80, "How many of the built-in harmful prompts.", least=1, most=BUILTIN_PROMPTS)
    points: int = setting(21, "Grid points. Odd, so that one is the model itself.", most=MOST_AXIS_POINTS)
    extent: float = setting(0.5, "How far each way, in units of each tensor's norm.", above=0, most=LONGEST_AXIS)
    max_new_tokens: int = setting(64, "Longest response, in tokens.", least=1, most=MOST_TOKENS)
    repeats: int = setting(
        1,
        "How often each way is timed, the ways taking turns; medians are reported. Give 3 or more.",
        least=1,
        most=1000,
    )
    lengths_up_to: int = setting(
        0,
        "Also report how verdicts at fewer tokens agree with those at this many; 0: do not.",
        least=0,
        most=MOST_TOKENS,
    )
    workers: int = setting(
        0, "Points that this project measures at once; 0: one a core, at most 4.", least=0, most=MOST_WORKERS
    )
    seed: int = setting(0, "Seed of the direction.", least=0, most=GREATEST_SEED)
    store: str = setting("", "Folder that keeps computed points, as everywhere; here it only costs. off: none.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_points("random", "points", self.points)

    def landscape(self, dtype: str, lean: bool = False, store: str = "off") -> LandscapeConfig:
        """The landscape that is timed: always computed, never read; writing to a given `store` is timed too."""
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
            store=store,
            reuse=False,
            judge="advbench_keywords",  # As published; it needs whole answers.
        )


@dataclass(frozen=True, kw_only=True)
class MainConfig(Settings):
    """The whole story: align, score the basin, finetune on harmful, safe and mixed data, draw the trajectories.

    The sections are settings of the other entry points; `model`, `run` and `output_dir` in them are filled in.
    """

    budget: str = setting(
        "default",
        "Recipe of the sections: default (about 50 minutes on two cores) or quick (fewer rows, prompts and points). "
        "`config` takes its place.",
        choices=BUDGETS,
    )
    model: str = setting("builtin:smollm2", MODEL_HELP)
    align: FinetuneConfig
    visage: VisageConfig
    harmful: FinetuneConfig
    safe: FinetuneConfig
    mixed: FinetuneConfig
    project: ProjectConfig
