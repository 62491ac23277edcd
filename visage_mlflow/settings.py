"""How a setting is declared, and the rules that several settings share. Light to import."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import field, fields
from typing import Any

ALL_CHECKPOINTS = re.compile(r"runs:/([^/]+)/?")
"""A URI that stands for all checkpoints of a finetune run."""


def setting(default: Any, help: str) -> Any:
    """A dataclass field with its default and its description."""
    return field(default=default, metadata={"help": help})


def at_least(config: Any, least: int, names: Sequence[str]) -> None:
    """Raise ValueError for a whole-number setting below `least`."""
    for name in names:
        value = getattr(config, name)
        if value < least:
            raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value}. Try {least}.")


def above_zero(config: Any, names: Sequence[str]) -> None:
    """Raise ValueError for a setting that is not a finite number above 0."""
    for name in names:
        default: Any = next(field.default for field in fields(config) if field.name == name)
        finite_above_zero(name, getattr(config, name), default)


def finite_above_zero(name: str, value: float, default: float) -> None:
    """Raise ValueError for a value that is not a finite number above 0."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"`{name}` must be a finite number above 0, got {value}. Try {default}.")


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise ValueError for a word that is not among those allowed."""
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}. Try {allowed[0]}.")


def check_grid(n_points: int, name: str = "n_points") -> None:
    """Raise ValueError for a grid that would skip the unperturbed model."""
    if n_points < 3 or n_points % 2 == 0:
        raise ValueError(
            f"`{name}` must be odd and at least 3, got {n_points}: an even grid skips the unperturbed model. "
            f"Try {max(3, n_points + 1)}."
        )


def check_line(n_points: int, extra: float, points_name: str = "n_points", extra_name: str = "extra") -> None:
    """Raise ValueError for a line between two models that could not hold both of them."""
    if n_points < 5 or n_points % 2 == 0:
        raise ValueError(
            f"`{points_name}` must be odd and at least 5 on a line between two models, got {n_points}: both must "
            f"be on it, and something past them. Try {max(5, n_points + 1)}."
        )
    if not (math.isfinite(extra) and extra >= 0):
        raise ValueError(f"`{extra_name}` must be a finite number, 0 or more, got {extra}. Try 0.5.")


def listed(text: str) -> list[str]:
    """The words between commas.

    >>> listed("a, b,")
    ['a', 'b']
    """
    return [word.strip() for word in text.split(",") if word.strip()]


def unfolded(uris: Sequence[str], checkpoints_of: Callable[[str], list[str]]) -> list[str]:
    """The URIs, each ``runs:/<run id>`` replaced by all checkpoints of that run."""
    runs = [(uri, ALL_CHECKPOINTS.fullmatch(uri)) for uri in uris]
    return [each for uri, run in runs for each in (checkpoints_of(run[1]) if run else [uri])]
