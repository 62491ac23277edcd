"""An Optuna study of mixtures: opened with its scenario, and read as a result."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import TypeAdapter

from visage_mlflow.config.search import Range, SearchConfig, utility_name
from visage_mlflow.results import Evaluation, Search, Trial
from visage_mlflow.search import heartbeats
from visage_mlflow.search.sampler import Sampler, quietly
from visage_mlflow.text.errors import Mistake

SCENARIO = "scenario"
CHECK = "check"
RUN = "run"
DONE = "done"
"""Number of trials that a study had when its best one was checked, or none was inside."""
FAILED = "failed"
"""Noted on a trial that failed by itself. One that died has it not, whatever else it had noted by then."""
BRIEFLY = 5.0
"""Seconds to wait for what another process sets right after it made the study."""
OBJECTIVES = {"utility": ["utility"], "pareto": ["asr", "over_refusal", "utility"]}
"""What each objective minimizes."""
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
MOST_RETRIES = 2
"""How often a trial whose process died is taken up again: what kills each process may be the trial."""
SURPLUS = "not needed: the last trial had begun in another process"
DIED = "its process died"
RATES = ("asr", "asr_low", "asr_high", "over_refusal", "over_refusal_low", "over_refusal_high")
"""What is noted on a trial of its evaluation."""


def open_study(config: SearchConfig, storage: optuna.storages.BaseStorage) -> tuple[optuna.Study, bool]:
    """Make the study of `config`, or go on with it; and whether this process made it.

    Raises:
        ValueError: The study was made with other settings.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    wanted, sampler = config.decisive(), Sampler(config.seed)
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=config.study,
            directions=[StudyDirection.MINIMIZE for _ in OBJECTIVES[config.objective]],
            sampler=sampler,
        )
        with quietly():
            study.set_metric_names(OBJECTIVES[config.objective])
        study.set_user_attr(SCENARIO, wanted)
        return study, True
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(study_name=config.study, storage=storage, sampler=sampler)
    there = _wait_for(study, SCENARIO, BRIEFLY)
    if there is None:
        if study.get_trials(deepcopy=False):
            raise Mistake(f"`study` is {config.study!r}, which another program made. Name a new `study`.")
        study.set_user_attr(SCENARIO, wanted)  # The process that made it died at once.
        there = wanted
    names = sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))
    if names:
        changed = ", ".join(f"{name}={there.get(name)} (now {wanted.get(name)})" for name in names)
        raise Mistake(
            f"`study` is {config.study!r}, which was begun with {changed}. Name a new `study`, or go on with its "
            "settings."
        )
    return study, False


def wait_for_run(study: optuna.Study) -> str:
    """Id of the MLflow run of a study that another process made; "" if that one died before it had one."""
    return _wait_for(study, RUN, 6 * BRIEFLY) or ""


def _wait_for(study: optuna.Study, name: str, seconds: float) -> Any:
    """An attribute of a study, which another process may be about to set; None if it does not."""
    deadline = time.monotonic() + seconds
    while (value := study.user_attrs.get(name)) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    return value


def is_open(study: optuna.Study) -> bool:
    """Whether other processes work on the study."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    others = [trial for trial in running if not heartbeats.is_mine(trial) and not heartbeats.is_gone(trial)]
    return bool(others) or not (takes_check(study) or study.user_attrs.get(DONE) == len(study.trials))


def takes_check(study: optuna.Study) -> bool:
    """Whether to check the best trial is this process' work: the last trial ended in it, or in one that is gone."""
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.datetime_complete and counts(trial)]
    if not ended:
        return True
    last = max(ended, key=lambda trial: (trial.datetime_complete, trial.number))
    return heartbeats.is_mine(last) or heartbeats.is_gone(last)


def suggest(trial: optuna.Trial, space: dict[str, Range]) -> dict[str, float]:
    """Values for the settings that are not fixed."""
    return {
        name: trial.suggest_int(name, int(each.low), int(each.high), log=each.log)
        if each.whole
        else trial.suggest_float(name, each.low, each.high, log=each.log)
        for name, each in space.items()
        if not each.is_fixed
    }


def take_up(study: optuna.Study, dead: FrozenTrial, is_blamed: bool = True) -> None:
    """Put a dead trial's settings in line again, unless it is to blame for the death of several processes."""
    retries = dead.user_attrs.get("retries", 0) + is_blamed
    if dead.params and retries <= MOST_RETRIES:
        study.enqueue_trial(dead.params, user_attrs={"retry_of": dead.number, "retries": retries})


def has_all(trials: Sequence[FrozenTrial], n_trials: int) -> bool:
    """Whether all trials that were asked for have begun, and none waits to be taken up."""
    return sum(map(counts, trials)) >= n_trials and all(trial.state != TrialState.WAITING for trial in trials)


def has_ended(trials: Sequence[FrozenTrial], n_trials: int) -> bool:
    """Whether all trials that were asked for are over."""
    return has_all(trials, n_trials) and all(trial.state != TrialState.RUNNING for trial in trials)


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those that were asked for: a dead one is not, the one in its place is."""
    return trial.state != TrialState.FAIL or bool(trial.user_attrs.get(FAILED))


def is_surplus(trial: FrozenTrial, trials: Sequence[FrozenTrial], n_trials: int) -> bool:
    """Whether enough trials had begun before this one, not counting the one that it takes up."""
    before = [other for other in trials if other.number < trial.number and counts(other)]
    return sum(other.number != trial.user_attrs.get("retry_of") for other in before) >= n_trials


def record(study: optuna.Study, config: SearchConfig) -> Search:
    """The study as a result."""
    trials = tuple(as_trial(trial) for trial in study.get_trials(deepcopy=False))
    complete = [trial for trial in trials if trial.state == "complete"]
    inside = [trial for trial in complete if trial.inside]
    ended = [trial for trial in trials if trial.state in ("complete", "pruned")]
    best = min(inside, key=lambda trial: trial.value, default=None)
    nearest = min(ended, key=lambda trial: (trial.violation, trial.value), default=None)
    check = study.user_attrs.get(CHECK)
    if best is None or (check and check["trial"] != best.number):
        check = None
    return Search(
        study=config.study,
        model=config.model,
        objective=config.objective,
        utility_name=utility_name(config),
        max_asr=float(config.max_asr),
        max_over_refusal=float(config.max_over_refusal),
        margin_min=config.margin_min,
        space={name: str(each) for name, each in config.space().items()},
        trials=trials,
        best=best.number if best else None,
        nearest=nearest.number if nearest else None,
        front=front(complete),
        check=TypeAdapter(Evaluation).validate_python(check["evaluation"]) if check else None,
        unseen_asr=math.nan if not check or check["unseen_asr"] is None else check["unseen_asr"],
    )


def front(trials: Sequence[Trial]) -> tuple[int, ...]:
    """Numbers of the trials that no other beats in ASR, over-refusal and utility at once."""
    rates = {trial.number: (trial.asr, trial.over_refusal, trial.utility) for trial in trials}
    values = {number: one for number, one in rates.items() if not any(map(math.isnan, one))}

    def is_beaten(one: tuple[float, ...]) -> bool:
        return any(other != one and all(a <= b for a, b in zip(other, one, strict=True)) for other in values.values())

    return tuple(number for number, one in values.items() if not is_beaten(one))


def as_trial(trial: FrozenTrial) -> Trial:
    """An Optuna trial with what was noted on it."""
    notes = trial.user_attrs
    reason = notes.get("reason", "")
    if trial.state == TrialState.FAIL and not notes.get(FAILED) and reason != SURPLUS:
        reason = DIED
    started, ended = trial.datetime_start, trial.datetime_complete
    return Trial(
        number=trial.number,
        state=STATES[trial.state],
        reason=reason,
        params=dict(trial.params),
        counts=notes.get("counts", {}),
        **{name: notes.get(name, math.nan) for name in (*RATES, "utility", "margin", "violation", "value")},
        margin_is_open=notes.get("margin_is_open", False),
        inside=trial.state == TrialState.COMPLETE and notes.get("inside", False),
        steps=notes.get("steps", 0),
        planned_steps=notes.get("planned_steps", 0),
        seconds=(ended - started).total_seconds() if started and ended else math.nan,
        uri=notes.get("uri", ""),
        run=notes.get("run", ""),
        retry_of=notes.get("retry_of"),
    )


def discard(study: optuna.Study) -> None:
    """Delete a study."""
    optuna.delete_study(study_name=study.study_name, storage=study._storage)


def close(study: optuna.Study) -> None:
    """Note that nothing is left to do."""
    study.set_user_attr(DONE, len(study.trials))


def keep_check(study: optuna.Study, number: int, evaluation: Evaluation, unseen_asr: float) -> None:
    """Note how a trial did on the whole evaluation set, and on the prompts in it that no trial was measured on."""
    content: dict[str, Any] = json.loads(evaluation.to_json())
    content = {name: value for name, value in content.items() if name not in ("kind", "schema_version")}
    unseen = None if math.isnan(unseen_asr) else unseen_asr
    study.set_user_attr(CHECK, {"trial": number, "evaluation": content, "unseen_asr": unseen})
