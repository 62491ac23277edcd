"""Relative paths count from where a command was given, also where `mlflow run` starts it in the project's folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from small import save_small
from test_models import refusal

from visage_mlflow.commands.command_line import read_recipe
from visage_mlflow.config import FinetuneConfig
from visage_mlflow.language.folders import point_adapter_at
from visage_mlflow.language.models import load_weights
from visage_mlflow.language.prompts import read
from visage_mlflow.language.uris import check_uri
from visage_mlflow.measuring.store import store_folder
from visage_mlflow.search.storage import open_storage
from visage_mlflow.studies import finetuning
from visage_mlflow.text.folders import caller_folder, place_of


@pytest.fixture
def caller(tmp_path, monkeypatch):
    """The folder in which `mlflow run <project>` was given; the working folder is the project's."""
    for name in ("caller", "project"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "project")
    Path("MLproject").write_text("name: project\n")
    monkeypatch.setattr("visage_mlflow.text.folders._folder_of_mlflow", lambda here: tmp_path / "caller")
    return tmp_path / "caller"


# Where the caller was

ASK = "from visage_mlflow.text.folders import caller_folder; print(caller_folder())"
RUN_AS_MLFLOW = f"""
import os, subprocess, sys
run = {{**os.environ, "MLFLOW_RUN_ID": "inner"}}
command = f"true; {{sys.executable}} -c '{ASK}'"  # As MLflow does; bash stays between.
subprocess.run(["bash", "-c", command], cwd=sys.argv[1], env=run, check=True)
"""


@pytest.mark.parametrize("outer", [None, "outer"])
def test_the_caller_is_where_the_process_is_that_began_the_run(tmp_path, outer):
    for name in ("caller", "project"):
        (tmp_path / name).mkdir()
    (tmp_path / "project" / "MLproject").write_text("name: project\n")
    env = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"}
    env |= {"PYTHONPATH": str(Path(__file__).parent.parent)} | ({"MLFLOW_RUN_ID": outer} if outer else {})
    command = [sys.executable, "-c", RUN_AS_MLFLOW, str(tmp_path / "project")]
    shown = subprocess.run(command, cwd=tmp_path / "caller", env=env, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == str(tmp_path / "caller")


def test_a_command_of_its_own_counts_from_its_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert caller_folder() == tmp_path  # No project is here.
    Path("MLproject").write_text("name: project\n")
    monkeypatch.setenv("MLFLOW_RUN_ID", "set since the process began")
    assert caller_folder() == tmp_path


def test_where_the_callers_folder_cannot_be_found_a_line_says_what_paths_count_from(tmp_path, monkeypatch, capsys):
    def refuse():
        raise psutil.AccessDenied(1)

    monkeypatch.setattr(psutil, "Process", refuse)
    monkeypatch.chdir(tmp_path)
    Path("MLproject").write_text("name: project\n")
    assert caller_folder() == caller_folder() == tmp_path
    (line,) = capsys.readouterr().err.splitlines()
    assert "is unknown" in line and f"count from {tmp_path}" in line


# What is found from there


def test_models_data_and_recipes_are_found_in_the_callers_folder(caller):
    save_small(caller / "out" / "model")
    (caller / "rows.csv").write_text("goal\nHow?\n")
    (caller / "mine.yaml").write_text("seed: 3\n")
    for form in ("out/model", "./out/model", "../caller/out/model"):
        check_uri(form)
        load_weights(form)
    assert [row.prompt for row in read("rows.csv", setting="prompts")] == ["How?"]
    assert read_recipe("mine.yaml") == {"seed": 3}


def test_what_is_only_in_the_working_folder_is_found_there_and_the_callers_comes_first(caller):
    Path("both").mkdir(), Path("here").mkdir(), (caller / "both").mkdir()
    assert place_of("both") == caller / "both" and place_of("here") == Path("here")
    assert place_of("/both") == Path("/both") and place_of("nowhere") == caller / "nowhere"


def test_what_is_written_goes_into_the_callers_folder(caller):
    assert store_folder("points") == caller / "points"
    open_storage("studies/search.db", heartbeat=5, on_dead=lambda trial: None)
    assert (caller / "studies/search.db").is_file()
    save_small(caller / "model")
    finetuning.plan(FinetuneConfig(model="model", safe=1, output_dir="out"))
    assert (caller / "out").is_dir() and {path.name for path in Path().iterdir()} == {"MLproject"}


def test_an_adapters_base_is_written_as_a_whole_path_wherever_it_counts_from(caller):
    save_small(caller / "base")
    adapter = caller / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    point_adapter_at(adapter, "base")
    assert json.loads((adapter / "adapter_config.json").read_text()) == {
        "base_model_name_or_path": str(caller / "base")
    }


# What is not there


@pytest.mark.parametrize(
    "uri",
    [
        "./aligned",
        "../aligned",
        "models/aligned",
        "out/run/model",
        "org/name/",
        "/no/such",
        "~/no-such",
        "C:\\aligned",
    ],
)
def test_what_looks_like_a_path_and_is_not_there_is_a_missing_folder(caller, uri):
    message = refusal(check_uri, uri)
    assert f"is {uri!r}, a folder that does not exist" in message and "Check the spelling" in message
    assert (repr(str(caller)) in message) == (not uri.startswith(("/", "~")))


def test_a_name_below_a_folder_that_is_there_is_a_path_and_else_a_hub_id(caller):
    check_uri("trained/aligned")
    (caller / "trained").mkdir()
    assert "a folder that does not exist" in refusal(check_uri, "trained/aligned")


def test_a_hub_id_that_cannot_be_reached_says_where_a_folder_was_looked_for(caller):
    message = refusal(load_weights, "no-such-org/no-such-model")
    assert f"No folder has this name (relative paths count from {str(caller)!r})" in message
