"""The shell around every entry point: flags and recipe in, a config or one clear line out."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import jsonargparse
import yaml

RECIPES = Path(__file__).parent / "configs"

Config = TypeVar("Config")


def run(config_class: type[Config], entry_point: Callable[[Config], object], argv: Sequence[str] | None = None) -> int:
    """Parse, call the entry point, and turn a ValueError into one line and exit status 2.

    ``VISAGE_DEBUG=1`` shows the traceback instead. SIGTERM ends the process like Ctrl-C, so that the MLflow run is
    closed as KILLED.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        entry_point(parse(config_class, argv))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except ValueError as error:
        if os.environ.get("VISAGE_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def bar(total: int, title: str) -> Iterator[Callable[[float, float], None]]:
    """A progress bar with the time left, and a callback that moves it by one point."""
    from tqdm import tqdm

    with tqdm(total=total, desc=title, unit="point") as progress:

        def advance(step: float, asr: float) -> None:
            progress.set_postfix_str(f"ASR {asr:.0f} % at {step:+.2f}", refresh=False)
            progress.update()

        yield advance


def parse(config_class: type[Config], argv: Sequence[str] | None = None) -> Config:
    """The config that flags and recipe add up to.

    A recipe's values replace the defaults, and flags replace the recipe's. Under `mlflow run` every declared
    parameter arrives as a flag, given or not: there, a flag that only repeats the default yields to the recipe.

    Args:
        config_class: A frozen dataclass of `visage_mlflow.config`.
        argv: The flags; None takes the process' own.

    Raises:
        ValueError: A flag or a recipe's key is unknown, has the wrong type, or breaks the config's own rules.
    """
    parser = _parser(config_class)
    given = _flatten(_checked(parser.parse_args, list(sys.argv[1:] if argv is None else argv), defaults=False))
    name = given.pop("config", "") or _budget_recipe(config_class, given)
    recipe = _flatten(_checked(parser.parse_object, read_recipe(name), defaults=False)) if name else {}
    if os.environ.get("MLFLOW_RUN_ID"):
        defaults = _flatten(parser.get_defaults())
        given = {key: value for key, value in given.items() if key not in recipe or value != defaults[key]}
    config: Config = _build(config_class, {**recipe, **given})
    return config


def read_recipe(name: str) -> dict[str, Any]:
    """The settings in ``experiments/configs/<name>.yaml``, or in the YAML file that `name` is the path of."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
        raise ValueError(f"`config` must be one of {known}, or the path of a .yaml file, got {name!r}.")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"`config` is {name!r}, which is not YAML: {reason}. Mend the file.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"`config` is {name!r}, which must hold `setting: value` lines. Mend the file.")
    return settings


def _budget_recipe(config_class: type, given: dict[str, Any]) -> str:
    """`main` takes the recipe that its budget names; the others start from their defaults."""
    budget = next((field.default for field in fields(config_class) if field.name == "budget"), None)
    return "" if budget is None else str(given.get("budget", budget))


def _parser(config_class: type) -> jsonargparse.ArgumentParser:
    description = (config_class.__doc__ or "").splitlines()[0]
    parser = jsonargparse.ArgumentParser(
        prog=f"python -m experiments.{Path(sys.argv[0]).stem}", description=description, exit_on_error=False
    )
    parser.add_argument("--config", type=str, default="", help="Recipe: a name under experiments/configs, or a path.")
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
        kinds = {"<class 'int'>": "whole number", "<class 'float'>": "number", "<class 'str'>": "text"}
        for python, plain in kinds.items():
            text = text.replace(python, plain)
        text = text.replace('Parser key "', "`").replace('": Expected', "`: expected")
        raise ValueError(f"{text.rstrip('.')}. `--help` lists the settings and what they take.") from error


def _flatten(namespace: jsonargparse.Namespace) -> dict[str, Any]:
    return dict(namespace.items(branches=False))


def _build(config_class: Any, values: dict[str, Any]) -> Any:
    """The dataclass from dotted keys; sections first."""
    hints = get_type_hints(config_class)
    arguments = {key: value for key, value in values.items() if "." not in key}
    for name, hint in hints.items():
        if is_dataclass(hint):
            section = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{name}.")}
            arguments[name] = _build(hint, section)
    return config_class(**arguments)
