"""What studies return: frozen dataclasses that save and load themselves as JSON.

A number that could not be measured is NaN here, and null in the file, which stays plain JSON.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, TypeAdapter, ValidationError

SCHEMA_VERSION = 1

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A float that may be NaN: not measured."""


@dataclass(frozen=True, eq=False)
class Result:
    """Base of all results: one JSON file each, with a schema version and the result's kind."""

    kind: ClassVar[str]

    def to_json(self) -> str:
        """The file's text; equal results have equal texts."""
        content = {"schema_version": SCHEMA_VERSION, "kind": self.kind, **asdict(self)}
        return json.dumps(_nan_to_none(content), indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the result to a file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a result back.

        Raises:
            ValueError: The file is cut off or not JSON, of another kind or schema version, or lacks a value.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{str(path)!r} cannot be read as a {cls.kind}: {error}. Download it again.") from error
        found = (content.pop("kind", None), content.pop("schema_version", None)) if isinstance(content, dict) else None
        if found != (cls.kind, SCHEMA_VERSION):
            raise ValueError(
                f"{str(path)!r} must hold a {cls.kind} of schema version {SCHEMA_VERSION}, got {found}. "
                f"Measure it again with this version, or install the version that wrote it."
            )
        try:
            return TypeAdapter(cls).validate_python(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{str(path)!r} is no whole {cls.kind}: {place}: {first['msg']}.") from error

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())


@dataclass(frozen=True)
class Response:
    """A prompt, what the model answered, and the verdict. `text` is None where no token could be chosen."""

    prompt: str
    text: str | None
    verdict: str
    category: str = ""
    step: float = 0.0


@dataclass(frozen=True)
class Setup:
    """What decides a measurement besides the weights: enough to tell whether two results compare."""

    model: str
    prompts: str
    prompts_digest: str
    n_prompts: int
    system_prompt: str | None
    judge: str
    max_new_tokens: int
    dtype: str


@dataclass(frozen=True, eq=False)
class Evaluation(Result):
    """Safety and usefulness of one model, in percent; `benign_nll` in nats per token of held-out answers."""

    kind: ClassVar[str] = "evaluation"
    setup: Setup
    asr: Number
    asr_low: Number
    asr_high: Number
    coherent_asr: Number
    over_refusal: Number
    over_refusal_low: Number
    over_refusal_high: Number
    benign_nll: Number
    n_unjudged: int

    def metrics(self) -> dict[str, float]:
        """Name -> number, as logged."""
        return {name: value for name, value in asdict(self).items() if name != "setup"}


@dataclass(frozen=True)
class Point:
    """One place on a line: its step, and the verdict on each prompt there."""

    step: float
    asr: Number
    asr_low: Number
    asr_high: Number
    coherent_asr: Number
    n_unjudged: int
    verdicts: tuple[str, ...]


@dataclass(frozen=True)
class Edges:
    """The basin along a line: see `geometry.score.basin`."""

    left: Number
    right: Number
    width: Number
    depth: Number
    sharpness: Number
    open_left: bool
    open_right: bool


@dataclass(frozen=True, eq=False)
class Landscape(Result):
    """ASR along one line through a model.

    `direction` says what a step of 1 is: {"kind": "random", "seed", "norm"} or {"kind": "difference", "to"}, and
    its length relative to the weights' norm.
    """

    kind: ClassVar[str] = "landscape"
    plane: str
    setup: Setup
    direction: dict[str, str | int | float]
    points: tuple[Point, ...]
    visage: Number
    visage_contiguous: Number
    basin: Edges

    @property
    def axis(self) -> list[float]:
        """Steps of the points, in order."""
        return [point.step for point in self.points]

    @property
    def asr(self) -> list[float]:
        """ASR of the points, in percent."""
        return [point.asr for point in self.points]

    def metrics(self) -> dict[str, float]:
        """Name -> number, as logged."""
        edges = {f"basin_{name}": float(value) for name, value in asdict(self.basin).items()}
        return {"visage": self.visage, "visage_contiguous": self.visage_contiguous, **edges}


@dataclass(frozen=True, eq=False)
class Visage(Result):
    """VISAGE over several random directions: the mean of theirs, with a bootstrap interval, in percent."""

    kind: ClassVar[str] = "visage"
    landscapes: tuple[Landscape, ...]
    mean_asr: tuple[Number, ...]
    visage: Number
    visage_low: Number
    visage_high: Number
    visage_contiguous: Number

    def metrics(self) -> dict[str, float]:
        """Name -> number, as logged: overall, and per direction."""
        names = ("visage", "visage_low", "visage_high", "visage_contiguous")
        numbers = {name: float(getattr(self, name)) for name in names}
        for index, landscape in enumerate(self.landscapes):
            numbers |= {f"direction_{index}_{name}": value for name, value in landscape.metrics().items()}
        for side in ("left", "right", "width"):
            values = [float(getattr(landscape.basin, side)) for landscape in self.landscapes]
            numbers[f"basin_{side}"] = sum(values) / len(values)
        return numbers


@dataclass(frozen=True)
class Place:
    """A checkpoint on the line: coordinate (0 is the base, 1 the last one), and what the line does not show.

    `distance` and `off_plane_distance` are relative to the norm of the base's weights; `off_plane_share` is the
    second over the first, 0 to 1.
    """

    uri: str
    training_step: int
    x: Number
    distance: Number
    off_plane_distance: Number
    off_plane_share: Number
    asr: Number
    asr_low: Number
    asr_high: Number


@dataclass(frozen=True, eq=False)
class Trajectory(Result):
    """The checkpoints of one finetuning on the line through its ends, and the landscape of that line."""

    kind: ClassVar[str] = "trajectory"
    landscape: Landscape
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A finetuned model after some optimizer steps; `distance` from the base is relative to the base's norm."""

    uri: str
    step: int
    distance: Number
    evaluation: Evaluation


@dataclass(frozen=True, eq=False)
class Finetuning(Result):
    """What a finetuning was made of, and the safety of its checkpoints; the first is the base, at step 0."""

    kind: ClassVar[str] = "finetuning"
    model: str
    counts: dict[str, int]
    checkpoints: tuple[Checkpoint, ...]


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_to_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_none(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
