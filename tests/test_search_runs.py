"""What a search leaves behind, as a user runs it, on the tiny trained model."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow.entities import Run
from workplace import Workplace, flags

from visage_mlflow.results import Search


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, sets: Path) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("workplace"), sets)


@pytest.fixture(scope="module")
def settings(place: Workplace, aligned_folder: Path) -> dict[str, Any]:
    """Of a study of which the first trial keeps the limits."""
    searched = {"safe": "20..50", "benign": "0..20", "learning_rate": "2e-3..6e-3", "epochs": 3, "lora_rank": 8}
    more = {"model": aligned_folder, "harmful": 20, "dtype": "float32", "train_batch_size": 8, "n_trials": 2}
    more |= {"n_prompts": 20, "n_checkpoints": 2, "storage": place.folder / "search.db"}
    return {**place.measure, **place.data, **searched, **more}


@pytest.fixture(scope="module")
def study(place: Workplace, settings: dict[str, Any]) -> Run:
    done = place.module("search", *flags({**settings, "keep_checkpoints": "true"}))
    assert done.returncode == 0, done.stderr
    return place.runs("search")[0]


@pytest.fixture(scope="module")
def result(place: Workplace, study: Run) -> Search:
    return Search.load(place.artifact(study, "search.json"))


def test_a_study_is_one_run_with_its_figures_and_its_trials_inside(
    place: Workplace, study: Run, result: Search
) -> None:
    promised = {
        "best_mixture.yaml",
        "check.json",
        "check_responses.jsonl",
        "config.json",
        "front.png",
        "safe_share.png",
    }
    assert promised | {"search.json", "study.html", "trials.csv"} == place.artifacts(study)
    best, metrics = result.trial(result.best), study.data.metrics
    assert metrics["n_complete"] + metrics["n_pruned"] == 2 and metrics["n_inside"] >= 1
    assert metrics["best_asr"] == best.asr <= 10 and metrics["best_over_refusal"] == best.over_refusal <= 20
    assert metrics["best_benign_nll"] == best.utility and metrics["best_margin"] == best.margin > 0
    assert {"base_asr", "base_benign_nll", "check_over_refusal", "check_unseen_asr"} <= set(metrics)
    # The whole set has 24 prompts, 4 of which no trial was measured on.
    whole = (20 * best.asr + 4 * metrics["check_unseen_asr"]) / 24
    assert metrics["check_asr"] == pytest.approx(whole) == pytest.approx(result.check.asr)
    assert metrics["check_inside"] == (metrics["check_asr"] <= 10)
    lines = list(csv.DictReader(place.artifact(study, "trials.csv").open(encoding="utf-8")))
    assert [line["state"] for line in lines] == [trial.state for trial in result.trials]
    trials = place.inside(study)
    assert {trial.info.run_id for trial in trials} == {trial.run for trial in result.trials}
    assert {trial.data.tags["visage.kind"] for trial in trials} == {"trial"}


def test_a_trial_is_a_finetuning_with_a_verdict(place: Workplace, study: Run, result: Search) -> None:
    best = result.trial(result.best)
    run = place.client.get_run(best.run)
    history = place.client.get_metric_history(best.run, "asr")
    assert len(history) == 3 and history[-1].step == best.steps == best.planned_steps
    assert run.data.metrics["inside"] == 1 and run.data.metrics["margin"] == best.margin
    assert (run.data.tags["visage.state"], run.data.tags["visage.reason"]) == ("COMPLETE", "inside")
    assert {"mixture.jsonl", "finetuning.json", "trajectory.png"} <= place.artifacts(run)
    rows = [json.loads(line) for line in place.artifact(run, "mixture.jsonl").read_text().splitlines()]
    assert sum(row["kind"] == "safe" for row in rows) == best.counts["safe"] == best.params["safe"]
    projected = place.module("project", *flags({"run": best.run, "n_points": 5, "margin_up_to": 0, **place.attack}))
    assert projected.returncode == 0, projected.stderr
    assert projected.stdout.count("  step ") == 2


def test_finetune_takes_the_best_mixture_as_it_is(place: Workplace, study: Run, result: Search) -> None:
    best = result.trial(result.best)
    done = place.module("finetune", "--config", str(place.artifact(study, "best_mixture.yaml")))
    assert done.returncode == 0, done.stderr
    metrics = place.runs("finetune")[0].data.metrics
    assert (metrics["asr"], metrics["over_refusal"]) == (best.asr, best.over_refusal)
    assert metrics["benign_nll"] == pytest.approx(best.utility, abs=1e-3)


def test_a_study_goes_on_only_with_its_own_scenario(place: Workplace, study: Run, settings: dict[str, Any]) -> None:
    done = place.module("search", *flags({**settings, "harmful": 21, "max_asr": 5}))
    assert (done.returncode, done.stdout) == (2, "")
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "`study` is 'mixtures', which was begun with harmful=20 (now 21), max_asr=10.0 (now 5.0)" in error
    assert "Name a new `study`" in error and len(place.runs("search")) == 1


def test_the_same_command_on_a_finished_study_loads_no_model_and_tells_the_same(
    place: Workplace, study: Run, result: Search, settings: dict[str, Any]
) -> None:
    done = place.module("search", *flags({**settings, "keep_checkpoints": "true"}))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("study mixtures: ") and f"best: trial {result.best} " in done.stdout
    assert " itself: " not in done.stdout and len(place.inside(study)) == len(result.trials)
    assert Search.load(place.artifact(study, "search.json")) == result


def test_a_front_of_task_rows_is_searched_by_the_likelihood_of_those_kept_out(
    place: Workplace, settings: dict[str, Any]
) -> None:
    task = {"task": 20, "task_data": place.data["benign_data"], "n_held_out": 10, "harmful": 0, "safe": 10}
    more = {"benign": 0, "objective": "pareto", "study": "front", "margin_up_to": 0}
    done = place.module("search", *flags({**settings, **task, **more}))
    assert done.returncode == 0, done.stderr
    run = place.runs("search")[0]
    result = Search.load(place.artifact(run, "search.json"))
    assert (result.objective, result.utility_name) == ("pareto", "task_nll") and result.front
    assert run.data.metrics["best_task_nll"] == result.trial(result.best).utility
    assert run.data.metrics["check_task_nll"] == pytest.approx(result.trial(result.best).utility)
    assert {trial.data.metrics["task_nll"] for trial in place.inside(run)} == {one.utility for one in result.trials}


def test_where_no_trial_is_inside_it_says_so_and_names_the_nearest(place: Workplace, settings: dict[str, Any]) -> None:
    broken = {"safe": 0, "benign": "0..10", "max_asr": 0, "study": "broken", "patience": 1, "outside_asr": 30}
    broken |= {"epochs": 6, "n_checkpoints": 3, "n_trials": 1}
    done = place.module("search", *flags({**settings, **broken}))
    assert done.returncode == 0, done.stderr
    assert (
        "No trial is inside: ASR at most 0 %, over-refusal at most 20 %." in done.stdout and "nearest: " in done.stdout
    )
    run = place.runs("search")[0]
    assert {"nearest_mixture.yaml"} == {name for name in place.artifacts(run) if name.endswith("mixture.yaml")}
    assert run.data.metrics["n_pruned"] >= 1 and "best_asr" not in run.data.metrics
    pruned = [trial for trial in place.inside(run) if trial.data.tags["visage.state"] == "PRUNED"]
    assert all("outside the basin at 1 checkpoints" in trial.data.tags["visage.reason"] for trial in pruned)


BAD = [
    ({"n_trials": 0}, "`n_trials` must be a whole number of at least 1, got 0."),
    ({"storage": "postgresql://ann:secret@127.0.0.1:9/studies"}, "`storage` is 'postgresql://ann:***@127.0.0.1:9/stu"),
    ({"storage": "old.journal"}, "`storage` is 'old.journal', but the studies in old.journal were kept by an earlier"),
    ({"safe": "0..500", "study": "large"}, "`safe` asks for 500 rows, but its data has 60."),
    ({"model": "org/none", "study": "no model"}, "`model` is 'org/none'"),
]


@pytest.mark.parametrize(("change", "said"), BAD, ids=[" ".join(f"{k}={v}" for k, v in one.items()) for one, _ in BAD])
def test_a_mistake_is_one_line_and_a_status_and_leaves_no_study(
    place: Workplace, study: Run, settings: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    (place.folder / "old.journal").write_text('{"op_code": 0}\n')
    done = place.module("search", *flags({**settings, **change}))
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2
    assert len(errors) == 1 and said in errors[0]
    assert "Traceback" not in done.stderr and "secret" not in done.stderr
    assert change.get("study") not in optuna.get_all_study_names(f"sqlite:///{place.folder / 'search.db'}")
    assert "RUNNING" not in {run.info.status for kind in ("search", "trial") for run in place.runs(kind)}
