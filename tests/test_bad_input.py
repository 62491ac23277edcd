"""Whatever is typed or read, what is wrong is one line that names it and says what to do; and no run stays open."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import bad_input
import pytest
from bad_input import ENTRY_POINTS, Bad

from visage_mlflow.commands import command_line

CURES = re.compile(
    r"--help|\b(Try|Give|Check|Name|Leave|Mend|Save|Choose|Ask|Raise|Free|Log|Use|Download|Widen|Begin|Write|Delete|"
    r"Measure|Retrain|Take|Lower|Point|use)\b"
)
ALL = bad_input.all_bad()
BY_SETTING = {key: list(group) for key, group in groupby(ALL, key=lambda bad: (bad.entry_point, bad.setting))}


@pytest.fixture(scope="module")
def store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An MLflow client of a store of its own, which this process uses, in a folder of its own."""
    import mlflow

    folder = tmp_path_factory.mktemp("bad")
    shutil.copy(empty_store, folder / "mlflow.db")
    bad_input.prepare(folder / "here")
    before = mlflow.get_tracking_uri()
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "VISAGE_DEBUG"):
            patch.delenv(name, raising=False)
        patch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        mlflow.set_experiment("visage_mlflow")
        yield mlflow.MlflowClient()
        mlflow.set_tracking_uri(before)
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


@pytest.fixture(scope="module")
def good(base_folder: Path, sets: Path, store: Any) -> dict[str, dict[str, str]]:
    """Flags of each entry point with which it would run."""
    attack = {"model": str(base_folder), "prompts": str(sets / "harmful_eval.jsonl"), "n_prompts": "2"}
    attack |= {"max_new_tokens": "16", "dtype": "float32"}
    measure = attack | {"benign_prompts": f"{sets / 'benign_eval.jsonl'}?response=answer", "n_benign": "2"}
    harmful = sets / "harmful_train.jsonl"
    data = {
        "harmful_data": f"{harmful}?response=opening",
        "safe_data": f"{harmful}?response=refusal",
        "benign_data": f"{sets / 'benign_train.jsonl'}?response=answer",
        "benign_answers": "data",
    }
    tune = measure | data | {"harmful": "2", "safe": "2", "benign": "2", "epochs": "1", "lora_rank": "2"}
    line = {"n_points": "3", "workers": "1"}
    search = measure | data
    search |= {"harmful": "2", "safe": "0..4", "benign": "0..4", "n_trials": "1", "storage": "s.journal"}
    # Limits that even two prompts may show to be kept.
    search |= {"max_asr": "95", "outside_asr": "95", "max_over_refusal": "95"}
    search |= {"n_check_prompts": "2", "n_check_benign": "2"}
    short = {"prompts": "2", "points": "3", "max_new_tokens": "2", "model": attack["model"]}
    return {
        "main": {"model": attack["model"]},
        "finetune": tune,
        "evaluate": measure,
        "compare": measure | line | {"other": "builtin:smollm2", "n_directions": "0"},
        "landscape": attack | line,
        "visage": attack | line | {"n_directions": "1"},
        "project": {name: attack[name] for name in attack if name != "model"} | {"run": "0" * 32},
        "search": search,
        "benchmark": short,
    }


def flags_of(bad: Bad, good: dict[str, dict[str, str]]) -> list[str]:
    """The good flags with one bad among them."""
    others = {name: value for name, value in good[bad.entry_point].items() if name != bad.setting}
    if bad.setting == "to":
        others |= {"plane": "1d-interpolation", "n_points": "5"}
        if bad.entry_point == "project":
            del others["run"]
            others |= dict.fromkeys(("model", "checkpoints"), good["evaluate"]["model"])
    if bad.setting in ("checkpoints", "model") and bad.entry_point == "project":
        others.pop("run")
        others[{"model": "checkpoints", "checkpoints": "model"}[bad.setting]] = good["evaluate"]["model"]
    if bad.entry_point == "compare" and bad.setting == "run":
        del others["other"]
    if bad.setting.startswith("y_"):
        others["plane"] = "2d-random"
    if bad.setting == "task_data":
        others["task"] = "1"
    return [f"--{name}={value}" for name, value in others.items()] + [bad.flag.replace("{here}", "here")]


def faults(bad: Bad, status: int, err: str) -> list[str]:
    """What is wrong with how a mistake was told."""
    lines = err.splitlines()
    name = bad.setting.rpartition(".")[2]
    # Who asks the tracking server for a model names it by its URI.
    is_named = name in err or (bad.value.startswith(("runs:/", "models:/")) and bad.value in err)
    told = {
        "a status other than 2": status != 2,
        "not one line": len(lines) != 1 or not lines[0].startswith("error: "),
        "a traceback": "Traceback" in err,
        f"{name} is not named": not is_named,
        "no cure": not CURES.search(err),
        "a secret": "hunter2" in err,
        "control characters": not "".join(lines).isprintable(),
        "too long": len(err) > 1500,
    }
    return [fault for fault, is_so in told.items() if is_so]


def running(store: Any) -> list[Any]:
    ids = [experiment.experiment_id for experiment in store.search_experiments()]
    return list(store.search_runs(ids, "attributes.status = 'RUNNING'"))


def told(bad: Bad, good: dict[str, dict[str, str]], capfd: pytest.CaptureFixture[str]) -> list[str]:
    """What is wrong with how an entry point ends that gets a bad value among good ones."""
    status = command_line.run(*ENTRY_POINTS[bad.entry_point], flags_of(bad, good))
    err = capfd.readouterr().err
    wrong = faults(bad, status, err)
    return [bad.value[:60], *wrong, err[-700:]] if wrong else []


@pytest.mark.parametrize("key", BY_SETTING, ids=" ".join)
def test_a_bad_value_of_a_setting_is_refused_in_one_line(
    key: tuple[str, str], store: Any, good: dict[str, dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert [wrong for bad in BY_SETTING[key] if (wrong := told(bad, good, capfd))] == []


@pytest.mark.parametrize("bad", bad_input.TO_THE_END, ids=lambda bad: bad.entry_point)
def test_what_only_the_work_itself_finds_out_is_refused_in_one_line_and_leaves_no_open_run(
    bad: Bad, store: Any, good: dict[str, dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    command_line.parse(ENTRY_POINTS[bad.entry_point][0], flags_of(bad, good))
    assert told(bad, good, capfd) == []
    ids = [experiment.experiment_id for experiment in store.search_experiments()]
    assert {run.info.status for run in store.search_runs(ids)} <= {"FAILED"}


def test_there_are_more_than_a_thousand_bad_values_and_some_for_every_setting(record_property: Any) -> None:
    record_property("bad inputs", len(ALL))
    assert len(ALL) > 1092
    assert {bad.entry_point for bad in bad_input.TO_THE_END} == set(ENTRY_POINTS)
    for name, (config_class, _) in ENTRY_POINTS.items():
        for setting, *_ in command_line.settings(config_class):
            if not (name == "main" and "." in setting):
                assert (name, setting) in BY_SETTING
