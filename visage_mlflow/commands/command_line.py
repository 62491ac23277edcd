"""The shell around every entry point: flags and recipe in, a config or one clear line out."""

from __future__ import annotations

import gc
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import jsonargparse
import yaml

from visage_mlflow.commands import signals
from visage_mlflow.config import BUDGETS
from visage_mlflow.config.fields import one_of
from visage_mlflow.language.folders import exists
from visage_mlflow.measuring.tally import TALLY
from visage_mlflow.text.errors import Mistake, ServerAway, explained
from visage_mlflow.text.printing import shown, tell

BOOLEANS = ("true", "false")
RECIPES = Path(__file__).parents[1] / "recipes"

Config = TypeVar("Config")

__all__ = ["bar", "parse", "run", "tell"]


def run(config_class: type[Config], entry_point: Callable[[Config], object], argv: Sequence[str] | None = None) -> int:
    """Parse, call the entry point, and turn whatever it raises into one line and an exit status that is not 0.

    The status is 2 for what the user can mend (`Mistake`), 3 where the tracking server stays away, so that the same
    command goes on later, 130 after an interrupt, else 1. ``--debug`` or ``VISAGE_DEBUG=1`` shows the traceback
    before the line. SIGTERM ends the process like Ctrl-C, so that the MLflow run is closed as KILLED.
    """
    flags = list(sys.argv[1:] if argv is None else argv)
    try:
        with signals.as_interrupts():
            entry_point(parse(config_class, flags))
    except KeyboardInterrupt:
        gc.freeze()  # Python looks through all objects when it ends, which takes seconds on a busy machine.
        tell("\nstopped", sys.stderr)
        return 130
    except (Exception, ServerAway) as error:
        if _is_debugging(flags):
            tell("".join(traceback.format_exception(error)).rstrip(), sys.stderr)
        tell(f"error: {explained(error)}", sys.stderr)
        return 2 if isinstance(error, Mistake) else 3 if isinstance(error, ServerAway) else 1
    if TALLY.read or TALLY.differing:
        tell(TALLY.in_words(), sys.stderr)
    return 0


def _is_debugging(flags: Sequence[str]) -> bool:
    """Whether tracebacks are wanted; told from the flags as typed, as they may be what is wrong."""
    text = f"{' '.join(flags)} "
    wanted = "--debug" in flags or "--debug=true" in flags
    if "--debug false " in text or "--debug=false " in text:
        wanted = False
    return wanted or bool(os.environ.get("VISAGE_DEBUG"))


@contextmanager
def bar(total: int, title: str) -> Iterator[Callable[[tuple[float, ...], float], None]]:
    """A progress bar with the time left, and a callback that moves it by one point."""
    from tqdm import tqdm

    with tqdm(total=total, desc=shown(title), unit="point") as progress:

        def advance(steps: tuple[float, ...], asr: float) -> None:
            seen = "skipped" if math.isnan(asr) else f"ASR {asr:.0f} %"
            progress.set_postfix_str(f"{seen} at {', '.join(f'{step:+.2f}' for step in steps)}", refresh=False)
            progress.update()

        yield advance


def parse(config_class: type[Config], argv: Sequence[str] | None = None) -> Config:
    """The config that flags and recipe add up to.

    A recipe's values replace the defaults, and flags replace the recipe's. Under `mlflow run` every declared
    parameter arrives as a flag, given or not: there, a flag that only repeats the default yields to the recipe, with
    a line on stderr that says so.

    Args:
        config_class: A frozen dataclass of `visage_mlflow.config`.
        argv: The flags; None takes the process' own.

    Raises:
        ValueError: A flag or a recipe's key is unknown, has the wrong type, or breaks the config's own rules.
    """
    parser = _parser(config_class)
    given = _flatten(_checked(parser.parse_args, list(sys.argv[1:] if argv is None else argv), defaults=False))
    one_of("debug", given.pop("debug", "true"), BOOLEANS)
    defaults = _flatten(parser.get_defaults())
    setting = "config" if given.get("config") or not hasattr(config_class, "budget") else "budget"
    # `main` takes the recipe that its budget names; the others start from their defaults.
    name = given.pop("config", "") or (given.get("budget", defaults["budget"]) if setting == "budget" else "")
    if setting == "budget":
        one_of("budget", name, BUDGETS)
    recipe = _recipe_settings(parser, config_class, read_recipe(name, setting), name) if name else {}
    _require_values({**given, **recipe}, defaults)
    if os.environ.get("MLFLOW_RUN_ID"):
        _let_defaults_yield(given, recipe, defaults, name)
    config: Config = _build(config_class, {**recipe, **given})
    return config


def read_recipe(name: str, setting: str = "config") -> dict[str, Any]:
    """The settings in ``visage_mlflow/recipes/<name>.yaml``, or in the YAML file that `name` is the path of.

    Raises:
        ValueError: There is no such recipe, or it is no UTF-8 YAML of settings; `setting` names it in the message.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not exists(str(path)) or not path.is_file():
        known = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
        raise Mistake(f"`{setting}` must be one of {known}, or the path of a .yaml file, got {name!r}. Check it.")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise Mistake(f"`{setting}` is {name!r}, which is not UTF-8 YAML: {reason}. Mend the file.") from error
    if not isinstance(settings, dict):
        raise Mistake(f"`{setting}` is {name!r}, which must hold `setting: value` lines. Mend the file.")
    return settings


def _recipe_settings(
    parser: jsonargparse.ArgumentParser, config_class: type, recipe: dict[str, Any], name: str
) -> dict[str, Any]:
    """A recipe's values by dotted key. jsonargparse itself ignores a section that is no mapping."""
    for flag in ("config", "debug"):
        if flag in recipe:
            raise Mistake(f"Recipe {name} sets `{flag}`, which only the command can. Take that line out.")
    for section, hint in get_type_hints(config_class).items():
        if is_dataclass(hint) and not isinstance(recipe.get(section, {}), dict):
            raise Mistake(
                f"Recipe {name}: `{section}` is a section, got {recipe[section]!r}. "
                f"Give it settings, as in `{section}: {{seed: 1}}`."
            )
    try:
        return _flatten(_checked(parser.parse_object, recipe, defaults=False))
    except ValueError as error:
        raise Mistake(f"Recipe {name}: {error}") from error


def _require_values(values: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Refuse `null`, which jsonargparse takes for any setting, where the setting cannot be left open."""
    for key, value in values.items():
        if value is None and defaults[key] is not None:
            raise Mistake(f"`{key}` must have a value, got null. The default is {defaults[key]!r}.")


def _let_defaults_yield(
    given: dict[str, Any], recipe: dict[str, Any], defaults: dict[str, Any], recipe_name: str
) -> None:
    """Take out of `given` the flags that only repeat a default where the recipe has a value."""
    for key in [key for key in recipe if key in given and given[key] == defaults[key]]:
        default = given.pop(key)
        if recipe[key] != default:
            tell(
                f"`{key}`: {recipe[key]!r} from recipe {recipe_name}; "
                f"to use the default {default!r}, put it into a recipe of your own",
                sys.stderr,
            )


def _parser(config_class: type) -> jsonargparse.ArgumentParser:
    description = (config_class.__doc__ or "").splitlines()[0]
    parser = jsonargparse.ArgumentParser(
        prog=f"python -m experiments.{Path(sys.argv[0]).stem}",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,  # `-P epoch=5` must not pass for `epochs`, or the run would record a setting it lacks.
    )
    parser.add_argument("--config", type=str, default="", help="Recipe: one of visage_mlflow/recipes, or a path.")
    parser.add_argument("--debug", nargs="?", const="true", default="false", help="Show tracebacks: true or false.")
    for key, hint, default, text in _settings(config_class):
        parser.add_argument(f"--{key}", type=hint, default=default, help=text)
    return parser


def _settings(config_class: type, prefix: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """(dotted key, type, default, help) of each setting, sections unfolded."""
    hints = get_type_hints(config_class)
    for field in fields(config_class):
        key = prefix + field.name
        if is_dataclass(hints[field.name]):
            yield from _settings(hints[field.name], f"{key}.")
        else:
            default = None if field.default is MISSING else field.default
            yield key, hints[field.name], default, field.metadata["help"].replace("%", "%%")


def _checked(parse: Callable[..., jsonargparse.Namespace], *args: Any, **kwargs: Any) -> jsonargparse.Namespace:
    try:
        return parse(*args, **kwargs)
    except jsonargparse.ArgumentError as error:
        text = " ".join(str(error).split())
        kinds = {
            "<class 'int'>": "whole number",
            "<class 'float'>": "number",
            "<class 'str'>": "text",
            "<class 'bool'>": "true or false value",
        }
        for python, plain in kinds.items():
            text = text.replace(python, plain)
        text = text.replace('Parser key "', "`").replace('": Expected', "`: expected")
        raise Mistake(f"{text.rstrip('.')}. `--help` lists the settings and what they take.") from error


def _flatten(namespace: jsonargparse.Namespace) -> dict[str, Any]:
    return dict(namespace.items(branches=False))


def _build(config_class: Any, values: dict[str, Any]) -> Any:
    """The dataclass from dotted keys; sections first."""
    hints = get_type_hints(config_class)
    arguments = {key: value for key, value in values.items() if "." not in key}
    for name, hint in hints.items():
        if is_dataclass(hint):
            section = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{name}.")}
            try:
                arguments[name] = _build(hint, section)
            except ValueError as error:
                raise Mistake(f"In `{name}`: {error}") from error
    return config_class(**arguments)
