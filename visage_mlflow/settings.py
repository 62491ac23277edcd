"""How a setting is declared, and the rules that several settings share. Light to import."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field, fields
from typing import Any


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
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            default = next(field.default for field in fields(config) if field.name == name)
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


def check_line(n_points: int, extra: float) -> None:
    """Raise ValueError for a line between two models that could not hold both of them."""
    if n_points < 5 or n_points % 2 == 0:
        raise ValueError(
            f"`n_points` must be odd and at least 5 on a line between two models, got {n_points}: both must be on "
            f"it, and something past them. Try {max(5, n_points + 1)}."
        )
    if not (math.isfinite(extra) and extra >= 0):
        raise ValueError(f"`extra` must be a finite number, 0 or more, got {extra}. Try 0.5.")
