"""An Optuna study of mixtures: opened with its scenario, and read as a result."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import optuna
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from visage_mlflow.config.search import IN_LOG, WHOLE, Range, SearchConfig, utility_name
from visage_mlflow.results import Search, Trial
from visage_mlflow.search.checks import candidates, checks_of, missed
from visage_mlflow.search.sampler import Sampler, quietly
from visage_mlflow.text.errors import Mistake

SCENARIO, RUN = "scenario", "run"
"""Noted on a study: what decides its numbers, the id of its MLflow run."""
FAILED, MENDABLE = "failed", "a mistake"
"""Noted on a trial that failed by itself, not by its process' death; the value is for what the user can mend."""
RETRY_OF = "retry_of"
"""Noted on a trial that tries the settings of an interrupted one again: the number of that one."""
PATIENCE = 30.0
"""Seconds to wait for what another process notes on the study right after it made it."""
SURPLUS = "not needed: the last trial had begun in another process"
DIED = "its process died"
RATES = ("asr", "asr_low", "asr_high", "over_refusal", "over_refusal_low", "over_refusal_high")
"""What is noted on a trial of its evaluation."""


def open_study(config: SearchConfig, storage: optuna.storages.BaseStorage) -> tuple[optuna.Study, bool]:
    """Make the study of `config`, or go on with it; and whether this process made it.

    Raises:
        Mistake: The study was made with other settings.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    minimized = ["asr", "over_refusal", "utility"] if config.objective == "pareto" else ["utility"]
    wanted, sampler = config.decisive(), Sampler(config.seed)
    try:
        study = optuna.create_study(
            storage=storage, study_name=config.study, directions=["minimize"] * len(minimized), sampler=sampler
        )
        with quietly():
            study.set_metric_names(minimized)
        there, is_first = None, True
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(study_name=config.study, storage=storage, sampler=sampler)
        there, is_first = wait_for(study, SCENARIO), False
    if there is None:
        if study.get_trials(deepcopy=False):
            raise Mistake(f"`study` is {config.study!r}, which another program made. Name a new `study`.")
        study.set_user_attr(SCENARIO, wanted)  # Also where the process that made the study died at once.
        there = wanted
    names = sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))
    if names:
        changed = ", ".join(f"{name}={there.get(name)} (now {wanted.get(name)})" for name in names)
        raise Mistake(
            f"`study` is {config.study!r}, which was begun with {changed}. Name a new `study`, or go on with its "
            "settings."
        )
    return study, is_first


def wait_for(study: optuna.Study, name: str) -> Any:
    """An attribute of a study, which the process that made it may be about to set; None if it died before."""
    deadline = time.monotonic() + PATIENCE
    while (value := study.user_attrs.get(name)) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    return value


def is_open(study: optuna.Study) -> bool:
    """Whether a trial runs: asked by a process that ends, it runs in another one."""
    return bool(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def suggest(trial: optuna.Trial, space: dict[str, Range]) -> dict[str, float]:
    """Values for the settings that are not fixed."""
    return {
        name: trial.suggest_int(name, int(each.low), int(each.high), log=name in IN_LOG)
        if name in WHOLE
        else trial.suggest_float(name, each.low, each.high, log=name in IN_LOG)
        for name, each in space.items()
        if not each.is_fixed
    }


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those that were asked for: one whose process died is not, the one in its place is."""
    return trial.state != TrialState.FAIL or FAILED in trial.user_attrs


def can_begin(trials: Sequence[FrozenTrial], n_trials: int) -> bool:
    """Whether too few trials have begun, or one waits to be tried again."""
    return sum(map(counts, trials)) < n_trials or any(trial.state == TrialState.WAITING for trial in trials)


def has_ended(trials: Sequence[FrozenTrial], n_trials: int) -> bool:
    """Whether all trials that were asked for are over."""
    return not can_begin(trials, n_trials) and all(trial.state != TrialState.RUNNING for trial in trials)


def record(study: optuna.Study, config: SearchConfig) -> Search:
    """The study as a result."""
    trials = tuple(as_trial(trial) for trial in study.get_trials(deepcopy=False))
    complete = [trial for trial in trials if trial.state == "complete"]
    inside = [trial for trial in complete if trial.inside]
    ended = [trial for trial in trials if trial.state in ("complete", "pruned")]
    leading = next(iter(candidates(inside)), None)
    done = checks_of(study, config)
    holding = [check.trial for check in done if check.holds]
    best = min((trial for trial in inside if trial.number in holding), key=lambda trial: trial.value, default=None)
    nearest = min(ended, key=lambda trial: (trial.violation, trial.value), default=None)
    if best is not None:
        nearest = best
    elif done:
        closest = min(done, key=lambda check: (missed(check, config), check.certainty))
        nearest = next(trial for trial in trials if trial.number == closest.trial)
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
        certainty=float(config.certainty),
        best=best.number if best else None,
        leading=leading.number if leading else None,
        nearest=nearest.number if nearest else None,
        front=front(complete),
        checks=done,
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
    notes, state = trial.user_attrs, trial.state.name.lower()
    with quietly():
        history = RetryHeartbeatStaleTrialCallback.retry_history(trial)
    # One that tries the settings of a dead one again begins with the notes of that one.
    reason = notes.get("reason", "") if state in ("fail", "pruned") else ""
    found = {each.name: notes[each.name] for each in fields(Trial) if each.name in notes} | {
        "number": trial.number,
        "state": "failed" if state == "fail" else state,
        "reason": reason if counts(trial) or reason == SURPLUS else DIED,
        "params": dict(trial.params),
        "inside": state == "complete" and notes.get("inside", False),
        "seconds": math.nan if trial.duration is None else trial.duration.total_seconds(),
        "retry_of": history[-1] if history else notes.get(RETRY_OF),
    }
    return Trial(**found)
