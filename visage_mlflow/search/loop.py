"""Runs the trials of a study, together with other processes, and decides what becomes of those that fail or die."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import FrozenTrial, TrialState

from visage_mlflow.config.search import SearchConfig
from visage_mlflow.config.training import FinetuneConfig
from visage_mlflow.search import study as studies
from visage_mlflow.search.sampler import quietly
from visage_mlflow.search.storage import MISSED
from visage_mlflow.search.trial import Outcome, Watch, planned_steps, settings_of
from visage_mlflow.text.errors import MEMORY_WORDS, Mistake, one_line

POLL = 2.0
"""Seconds between looks at the trials of other processes."""
MOST_FAILURES = 3
"""Trials that may fail one after the other in one process: then it is not the mixture."""
BEGAN = "began"
"""Noted on a trial that gives signs of life: its number, as one that is tried again has the notes of the dead one."""

Attempt = Callable[[optuna.Trial, FinetuneConfig, Watch], Outcome]
"""Trains what the settings of a trial say, has its watch look at each checkpoint, and judges it."""


def run(
    study: optuna.Study, config: SearchConfig, attempt: Attempt, *, told: Callable[[int], None] = lambda number: None
) -> bool:
    """Run trials until the study has `n_trials`, those of other processes among them.

    Waits for the trials of other processes, to try again those whose process dies. `told` is called with the number of
    each trial that ended in this process.

    Returns:
        Whether the study's last trial ended in this process.

    Raises:
        Mistake: Several trials failed one after the other, the last one for a reason that the user can mend.
        RuntimeError: The same for another reason.
    """
    ended_here: set[int] = set()
    n_failed = 0  # One after the other.
    while True:
        fail_dead_trials(study, config)
        trials = study.get_trials(deepcopy=False)
        if studies.has_ended(trials, config.n_trials):
            last = max(filter(studies.counts, trials), key=lambda trial: trial.datetime_complete or datetime.min)
            return last.number in ended_here
        if not studies.can_begin(trials, config.n_trials):
            time.sleep(POLL)
        elif ended := run_trial(study, config, attempt):
            ended_here.add(ended.number)
            told(ended.number)
            n_failed = n_failed + 1 if ended.state == TrialState.FAIL else 0
            if n_failed == MOST_FAILURES:
                reason = f"{MOST_FAILURES} trials failed one after the other, so it is not the mixture"
                kind = Mistake if ended.user_attrs[studies.FAILED] == studies.MENDABLE else RuntimeError
                raise kind(f"{reason}: {ended.user_attrs['reason']}")


def fail_dead_trials(study: optuna.Study, config: SearchConfig) -> None:
    """Set the trials FAIL whose processes died, and queue their settings to be tried again."""
    with quietly():
        optuna.storages.fail_stale_trials(study)
    # Optuna does not see those that died before their first sign of life, a moment after they were begun.
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        assert trial.datetime_start is not None
        age = (datetime.now() - trial.datetime_start).total_seconds()
        if trial.user_attrs.get(BEGAN) != trial.number and age > MISSED * config.heartbeat:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def run_trial(study: optuna.Study, config: SearchConfig, attempt: Attempt) -> FrozenTrial | None:
    """Run one trial; how it ended.

    None if it was not needed after all, or if another process declared it dead, and tries it again.
    """
    numbers: list[int] = []

    def objective(trial: optuna.Trial) -> Sequence[float]:
        numbers.append(trial.number)
        return values_of(trial, config, attempt)

    def frozen() -> FrozenTrial:
        return study.get_trials(deepcopy=False)[numbers[0]]

    try:
        with quietly():  # Collects garbage, as trainers and their models refer to each other in circles.
            study.optimize(objective, n_trials=1, catch=(Exception,), gc_after_trial=True)
    except KeyboardInterrupt:
        if numbers and frozen().state == TrialState.FAIL and frozen().params:
            study.enqueue_trial(frozen().params, user_attrs={studies.RETRY_OF: numbers[0]})
        raise
    except Exception:
        # Optuna does not take the outcome of a trial that another process took for dead.
        if not numbers or studies.counts(frozen()):
            raise
    return frozen() if studies.counts(frozen()) else None


def values_of(trial: optuna.Trial, config: SearchConfig, attempt: Attempt) -> Sequence[float]:
    """Train and judge a trial that Optuna began; what the study minimizes."""
    if isinstance(trial.storage, BaseHeartbeat):
        # Optuna's thread does so a moment later. Without any sign of life, Optuna never takes a trial for dead.
        trial.storage.record_heartbeat(trial._trial_id)
    trial.set_user_attr(BEGAN, trial.number)
    before = trial.study.get_trials(deepcopy=False)[: trial.number]
    if sum(map(studies.counts, before)) >= config.n_trials:  # Several processes may have begun the last one at once.
        trial.set_user_attr("reason", studies.SURPLUS)
        raise optuna.exceptions.OptunaError(studies.SURPLUS)
    try:
        verdict = judged(trial, config, attempt)
    except Exception as error:
        trial.set_user_attr("reason", reason_of(error))
        trial.set_user_attr(studies.FAILED, studies.MENDABLE if isinstance(error, Mistake) else "a bug")
        raise
    if config.objective == "utility":
        for name, excess in verdict.limits.items():
            trial.set_constraint(name, excess)
    if verdict.reason:
        raise optuna.TrialPruned(verdict.reason)
    if config.objective == "pareto":
        return verdict.evaluation.asr, verdict.evaluation.over_refusal, verdict.utility
    return (verdict.value,)


def judged(trial: optuna.Trial, config: SearchConfig, attempt: Attempt) -> Outcome:
    """Train and judge the mixture that the study proposes for a trial, and note on the trial what was found."""
    settings = settings_of(config, studies.suggest(trial, config.space()))
    watch = Watch(config, planned_steps(settings))
    trial.set_user_attr("counts", settings.counts())
    trial.set_user_attr("planned_steps", watch.planned_steps)
    verdict = attempt(trial, settings, watch)
    last = watch.checkpoints[-1]
    notes: dict[str, Any] = {"steps": last.step, "uri": last.uri}
    notes |= {name: getattr(last.evaluation, name) for name in studies.RATES}
    notes |= {
        name: getattr(verdict, name)
        for name in ("utility", "value", "violation", "inside", "asr_upper", "over_refusal_upper")
    }
    if edge := verdict.edge:
        notes |= {"margin": edge.margin, "margin_is_open": edge.is_open, "margin_remark": edge.remark}
        notes |= {"margin_low": edge.low - 1, "margin_high": edge.high - 1, "margin_high_is_open": edge.high_is_open}
    if verdict.reason:
        notes["reason"] = verdict.reason
    for name, value in notes.items():
        trial.set_user_attr(name, value)
    return verdict


def reason_of(error: Exception) -> str:
    """Why a trial failed, in one line, and what helps."""
    text = one_line(error)
    if isinstance(error, MemoryError) or any(words in text.lower() for words in MEMORY_WORDS):
        cure = "Lower `train_batch_size`, `batch_size` or `lora_rank`, or use a smaller model."
        return f"out of memory: {text[:200]} {cure}"
    return text if isinstance(error, Mistake) else f"{type(error).__name__}: {text}"
