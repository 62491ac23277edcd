"""What holds the project together: rooms, pins, entry points, recipes, and how quick `--help` is."""

import ast
import functools
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from bad_input import ENTRY_POINTS

from visage_mlflow import config
from visage_mlflow.commands import command_line

ROOT = Path(__file__).parent.parent
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FILES = sorted(
    path.relative_to(ROOT) for top in ("visage_mlflow", "experiments") for path in ROOT.glob(f"{top}/**/*.py")
)
RECIPES = sorted((ROOT / "visage_mlflow" / "recipes").glob("*.yaml"))
MODELS = ("text", "geometry", "language")
ROOMS = {
    "text": (),
    "geometry": (),
    "language": ("text", "geometry"),
    "decoding": MODELS,
    "training": MODELS,
    "config": ("text", "language.judges"),
    "results": ("text",),
    "measuring": (*MODELS, "decoding", "config", "results"),
    "studies": (*MODELS, "decoding", "training", "config", "results", "measuring"),
    "search": (*MODELS, "training", "config", "results", "measuring", "studies"),
    "benchmark": (*MODELS, "decoding", "config", "results", "measuring", "studies"),
    "figures": ("text", "results"),
    "pages": ("text", "results", "search", "figures"),
    "tracking": ("text", "config", "results", "measuring"),
}
"""Room -> what its files may import of the other rooms. `commands`, which is on top, may import all of them."""


@functools.cache
def imported(path):
    """Every module a file imports, wherever in it, functions and type checking included."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages(path):
    return {name.partition(".")[0] for name in imported(path)} - set(sys.stdlib_module_names)


def python(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Rooms


def test_the_rooms_are_those_of_the_plan_and_every_file_says_what_it_is():
    rooms = {path.parts[1] for path in FILES if path.parts[0] == "visage_mlflow" and len(path.parts) > 2}
    assert rooms == {*ROOMS, "commands"}
    assert [str(path) for path in FILES if not ast.get_docstring(ast.parse((ROOT / path).read_text("utf-8")))] == []


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_down(room):
    allowed = tuple(f"visage_mlflow.{name}." for name in (room, *ROOMS[room]))
    for path in (path for path in FILES if path.parts[1] == room):
        own = [f"{name}." for name in imported(path) if name.startswith(("visage_mlflow", "experiments"))]
        assert [name for name in own if not name.startswith(allowed)] == [], path


def test_only_tracking_imports_mlflow():
    assert {path.parts[1] for path in FILES if "mlflow" in packages(path)} == {"tracking"}


def test_geometry_needs_only_torch_and_numpy_and_config_nothing():
    needs = {"geometry": {"torch", "numpy", "visage_mlflow"}, "config": {"visage_mlflow"}}
    for path in FILES:
        assert packages(path) <= needs.get(path.parts[1], packages(path)), path


def test_a_bare_gpu_machine_needs_no_mlflow():
    for room in ("geometry", "language", "decoding", "training"):
        assert "tracking" not in ROOMS[room] and set(ROOMS[room]) <= set(MODELS)


# Packages


def test_conda_and_pyproject_name_the_same_packages_in_the_same_words():
    environment = yaml.safe_load((ROOT / "conda.yaml").read_text(encoding="utf-8"))
    conda = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    project = PYPROJECT["project"]
    assert sorted(conda) == sorted(project["dependencies"] + project["optional-dependencies"]["dev"])
    assert all(entry.count("==") == 1 and "*" not in entry for entry in conda)
    assert "python=3.11" in environment["dependencies"] and project["requires-python"] == ">=3.11,<3.12"
    assert PROJECT["conda_env"] == "conda.yaml"


def test_every_package_that_is_imported_is_pinned():
    pinned = {re.split(r"[\[=]", entry)[0].lower() for entry in PYPROJECT["project"]["dependencies"]}
    own = {"visage_mlflow", "experiments", "yaml", "mpl_toolkits"}  # PyYAML's, and a part of matplotlib.
    assert set().union(*map(packages, FILES)) <= pinned | own


def test_every_room_and_what_it_reads_is_installed():
    setuptools = PYPROJECT["tool"]["setuptools"]
    assert setuptools["packages"]["find"] == {"include": ["visage_mlflow*"]}
    folders = {path.parent for path in FILES if path.parts[0] == "visage_mlflow"}
    assert [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").is_file()] == []
    globs = setuptools["package-data"]["visage_mlflow"]
    data = {path for glob in globs for path in ROOT.glob(f"visage_mlflow/{glob}")}
    assert data >= {path for path in ROOT.glob("visage_mlflow/**/*") if path.suffix in (".jsonl", ".yaml")} != set()


# Entry points


def test_each_entry_point_is_a_file_that_the_project_file_runs_with_its_recipe():
    assert set(PROJECT["entry_points"]) == set(ENTRY_POINTS)
    for name, entry in PROJECT["entry_points"].items():
        # A declared parameter is passed on with its default: it must be one that no recipe sets.
        declared = {"config": "", "budget": "default"} if name == "main" else {"config": ""}
        assert entry["parameters"] == {key: {"type": "string", "default": value} for key, value in declared.items()}
        words = [word for parameter in declared for word in (f"--{parameter}", f"{{{parameter}}}")]
        assert shlex.split(entry["command"]) == ["python", "-m", f"experiments.{name}", *words]
        assert set(declared) <= set(command_line.ONLY_FLAGS)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_an_entry_point_begins_with_its_two_commands(name):
    lines = importlib.import_module(f"experiments.{name}").__doc__.splitlines()
    commands = [line for line in lines if line.startswith(("mlflow run .", "python -m"))]
    assert len(commands) == 2
    assert commands[0].startswith("mlflow run ." if name == "main" else f"mlflow run . -e {name}")
    assert commands[1].startswith(f"python -m experiments.{name} ")


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_help_lists_every_setting_with_a_sentence(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [f"experiments/{name}.py"])
    with pytest.raises(SystemExit) as caught:
        command_line.run(*ENTRY_POINTS[name], ["--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0 and f"python -m experiments.{name}" in shown
    for key, _, declared in command_line.settings(ENTRY_POINTS[name][0]):
        text = declared.metadata["help"]
        assert f"--{key} " in shown and text[0].isupper() and text.endswith((".", "`.", ")."))


def test_help_imports_nothing_heavy():
    heavy = ["torch", "transformers", "mlflow", "trl", "peft", "datasets", "numpy", "matplotlib", "pydantic", "optuna"]
    blocked = f"import sys; sys.modules.update(dict.fromkeys({heavy}))"
    imports = "; ".join(f"import experiments.{name}" for name in ENTRY_POINTS)
    shown = python(f"{blocked}; {imports}; from experiments.main import *; run(MainConfig, main, ['--help'])")
    assert "--align.safe" in shown


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_every_number_has_bounds(name):
    for key, hint, declared in command_line.settings(ENTRY_POINTS[name][0]):
        rules = declared.metadata
        if hint in (int, float) and not key.endswith("points"):  # Which a plane has rules for.
            assert rules["most"] is not None and (rules["least"], rules["above"]) != (None, None), key


# Recipes


def leaves(settings, prefix=""):
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_arrives_whole_by_the_command_in_its_first_line(recipe):
    text = recipe.read_text(encoding="utf-8")
    assert text.startswith(("# mlflow run . ", "# mlflow run .\n"))
    command = re.sub("<.*?>", "placeholder", text.splitlines()[0])
    words = shlex.split(command.removeprefix("# mlflow run ."))
    options = list(zip(words[::2], words[1::2], strict=True))
    entry_point = next((value for flag, value in options if flag == "-e"), "main")
    parsed = command_line.parse(
        ENTRY_POINTS[entry_point][0], [f"--{value}" for flag, value in options if flag == "-P"]
    )
    for key, value in leaves(yaml.safe_load(text)):
        found = functools.reduce(getattr, key.split("."), parsed)
        assert found == value, key


def test_every_budget_of_main_is_a_recipe_that_its_help_describes():
    of_main = {recipe.stem for recipe in RECIPES if "align:" in recipe.read_text(encoding="utf-8")}
    help_text = config.MainConfig.__dataclass_fields__["budget"].metadata["help"]
    assert of_main == set(config.BUDGETS) and all(f"{budget} (" in help_text for budget in config.BUDGETS)


def test_every_class_of_settings_is_frozen_and_exported():
    for config_class, _ in ENTRY_POINTS.values():
        assert config_class.__dataclass_params__.frozen and getattr(config, config_class.__name__) is config_class
