"""How a setting is declared, and the rules that several settings share. Light to import."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

from visage_mlflow.text.errors import Mistake
from visage_mlflow.text.names import check_decodable

ALL_CHECKPOINTS = re.compile(r"runs:/([^/]+)/?")
"""A URI that stands for all checkpoints of a finetune run."""

LONGEST_TEXT = 100_000
"""Characters that a text setting may have."""
MOST_ROWS = 10_000_000
"""The greatest number of rows that a setting may ask for. How many there are is known when the data is read."""
MOST_TOKENS = 32_768
"""The greatest length of an answer, in tokens."""
MOST_WORKERS = 256
LONGEST_AXIS = 1000.0
"""How far an axis may reach: beyond it the weights are noise, or not finite."""
MOST_AXIS_POINTS = 10_001
MOST_GRID_POINTS = 1_000_000
GREATEST_SEED = 2**32 - 100_000
"""numpy, which transformers seeds, takes 32 bits; a few seeds after the one that is given are used, too."""


def setting(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    choices: Sequence[str] = (),
    multiline: bool = False,
) -> Any:
    """A dataclass field with its default, its description and its rules, which `Settings` checks.

    Args:
        default: Its value where none is given. If it is not None, the setting cannot be None.
        help: One sentence with the unit, for `--help`.
        least: The least number allowed.
        above: Instead of `least`: the number itself is not allowed, all above it are.
        most: The greatest number that can be meant; more hangs, takes all memory or breaks a library.
        choices: The only texts allowed; any text if empty.
        multiline: Whether a text may have line ends and tabs.
    """
    rules = {"least": least, "above": above, "most": most, "choices": tuple(choices), "multiline": multiline}
    return field(default=default, metadata={"help": help, **rules})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of all settings: each keeps the rules that it was declared with, or `Mistake` is raised."""

    def __post_init__(self) -> None:
        for each in fields(self):
            check(each, getattr(self, each.name))


def check(declared: Field[Any], value: Any) -> None:
    """Raise Mistake for a value that breaks the rules of its setting."""
    name, rules = declared.name, declared.metadata
    if value is None and declared.default is not None:
        raise Mistake(f"`{name}` must have a value, got null. Leave it out for the default, {declared.default!r}.")
    if isinstance(value, str):
        plain_text(name, value, rules["multiline"])
        if rules["choices"]:
            one_of(name, value, rules["choices"])
    elif isinstance(value, int | float):
        check_number(declared, value)


def check_number(declared: Field[Any], value: float) -> None:
    """Raise Mistake for a number outside of its setting's bounds."""
    name, default = declared.name, declared.default or 0.5
    least, above, most = (declared.metadata[rule] for rule in ("least", "above", "most"))
    if least is not None and "float" in str(declared.type):
        if not least <= value <= most:
            raise Mistake(f"`{name}` must be between {least} and {most}, got {value}. Try {default}.")
    elif most is not None and most < value < math.inf:
        raise Mistake(f"`{name}` must be at most {most}, got {value}. Try {most}.")
    elif least is not None and value < least:
        raise Mistake(f"`{name}` must be a whole number of at least {least}, got {value}. Try {least}.")
    elif above is not None and not above < value < math.inf:
        raise Mistake(f"`{name}` must be a finite number above {above}, got {value}. Try {default}.")


def plain_text(name: str, value: str, is_multiline: bool = False) -> None:
    """Raise Mistake for a text with control characters or halves of characters, or one that is too long."""
    check_decodable(f"`{name}`", value)
    allowed = "\n\t" if is_multiline else ""
    for character in value:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") and character not in allowed:
            raise Mistake(
                f"`{name}` must be plain text, got the control character {character!r} in it. Leave that out."
            )
    if len(value) > LONGEST_TEXT:
        raise Mistake(f"`{name}` must have at most {LONGEST_TEXT} characters, got {len(value)}. Give a shorter text.")


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise Mistake for a word that is not among those allowed."""
    if value not in allowed:
        raise Mistake(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}. Try {allowed[0]}.")


def check_odd(name: str, n_points: int, least: int, reason: str) -> None:
    """Raise Mistake for a number of points along an axis that is even or below `least`."""
    if n_points < least or n_points % 2 == 0:
        raise Mistake(
            f"`{name}` must be odd and at least {least}, got {n_points}: {reason}. Try {max(least, n_points + 1)}."
        )


def listed(text: str) -> list[str]:
    """The words between commas.

    >>> listed("a, b,")
    ['a', 'b']
    """
    return [word.strip() for word in text.split(",") if word.strip()]
