"""What a search leaves behind, as a user runs it, on the tiny trained model."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow.entities import Run
from workplace import Workplace

from visage_mlflow.commands import search as command
from visage_mlflow.commands.command_line import parse
from visage_mlflow.config import FinetuneConfig
from visage_mlflow.results import Search


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, sets: Path) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("workplace"), sets)


@pytest.fixture(scope="module")
def settings(place: Workplace, aligned_folder: Path) -> dict[str, Any]:
    """Of a study of which the first trial keeps the limits."""
    searched = {"safe": "20..50", "benign": "0..20", "learning_rate": "1e-3..2e-3", "epochs": 3, "lora_rank": 8}
    more = {"model": aligned_folder, "harmful": 20, "dtype": "float32", "train_batch_size": 8, "n_trials": 2}
    more |= {"n_prompts": 12, "n_check_prompts": 12, "n_benign": 8, "n_check_benign": 8, "max_asr": 40}
    more |= {"max_over_refusal": 95, "check_seeds": 2, "max_checks": 1, "n_checkpoints": 2}
    more |= {"storage": place.folder / "search.db", "keep_checkpoints": "true"}
    return {**place.measure, **place.data, **searched, **more}


@pytest.fixture(scope="module")
def interrupted(place: Workplace, settings: dict[str, Any]) -> Run:
    """The study's run after Ctrl-C in its first trial."""

    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "finetune", interrupt)
        status, _, errors = place.here("search", **settings)
    assert status == 130 and "Traceback" not in errors
    return place.runs("search")[0]


@pytest.fixture(scope="module")
def study(place: Workplace, settings: dict[str, Any], interrupted: Run) -> Run:
    """The study's run after the same command went on to the end."""
    return place.succeed("search", **settings)


@pytest.fixture(scope="module")
def result(place: Workplace, study: Run) -> Search:
    return Search.load(place.artifact(study, "search.json"))


def test_an_interrupted_study_goes_on_with_the_same_trial_in_the_same_run(
    place: Workplace, interrupted: Run, study: Run, result: Search
) -> None:
    assert interrupted.info.status == "KILLED" and interrupted.info.run_id == study.info.run_id
    first, again, other = result.trials
    assert (first.state, again.state, other.retry_of) == ("failed", "complete", None)
    assert again.retry_of == 0 and again.params == first.params != other.params
    status = {trial.info.run_id: trial.info.status for trial in place.inside(study)}
    assert [status[trial.run] for trial in result.trials] == ["KILLED", "FINISHED", "FINISHED"]


def test_a_study_is_one_run_with_its_figures_and_its_trials_inside(
    place: Workplace, study: Run, result: Search
) -> None:
    tables = {"search.json", "trials.csv", "study.html", "config.json", "best_mixture.yaml"}
    assert tables | {"front.png", "safe_share.png"} == place.artifacts(study)
    best, metrics = result.trial(result.best), study.data.metrics
    assert metrics["overlap"] == 0
    assert metrics["n_complete"] + metrics["n_pruned"] == 2 and metrics["n_inside"] >= 1
    assert metrics["best_asr"] == best.asr < metrics["best_asr_upper"] == best.asr_upper <= 40
    assert metrics["best_over_refusal"] == best.over_refusal < best.over_refusal_upper <= 95
    assert metrics["best_benign_nll"] == best.utility and metrics["best_margin"] == best.margin > 0
    assert {"base_asr", "base_benign_nll"} <= set(metrics)
    # The best was trained anew with two other seeds, and measured on the 12 prompts that no trial saw.
    (check,) = result.checks
    assert (check.trial, check.seeds, check.holds) == (result.best, (1, 2), True)
    assert metrics["check_asr"] == check.mean("asr") < metrics["check_asr_upper"] == check.asr_upper <= 40
    assert metrics["check_over_refusal_spread"] == check.spread("over_refusal")
    lines = list(csv.DictReader(place.artifact(study, "trials.csv").open(encoding="utf-8")))
    assert [line["state"] for line in lines] == [trial.state for trial in result.trials]
    assert {trial.data.tags["visage.kind"] for trial in place.inside(study)} == {"trial", "check"}


def test_a_trial_is_a_finetuning_with_a_verdict(place: Workplace, study: Run, result: Search) -> None:
    best = result.trial(result.best)
    run = place.client.get_run(best.run)
    history = place.client.get_metric_history(best.run, "asr")
    assert len(history) == 3 and history[-1].step == best.steps == best.planned_steps
    assert run.data.metrics["inside"] == 1 and run.data.metrics["margin"] == best.margin
    # An interval that was asked of the store, as its ends at the base and at the checkpoint were measured already.
    assert run.data.metrics["margin_low"] == best.margin_low <= best.margin <= best.margin_high
    assert run.data.metrics["margin_high"] == best.margin_high
    assert run.data.metrics["edge_open"] == best.margin_is_open
    assert run.data.metrics["edge_high_open"] == best.margin_high_is_open
    assert run.data.tags["visage.margin"].startswith(f"{best.margin_in_words}.")
    assert (run.data.tags["visage.state"], run.data.tags["visage.reason"]) == ("COMPLETE", "inside")
    assert {"mixture.jsonl", "finetuning.json", "trajectory.png"} <= place.artifacts(run)
    rows = [json.loads(line) for line in place.artifact(run, "mixture.jsonl").read_text().splitlines()]
    assert sum(row["kind"] == "safe" for row in rows) == best.counts["safe"] == best.params["safe"]
    status, said, errors = place.here("project", run=best.run, n_points=5, margin_up_to=0, **place.attack)
    assert status == 0, errors
    assert said.count("  step ") == 2


def test_finetune_takes_the_best_mixture_as_exactly_what_was_trained(
    place: Workplace, study: Run, result: Search
) -> None:
    given = parse(FinetuneConfig, ["--config", str(place.artifact(study, "best_mixture.yaml"))])
    trained = json.loads(
        place.artifact(place.client.get_run(result.trial(result.best).run), "config.json").read_text()
    )
    assert given == FinetuneConfig(**trained)


def test_a_study_goes_on_only_with_its_own_scenario(place: Workplace, study: Run, settings: dict[str, Any]) -> None:
    status, said, errors = place.here("search", **{**settings, "harmful": 21, "max_asr": 30})
    assert (status, said) == (2, "")
    (error,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "`study` is 'mixtures', which was begun with harmful=20 (now 21), max_asr=40.0 (now 30.0)" in error
    assert "Name a new `study`" in error and len(place.runs("search")) == 1


def test_the_same_command_on_a_finished_study_loads_no_model_and_tells_the_same(
    place: Workplace, study: Run, result: Search, settings: dict[str, Any]
) -> None:
    status, said, errors = place.here("search", **settings)
    assert status == 0, errors
    assert f"study 'mixtures' goes on after {len(result.trials)} trials in " in said
    assert f"best: trial {result.best} " in said
    assert " itself: " not in said and len(place.inside(study)) == len(result.trials) + 2
    assert Search.load(place.artifact(study, "search.json")) == result


def test_a_front_of_task_rows_is_searched_by_the_likelihood_of_those_kept_out(
    place: Workplace, settings: dict[str, Any]
) -> None:
    task = {"task": 20, "task_data": place.data["benign_data"], "n_held_out": 10, "harmful": 0, "safe": 10}
    more = {"benign": 0, "objective": "pareto", "study": "front", "margin_up_to": 0, "n_trials": 1}
    run = place.succeed("search", **{**settings, **task, **more})
    result = Search.load(place.artifact(run, "search.json"))
    assert (result.objective, result.utility_name, result.front) == ("pareto", "task_nll", (0,))
    assert run.data.metrics["best_task_nll"] == result.trial(0).utility
    trials = [one for one in place.inside(run) if one.data.tags["visage.kind"] == "trial"]
    assert [trial.data.metrics["task_nll"] for trial in trials] == [result.trial(0).utility]


def test_where_no_trial_is_inside_it_says_so_and_names_the_nearest(place: Workplace, settings: dict[str, Any]) -> None:
    broken = {"safe": 0, "benign": "0..10", "max_asr": 21, "study": "broken", "patience": 1, "outside_asr": 30}
    broken |= {"learning_rate": "2e-3..6e-3", "epochs": 6, "n_checkpoints": 3, "n_trials": 1}
    status, said, errors = place.here("search", **{**settings, **broken})
    assert status == 0, errors
    assert "No trial is inside: ASR at most 21 % and over-refusal at most 95 % by their" in said
    assert "nearest: " in said
    run = place.runs("search")[0]
    assert {"nearest_mixture.yaml"} == {name for name in place.artifacts(run) if name.endswith("mixture.yaml")}
    assert run.data.metrics["n_pruned"] == 1 and "best_asr" not in run.data.metrics
    (pruned,) = place.inside(run)
    assert pruned.data.tags["visage.state"] == "PRUNED"
    assert "ASR of 30 % or more at 1 checkpoints" in pruned.data.tags["visage.reason"]


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
    status, _, complained = place.here("search", **{**settings, **change})
    (error,) = [line for line in complained.splitlines() if line.startswith("error: ")]
    assert status == 2 and said in error
    assert "Traceback" not in complained and "secret" not in complained
    assert change.get("study") not in optuna.get_all_study_names(f"sqlite:///{place.folder / 'search.db'}")
    assert "RUNNING" not in {run.info.status for kind in ("search", "trial") for run in place.runs(kind)}
