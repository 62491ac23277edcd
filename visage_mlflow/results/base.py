"""How results save and load themselves: one JSON file each, with a schema version.

A number that could not be measured is NaN here, and null in the file, which stays plain JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BeforeValidator, TypeAdapter, ValidationError

from visage_mlflow.text.errors import Mistake, one_line

SCHEMA_VERSION = 3

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A float; NaN if it was not measured."""


def _percent(value: float) -> float:
    if value < -1e-9 or value > 100 + 1e-9:  # The ends of an interval may be off by a rounding error.
        raise ValueError(f"must be a share in percent, from 0 to 100, got {value:g}")
    return value


Percent = Annotated[Number, AfterValidator(_percent)]
"""A share in percent, 0 to 100; NaN if it was not measured."""


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
            Mistake: The file is cut off or not JSON, of another kind or schema version, or lacks a value.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise Mistake(
                f"{str(path)!r} cannot be read as a {cls.kind}: {one_line(error)} Download it again."
            ) from error
        found = (content.pop("kind", None), content.pop("schema_version", None)) if isinstance(content, dict) else None
        if found != (cls.kind, SCHEMA_VERSION):
            raise Mistake(
                f"{str(path)!r} must hold a {cls.kind} of schema version {SCHEMA_VERSION}, got {found}. "
                f"Measure it again with this version, or install the version that wrote it."
            )
        try:
            return TypeAdapter(cls).validate_python(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise Mistake(
                f"{str(path)!r} is no whole {cls.kind}: {place}: {first['msg']}. Download it again."
            ) from error

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted key, those of nested sections included.

    >>> list(flat({"a": 1, "b": {"c": 2}}))
    [('a', 1), ('b.c', 2)]
    """
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_to_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_none(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
