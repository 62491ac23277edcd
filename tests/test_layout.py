"""What holds the tree together: pins, entry points and their declared parameters, recipes, imports, sizes."""

import ast
import dataclasses
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from visage_mlflow import config
from visage_mlflow.commands import command_line

ROOT = Path(__file__).parent.parent
CONFIGS = {
    "main": config.MainConfig,
    "finetune": config.FinetuneConfig,
    "evaluate": config.EvaluateConfig,
    "landscape": config.LandscapeConfig,
    "visage": config.VisageConfig,
    "project": config.ProjectConfig,
    "search": config.SearchConfig,
    "benchmark": config.BenchmarkConfig,
}
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
ENTRY_POINTS = PROJECT["entry_points"]
FILES = sorted(
    path.relative_to(ROOT) for wing in ("visage_mlflow", "experiments") for path in ROOT.glob(f"{wing}/**/*.py")
)
RECIPES = sorted((ROOT / "experiments" / "configs").glob("*.yaml"))


def tree(path):
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def imported(path):
    """Every module a file imports, wherever in it, functions and type checking included."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def imports_from(path, *packages):
    return sorted(name for name in imported(path) if any(f"{name}.".startswith(f"{package}.") for package in packages))


def python(code, **variables):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True
    )


# Pins


def test_conda_and_pyproject_name_the_same_packages_in_the_same_words():
    environment = yaml.safe_load((ROOT / "conda.yaml").read_text(encoding="utf-8"))
    conda = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert sorted(conda) == sorted(project["dependencies"] + project["optional-dependencies"]["dev"])
    assert all(entry.count("==") == 1 and "*" not in entry for entry in conda)
    assert "python=3.11" in environment["dependencies"]
    assert project["requires-python"] == ">=3.11,<3.12"


def test_the_project_file_uses_the_conda_file():
    assert PROJECT["conda_env"] == "conda.yaml" and (ROOT / "conda.yaml").is_file()


def test_every_package_that_is_imported_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {entry.partition("==")[0].lower() for entry in project["dependencies"]}
    pinned = names | {"yaml", "mpl_toolkits"}  # PyYAML's, and a part of matplotlib.
    tops = {name.partition(".")[0] for path in FILES for name in imported(path)}
    assert tops - set(sys.stdlib_module_names) - {"visage_mlflow", "experiments"} <= pinned


def test_every_package_folder_is_installed():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {".".join(path.parent.parts) for path in FILES if path.parts[0] == "visage_mlflow"}
    assert set(tool["packages"]) == folders


# Entry points


def test_the_project_file_lists_exactly_the_entry_points_there_are():
    modules = {path.stem for path in FILES if path.parts[0] == "experiments"} - {"__init__", "command_line", "signals"}
    assert modules == set(ENTRY_POINTS) == set(CONFIGS)
    classes = {value for value in vars(config).values() if dataclasses.is_dataclass(value)}
    assert set(CONFIGS.values()) == classes - {
        config.AttackConfig,
        config.MeasureConfig,
        config.LineConfig,
        config.PlaneConfig,
        config.ScenarioConfig,
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_an_entry_point_has_a_main_and_a_docstring_with_two_commands(name):
    module = importlib.import_module(f"experiments.{name}")
    assert get_type_hints(module.main)["config"] is CONFIGS[name]
    commands = [line for line in module.__doc__.splitlines() if line.startswith(("mlflow run .", "python -m"))]
    assert len(commands) == 2
    assert commands[0].startswith("mlflow run ." if name == "main" else f"mlflow run . -e {name}")
    assert commands[1].startswith(f"python -m experiments.{name} ")


@pytest.mark.parametrize("name", CONFIGS)
def test_declared_parameters_are_settings_with_the_same_default_and_type(name):
    fields = {field.name: field for field in dataclasses.fields(CONFIGS[name])}
    declared = ENTRY_POINTS[name]["parameters"]
    assert declared["config"] == {"type": "string", "default": ""}
    for parameter, entry in declared.items():
        if parameter == "config":
            continue
        default = fields[parameter].default
        assert entry["type"] == ("float" if isinstance(default, int | float) else "string"), parameter
        assert isinstance(entry["default"], str) == isinstance(default, str), parameter
        assert type(default)(entry["default"]) == default == entry["default"], parameter


@pytest.mark.parametrize("name", CONFIGS)
def test_the_command_passes_on_every_declared_parameter_and_nothing_else(name):
    entry = ENTRY_POINTS[name]
    words = [word for parameter in entry["parameters"] for word in (f"--{parameter}", f"{{{parameter}}}")]
    assert shlex.split(entry["command"]) == ["python", "-m", f"experiments.{name}", *words]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_declared_defaults_parse_to_the_config_without_flags(name, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    flags = [f"--{parameter}={entry['default']}" for parameter, entry in ENTRY_POINTS[name]["parameters"].items()]
    assert command_line.parse(CONFIGS[name], flags) == command_line.parse(CONFIGS[name], [])


@pytest.mark.parametrize("name", CONFIGS)
def test_help_lists_every_setting(name):
    shown = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0 and shown.stderr == ""
    assert f"python -m experiments.{name}" in shown.stdout
    assert all(f"--{key} " in shown.stdout for key, *_ in command_line._settings(CONFIGS[name]))


def test_importing_the_entry_points_imports_nothing_heavy():
    heavy = ["torch", "transformers", "mlflow", "trl", "peft", "datasets", "numpy", "matplotlib"]
    imports = "; ".join(f"import experiments.{name}" for name in CONFIGS)
    found = python(f"import sys; {imports}; print([name for name in {heavy} if name in sys.modules])")
    assert found.stdout.strip() == "[]", found.stderr


@pytest.mark.parametrize("config_class", [*CONFIGS.values(), config.AttackConfig, config.MeasureConfig])
def test_every_setting_has_help_that_is_a_sentence(config_class):
    hints = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if not dataclasses.is_dataclass(hints[field.name]):
            assert field.metadata["help"][0].isupper() and field.metadata["help"].endswith((".", "`.", ")."))


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
    assert text.startswith("# mlflow run . ") or text.startswith("# mlflow run .\n")
    command = re.sub("<.*?>", "placeholder", text.splitlines()[0])
    words = shlex.split(command.removeprefix("# mlflow run ."))
    options = list(zip(words[::2], words[1::2], strict=True))
    entry_point = next((value for flag, value in options if flag == "-e"), "main")
    flags = [f"--{value}" for flag, value in options if flag == "-P"]
    parsed = command_line.parse(CONFIGS[entry_point], flags)
    for key, value in leaves(yaml.safe_load(text)):
        found = parsed
        for part in key.split("."):
            found = getattr(found, part)
        assert found == value, key


def test_every_budget_that_main_offers_is_a_recipe():
    help_text = config.MainConfig.__dataclass_fields__["budget"].metadata["help"]
    assert all(f"{recipe.stem} (" in help_text for recipe in RECIPES if "align:" in recipe.read_text(encoding="utf-8"))
    for budget in ("default", "quick"):
        assert command_line.parse(config.MainConfig, ["--budget", budget]).budget == budget


# Imports


def test_geometry_and_language_import_without_mlflow():
    modules = [".".join(path.with_suffix("").parts) for path in FILES if path.parts[1] in ("geometry", "language")]
    names = [module.removesuffix(".__init__") for module in modules]
    done = python(f"import sys; sys.modules['mlflow'] = None; import {', '.join(names)}")
    assert len(names) >= 12 and done.returncode == 0, done.stderr


def test_only_tracking_imports_mlflow():
    assert [str(path) for path in FILES if imports_from(path, "mlflow")] == ["visage_mlflow/record/tracking.py"]


def test_imports_point_down():
    own = ("visage_mlflow", "experiments")
    wings = {
        "geometry": ("visage_mlflow.geometry",),
        "language": ("visage_mlflow.language", "visage_mlflow.geometry", "visage_mlflow.text.folders"),
        "record": ("visage_mlflow.record", "visage_mlflow.text.folders"),
    }
    for path in FILES:
        inside = imports_from(path, *own)
        if path.parts[0] == "experiments":
            continue
        assert not imports_from(path, "experiments"), path
        if path.name == "__main__.py":
            continue  # A command, which stands above the studies as entry points do.
        if path.parts[1] in wings:
            # `from visage_mlflow.language import prompts` is the import of the package, too.
            below = (*imports_from(path, *wings[path.parts[1]]),)
            assert set(inside) <= set(below), path
        else:
            assert not imports_from(path, "visage_mlflow.tracking.client", "visage_mlflow.tracking.runs"), path


def test_config_imports_only_what_keeps_help_quick():
    names = ("config", "measuring", "mixing", "searching", "settings")
    for path in (Path(f"visage_mlflow/{name}.py") for name in names):
        own = {name for name in imports_from(path, "visage_mlflow") if name.rpartition(".")[2].islower()}
        assert {name.partition(".")[0] for name in imported(path)} <= set(sys.stdlib_module_names) | {"visage_mlflow"}
        assert {name for name in own if name.split(".")[1] not in names} <= {"visage_mlflow.language.judges"}


def test_geometry_needs_only_torch_and_numpy():
    for path in FILES:
        if path.parts[1] == "geometry":
            tops = {name.partition(".")[0] for name in imported(path)} - set(sys.stdlib_module_names)
            assert tops <= {"torch", "numpy", "visage_mlflow"}, path


# Sizes


def test_no_file_passes_250_lines():
    lengths = {path.as_posix(): len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 250} == {}


def test_no_function_passes_60_lines_besides_its_docstring():
    def length(node):
        docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) else 0
        return node.end_lineno - node.lineno + 1 - docstring

    functions = {
        f"{path.as_posix()}:{node.name}": length(node)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in functions.items() if lines > 60} == {}


def test_every_file_says_what_it_is():
    assert [str(path) for path in FILES if not ast.get_docstring(tree(path))] == []
