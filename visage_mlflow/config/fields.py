"""How a setting is declared, and the rules that several settings share. Light to import."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from visage_mlflow.text.errors import Mistake

ALL_CHECKPOINTS = re.compile(r"runs:/([^/]+)/?")
"""A URI that stands for all checkpoints of a finetune run."""


def setting(default: Any, help: str) -> Any:
    """A dataclass field with its default and its description."""
    return field(default=default, metadata={"help": help})


MOST: dict[str, float] = {
    # What one process computes or keeps at once.
    "batch_size": 100_000,
    "train_batch_size": 100_000,
    "max_new_tokens": 32_768,
    "own_answer_tokens": 32_768,
    "lengths_up_to": 32_768,
    "max_length": 1_048_576,
    "lora_rank": 4096,
    "workers": 256,
    # How often something is done.
    "n_points": 10_001,
    "y_n_points": 10_001,
    "points": 10_001,
    "n_directions": 1000,
    "repeats": 1000,
    "epochs": 10_000,
    "save_every": 1_000_000,
    "n_trials": 100_000,
    "n_checkpoints": 1000,
    "patience": 1_000_000,
    "outside_after": 1_000_000,
    "heartbeat": 86_400,
    # Rows: a data set tells how many it has; this keeps their sum a number that can be counted to.
    "n_prompts": 10_000_000,
    "n_benign": 10_000_000,
    "n_held_out": 10_000_000,
    "harmful": 10_000_000,
    "safe": 10_000_000,
    "benign": 10_000_000,
    "task": 10_000_000,
    # Steps so long that the weights are noise, or no finite numbers.
    "learning_rate": 10.0,
    "extent": 1000.0,
    "y_extent": 1000.0,
    "extra": 1000.0,
    "y_extra": 1000.0,
    "margin_up_to": 1000.0,
    "margin_min": 1000.0,
    "utility_step": 1000.0,
    # numpy, which transformers seeds, takes 32 bits; a few seeds after this one are used, too.
    "seed": 2**32 - 100_000,
}
"""Setting -> the greatest value that can be meant; more hangs, takes all memory or breaks a library."""

MOST_POINTS = 1_000_000
"""Of a whole grid."""

LONGEST_TEXT = 100_000
"""Characters of a text setting."""


def within_reason(config: Any) -> None:
    """Raise ValueError for a number that cannot be meant, and for a text that is none."""
    for each in fields(config):
        value = getattr(config, each.name)
        if isinstance(value, str):
            plain_text(each.name, value)
        elif isinstance(value, int | float):
            at_most(each.name, value)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of all settings: numbers that can be meant, texts that are texts."""

    def __post_init__(self) -> None:
        within_reason(self)


def at_most(name: str, value: float) -> None:
    """Raise ValueError for a finite number above what the setting can mean."""
    most = MOST.get(name, math.inf)
    if most < value < math.inf:
        raise Mistake(f"`{name}` must be at most {most}, got {value}. Try {most}.")


def plain_text(name: str, value: str) -> None:
    """Raise ValueError for a text with control characters or halves of characters, or an endless one."""
    allowed = "\n\t" if name == "system_prompt" else ""
    for character in value:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") and character not in allowed:
            raise Mistake(
                f"`{name}` must be plain text, got the control character {character!r} in it. Leave that out."
            )
    if len(value) > LONGEST_TEXT:
        raise Mistake(f"`{name}` must have at most {LONGEST_TEXT} characters, got {len(value)}. Give a shorter text.")


def at_least(config: Any, least: int, names: Sequence[str]) -> None:
    """Raise ValueError for a whole-number setting below `least`."""
    for name in names:
        value = getattr(config, name)
        if value < least:
            raise Mistake(f"`{name}` must be a whole number of at least {least}, got {value}. Try {least}.")


def above_zero(config: Any, names: Sequence[str]) -> None:
    """Raise ValueError for a setting that is not a finite number above 0."""
    for name in names:
        default: Any = next(field.default for field in fields(config) if field.name == name)
        finite_above_zero(name, getattr(config, name), default)


def finite_above_zero(name: str, value: float, default: float) -> None:
    """Raise ValueError for a value that is not a finite number above 0."""
    if not (math.isfinite(value) and value > 0):
        raise Mistake(f"`{name}` must be a finite number above 0, got {value}. Try {default}.")


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise ValueError for a word that is not among those allowed."""
    if value not in allowed:
        raise Mistake(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}. Try {allowed[0]}.")


def check_grid(n_points: int, name: str = "n_points") -> None:
    """Raise ValueError for a grid that would skip the unperturbed model."""
    if n_points < 3 or n_points % 2 == 0:
        raise Mistake(
            f"`{name}` must be odd and at least 3, got {n_points}: an even grid skips the unperturbed model. "
            f"Try {max(3, n_points + 1)}."
        )


def check_line(n_points: int, extra: float, points_name: str = "n_points", extra_name: str = "extra") -> None:
    """Raise ValueError for a line between two models that could not hold both of them."""
    if n_points < 5 or n_points % 2 == 0:
        raise Mistake(
            f"`{points_name}` must be odd and at least 5 on a line between two models, got {n_points}: both must "
            f"be on it, and something past them. Try {max(5, n_points + 1)}."
        )
    if not (math.isfinite(extra) and extra >= 0):
        raise Mistake(f"`{extra_name}` must be a finite number, 0 or more, got {extra}. Try 0.5.")


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
