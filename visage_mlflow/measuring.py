"""Settings of how safety is measured, which several entry points share. Light to import, so that `--help` is quick."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from visage_mlflow.language.judges import JUDGES
from visage_mlflow.settings import (
    ALL_CHECKPOINTS,
    MOST_POINTS,
    at_least,
    check_grid,
    check_line,
    finite_above_zero,
    one_of,
    setting,
    within_reason,
)

AXES = {
    "1d-random": ("random",),
    "1d-interpolation": ("difference",),
    "2d-random": ("random", "random"),
    "2d-interpolation": ("difference", "difference"),
    "2d-interpolation-random": ("difference", "random"),
    "2d-pca": ("component", "component"),
}
"""What spans each plane, axis by axis."""
PLANES = tuple(AXES)
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
    store: str = setting(
        "", "File that keeps computed points. Empty: VISAGE_STORE, or points.db in the user's cache; off: none."
    )
    reuse: bool = setting(True, "Read points that the store has; false computes them anew and counts what differs.")
    lean: bool = setting(False, "Save memory rather than time: no second copy of weights, directions drawn anew.")

    def __post_init__(self) -> None:
        within_reason(self)
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
        names = [field.name for field in fields(MeasureConfig) if field.name not in ("seed", "store", "reuse")]
        return all(getattr(self, name) == getattr(other, name) for name in names)


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
class PlaneConfig(LineConfig):
    """The grid on a line or plane: each axis has its own scale."""

    n_points: int = setting(21, "Grid points per axis. Odd, so that one is the model itself.")
    extent: float = setting(0.5, "How far each way along a random axis, in units of each tensor's norm.")
    extra: float = setting(0.5, "How far past the ends along any other axis, in units of the distance between them.")
    norm: str = setting("layer", f"What a random direction is scaled to: each {' or '.join(NORMS)}'s own norm.")
    y_n_points: int | None = setting(None, "Grid points along the second axis. null: as along the first.")
    y_extent: float | None = setting(None, "As `extent`, along the second axis. null: the same.")
    y_extra: float | None = setting(None, "As `extra`, along the second axis. null: the same.")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("norm", self.norm, NORMS)
        for name in ("extent", "extra", "y_extent", "y_extra"):  # Of those, too, that the plane does not use.
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"`{name}` must be a finite number, got {value}. Try 0.5.")

    def axis_settings(self) -> tuple[tuple[int, float, float], tuple[int, float, float]]:
        """(n_points, extent, extra) of both axes."""
        first = self.n_points, self.extent, self.extra
        given = self.y_n_points, self.y_extent, self.y_extra
        second = [one if other is None else other for one, other in zip(first, given, strict=True)]
        return first, (int(second[0]), second[1], second[2])

    def count_points(self, plane: str) -> int:
        """Points on the grid of a plane."""
        counts = [n_points for n_points, *_ in self.axis_settings()][: len(AXES[plane])]
        return math.prod(counts)

    def check_axes(self, plane: str) -> None:
        """Raise ValueError for grid settings that the plane cannot use."""
        names = ("n_points", "extent", "extra")
        kinds = AXES[plane]
        for name in names:
            value = getattr(self, f"y_{name}")
            if len(kinds) == 1 and value is not None:
                raise ValueError(f"`y_{name}` is {value}, but plane={plane} has no second axis. Leave it out.")
        used, unused = ("extent", "extra") if kinds[-1] == "random" else ("extra", "extent")
        if (value := getattr(self, f"y_{unused}")) is not None:
            raise ValueError(
                f"`y_{unused}` is {value}, but the second axis of plane={plane} reaches by `y_{used}`. Use that."
            )
        for index, kind in enumerate(kinds):
            given = [index == 1 and getattr(self, f"y_{name}") is not None for name in names]
            n_points, extent, extra = (f"y_{name}" if own else name for name, own in zip(names, given, strict=True))
            values = dict(zip((n_points, extent, extra), self.axis_settings()[index], strict=True))
            if (count := self.count_points(plane)) > MOST_POINTS:
                raise ValueError(
                    f"`{n_points}` is {values[n_points]}, which makes {count} points of plane={plane}, more than "
                    f"{MOST_POINTS}. Try 101."
                )
            if kind == "random":
                check_grid(int(values[n_points]), n_points)
                finite_above_zero(extent, values[extent], 0.5)
            else:
                check_line(int(values[n_points]), values[extra], n_points, extra)


def check_ends(plane: str, uris: Sequence[str]) -> None:
    """Raise ValueError for a number of other models that cannot span a plane."""
    if any(ALL_CHECKPOINTS.fullmatch(uri) for uri in uris):
        return  # How many there are is known when the run is looked up.
    n_ends = AXES[plane].count("difference")
    least, most = (3, math.inf) if "component" in AXES[plane] else (n_ends, n_ends)
    if least <= len(uris) <= most:
        return
    if most == 0:
        cure = f"Try plane={plane.replace('random', 'interpolation')}."
        raise ValueError(f"`to` is {', '.join(uris)!r}, but plane={plane} has no other end. {cure}")
    wanted = f"{least}{' or more' if most > least else ''} other model{'s' if least > 1 else ''}"
    cure = f"Give {'their URIs, separated by commas' if least > 1 else 'its URI'}."
    found = f"is {', '.join(uris)!r}, {len(uris)} of them" if uris else "is empty"
    raise ValueError(f"`to` {found}, but plane={plane} is spanned by {wanted}. {cure}")
