"""The shell around every entry point: flags and recipe in, a config or one clear line out."""

from __future__ import annotations

import gc
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from visage_mlflow.commands import signals
from visage_mlflow.commands.endings import ENDINGS, told
from visage_mlflow.config import BUDGETS, MainConfig
from visage_mlflow.config.attack import cautions
from visage_mlflow.config.fields import one_of
from visage_mlflow.language.folders import exists
from visage_mlflow.measuring.tally import TALLY
from visage_mlflow.text.errors import Mistake, one_line
from visage_mlflow.text.folders import place_of
from visage_mlflow.text.names import check_decodable
from visage_mlflow.text.printing import shown, tell

BOOLEANS = ("true", "false")
KINDS = {"int": "whole number", "float": "number", "str": "text", "bool": "true or false value", "dict": "mapping"}
UNION = re.compile(
    r'": Does not validate against any of the Union subtypes .*?Errors: (.*?) Given value type: .*?:(?: |(?=\.))', re.S
)
"""How jsonargparse begins to say that a value is none of several kinds."""
ONLY_FLAGS = ("config", "budget", "debug")
"""What no recipe sets: `mlflow run` passes the first two on, given or not, and would win over a recipe's."""
RECIPES = Path(__file__).parents[1] / "recipes"

Config = TypeVar("Config")

__all__ = ["bar", "parse", "run", "tell"]


def run(config_class: type[Config], entry_point: Callable[[Config], object], argv: Sequence[str] | None = None) -> int:
    """Parse, call the entry point, and turn whatever it raises into one line and an exit status that is not 0.

    The status is that of `endings.told`. ``--debug`` or ``VISAGE_DEBUG=1`` shows the traceback before the line.
    SIGTERM ends the process like Ctrl-C, so that the MLflow run is closed as KILLED.
    """
    flags = list(sys.argv[1:] if argv is None else argv)
    try:
        with signals.as_interrupts():
            config = parse(config_class, flags)
            for caution in cautions(config):
                tell(f"warning: {caution}", sys.stderr)
            entry_point(config)
    except ENDINGS as error:
        if isinstance(error, KeyboardInterrupt):
            gc.freeze()  # Python looks through all objects when it ends, which takes seconds on a busy machine.
        elif _is_debugging(flags):
            tell("".join(traceback.format_exception(error)).rstrip(), sys.stderr)
        return told(error)
    if TALLY.read or TALLY.differing:
        tell(TALLY.in_words(), sys.stderr)
    return 0


def _is_debugging(flags: Sequence[str]) -> bool:
    """Whether tracebacks are wanted; read from the flags as typed, as they may be what is wrong."""
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
    """The config that flags and recipe add up to: a recipe's values replace the defaults, and flags the recipe's.

    Args:
        config_class: A frozen dataclass of `visage_mlflow.config`.
        argv: The flags; None takes the process' own.

    Raises:
        Mistake: A flag or a recipe's line is not one of the settings, or a value breaks the rules of its setting.
    """
    parser = _parser(config_class)
    typed = list(sys.argv[1:] if argv is None else argv)
    check_flags(typed)
    flags = _checked(parser.parse_args, typed)
    one_of("debug", flags.pop("debug", "true"), BOOLEANS)
    name, setting = flags.pop("config", ""), "config"
    if not name and config_class is MainConfig:  # `main` takes the recipe that its budget names.
        name, setting = flags.get("budget", BUDGETS[0]), "budget"
        one_of("budget", name, BUDGETS)
    if name:
        recipe = _recipe_values(parser, config_class, read_recipe(name, setting), name)
        recipe.update(flags)
        flags = recipe
    config: Config = _build(config_class, flags.as_dict())
    return config


def check_flags(typed: Sequence[str]) -> None:
    """Raise Mistake for a flag or its value that holds bytes which are not UTF-8: the parser would name neither."""
    flag = "A flag"
    for text in typed:
        name, is_assigned, value = text.partition("=")
        if name.startswith("--"):
            check_decodable("A flag", name, "Check the spelling; `--help` lists the settings")
            flag, text = f"`{name.removeprefix('--')}`", value if is_assigned else ""
        check_decodable(flag, text)


def read_recipe(name: str, setting: str = "config") -> dict[str, Any]:
    """The settings in ``visage_mlflow/recipes/<name>.yaml``, or in the YAML file that `name` is the path of.

    Raises:
        Mistake: There is no such recipe, or it is no UTF-8 YAML of settings; `setting` names it in the message.
    """
    is_path = name.endswith((".yaml", ".yml")) and exists(name)
    path = place_of(name) if is_path else RECIPES / f"{name}.yaml"
    if not exists(str(path)) or not path.is_file():
        known = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
        raise Mistake(f"`{setting}` must be one of {known}, or the path of a .yaml file, got {name!r}. Check it.")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise Mistake(f"`{setting}` is {name!r}, which is not UTF-8 YAML: {one_line(error)} Mend the file.") from error
    if not isinstance(settings, dict):
        raise Mistake(f"`{setting}` is {name!r}, which must hold `setting: value` lines. Mend the file.")
    return settings


def _recipe_values(parser: ArgumentParser, config_class: type, recipe: dict[str, Any], name: str) -> Namespace:
    """A recipe's values, nested by section; each has the type of its setting."""
    for flag in ONLY_FLAGS:
        if flag in recipe:
            raise Mistake(f"Recipe {name} sets `{flag}`, which only the command can. Take that line out.")
    for section in _sections(config_class):  # jsonargparse itself takes anything for a section.
        if not isinstance(recipe.get(section, {}), dict):
            raise Mistake(
                f"Recipe {name}: `{section}` is a section, got {recipe[section]!r}. "
                f"Give it settings, as in `{section}: {{seed: 1}}`."
            )
    try:
        return _checked(parser.parse_object, recipe)
    except Mistake as mistake:
        raise Mistake(f"Recipe {name}: {mistake}") from mistake


def _parser(config_class: type) -> ArgumentParser:
    """A parser of all settings of a class.

    Its settings are added one by one, as jsonargparse's own reading of a dataclass takes no help from the fields'
    metadata, lets `align: 5` pass for a section, and cannot say in which section a rule was broken.
    """
    parser = ArgumentParser(
        prog=f"python -m experiments.{Path(sys.argv[0]).stem}",
        description=(config_class.__doc__ or "").splitlines()[0],
        exit_on_error=False,
        allow_abbrev=False,  # `-P epoch=5` must not pass for `epochs`, or the run would record a setting it lacks.
    )
    parser.add_argument("--config", type=str, default="", help="Recipe: one of visage_mlflow/recipes, or a path.")
    parser.add_argument("--debug", nargs="?", const="true", default="false", help="Show tracebacks: true or false.")
    for key, hint, declared in settings(config_class):
        text = declared.metadata["help"].replace("%", "%%")
        parser.add_argument(f"--{key}", type=hint, default=declared.default, help=text)
    return parser


def settings(config_class: type, prefix: str = "") -> Iterator[tuple[str, Any, Field[Any]]]:
    """(dotted key, type, declaration) of each setting, those in sections included."""
    hints = get_type_hints(config_class)
    for field in fields(config_class):
        if is_dataclass(hints[field.name]):
            yield from settings(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", hints[field.name], field


def _sections(config_class: type) -> dict[str, Any]:
    """The settings that are dataclasses themselves, as those of `main`."""
    return {name: hint for name, hint in get_type_hints(config_class).items() if is_dataclass(hint)}


def _checked(parse: Callable[..., Namespace], given: object) -> Namespace:
    """What a parser makes of flags or of a recipe, without the defaults; what it refuses is one line."""
    try:
        return parse(given, defaults=False)
    except ArgumentError as error:
        text = one_line(error)
        text = UNION.sub(_in_kinds, text)
        for python, plain in KINDS.items():
            text = text.replace(f"<class '{python}'>", plain)
        text = text.replace('Parser key "', "`").replace('": Expected', "`: expected")
        raise Mistake(f"{text} `--help` lists the settings and what they take.") from error


def _in_kinds(match: re.Match[str]) -> str:
    """That a value is none of several kinds, in one phrase; null, which leaves a setting out, is no kind."""
    kinds = [kind for kind in re.findall(r"<class '(\w+)'>", match[1]) if kind != "NoneType"]
    return '": Expected a ' + " or a ".join(f"<class '{kind}'>" for kind in dict.fromkeys(kinds)) + ". Given value: "


def _build(config_class: Any, values: dict[str, Any]) -> Any:
    """The dataclass of the values, and inside it those of its sections; a mistake says in which section it is."""
    sections = {}
    for name, section in _sections(config_class).items():
        try:
            sections[name] = _build(section, values.get(name, {}))
        except Mistake as mistake:
            raise Mistake(f"In `{name}`: {mistake}") from mistake
    return config_class(**{**values, **sections})
