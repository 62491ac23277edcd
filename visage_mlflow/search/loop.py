"""Optuna over data mixtures: who runs which trial, and what becomes of those that fail or die."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from visage_mlflow.config.search import SearchConfig
from visage_mlflow.config.training import FinetuneConfig
from visage_mlflow.search import study as studies
from visage_mlflow.search.sampler import quietly
from visage_mlflow.search.trial import Verdict, Watch, planned_steps, settings_of
from visage_mlflow.text.errors import Mistake, one_line

POLL = 2.0
"""Seconds between looks at the trials of other processes."""
MOST_FAILURES = 3
"""Trials that may fail one after the other in one process: then it is not the mixture."""


@dataclass
class Attempt:
    """A trial that is running: what it trains, and where its findings go."""

    trial: optuna.Trial
    settings: FinetuneConfig
    watch: Watch

    @property
    def number(self) -> int:
        """Of the trial in its study."""
        return self.trial.number

    def note(self, **values: object) -> None:
        """Keep values on the trial; those that were not measured are left out."""
        for name, value in values.items():
            if not (isinstance(value, float) and math.isnan(value)):
                self.trial.set_user_attr(name, value)


def run(
    study: optuna.Study,
    config: SearchConfig,
    attempt: Callable[[Attempt], Verdict],
    *,
    told: Callable[[int], None] = lambda number: None,
) -> int:
    """Run trials until the study has `n_trials`, those of other processes among them.

    Waits for the trials of other processes, to take up again those that die.

    Args:
        study: What `study.open_study` returned; its storage has a heartbeat.
        config: All settings.
        attempt: Trains and judges one trial.
        told: Called with the number of each trial that this process ended.

    Returns:
        How many trials this process ended.

    Raises:
        ValueError: Several trials failed one after the other.
    """
    objective = Objective(config, attempt)
    n_ended = 0
    while True:
        with quietly():
            optuna.storages.fail_stale_trials(study)
        trials = study.get_trials(deepcopy=False)
        if studies.has_ended(trials, config.n_trials):
            return n_ended
        if not studies.has_all(trials, config.n_trials):
            objective.run_in(study)
            if objective.number is not None:
                n_ended += 1
                told(objective.number)
            if objective.failures >= MOST_FAILURES:
                raise Mistake(
                    f"{MOST_FAILURES} trials failed one after the other, so it is not the mixture: {objective.reason}"
                )
        else:
            time.sleep(POLL)


@dataclass
class Objective:
    """What Optuna calls with a trial."""

    config: SearchConfig
    attempt: Callable[[Attempt], Verdict]
    number: int | None = None
    """Of the trial that ended last; None if it was not this process' own any more, or not needed."""
    current: int | None = None
    """Of the trial that runs."""
    failures: int = 0
    """Trials that failed since the last one that did not."""
    reason: str = ""

    def run_in(self, study: optuna.Study) -> None:
        """Run one trial of a study."""
        self.number = self.current = None
        with quietly():
            try:
                study.optimize(self, n_trials=1, catch=(Exception,))
            except (UpdateFinishedTrialError, ValueError, AssertionError):
                # Optuna refuses the result of a trial that another process took for dead.
                if self.current is None or studies.counts(study.get_trials(deepcopy=False)[self.current]):
                    raise
                self.number = None
        gc.collect()  # Trainers and their models refer to each other in circles.

    def __call__(self, trial: optuna.Trial) -> Sequence[float]:
        """Train and judge one trial; its values, as many as the study has directions."""
        self.current = trial.number
        others = trial.study.get_trials(deepcopy=False)
        if studies.is_surplus(trial._cached_frozen_trial, others, self.config.n_trials):
            trial.set_user_attr("reason", studies.SURPLUS)
            raise optuna.exceptions.OptunaError(studies.SURPLUS)
        try:
            verdict = self._judged(trial)
        except KeyboardInterrupt:
            studies.take_up(trial.study, trial.study.get_trials(deepcopy=False)[trial.number], is_blamed=False)
            raise
        except UpdateFinishedTrialError:
            raise
        except Exception as error:
            self.reason = explained(error)
            trial.set_user_attr("reason", self.reason)
            trial.set_user_attr(studies.FAILED, True)
            self.failures += 1
            self.number = trial.number
            raise
        self.failures = 0
        self.number = trial.number
        if verdict.reason:
            raise optuna.TrialPruned(verdict.reason)
        values = {"asr": verdict.evaluation.asr, "over_refusal": verdict.evaluation.over_refusal}
        values["utility"] = verdict.utility if len(trial.study.directions) > 1 else verdict.value
        return [values[name] for name in studies.OBJECTIVES[self.config.objective]]

    def _judged(self, trial: optuna.Trial) -> Verdict:
        settings = settings_of(self.config, studies.suggest(trial, self.config.space()))
        steps = planned_steps(settings)
        attempt = Attempt(trial, settings, Watch(self.config, steps))
        attempt.note(counts=settings.counts(), planned_steps=steps)
        verdict = self.attempt(attempt)
        attempt.note(**{name: getattr(verdict.evaluation, name) for name in studies.RATES})
        attempt.note(utility=verdict.utility, value=verdict.value, violation=verdict.violation, inside=verdict.inside)
        attempt.note(steps=attempt.watch.checkpoints[-1].step, uri=attempt.watch.checkpoints[-1].uri)
        if verdict.edge:
            attempt.note(margin=verdict.edge.margin, margin_is_open=verdict.edge.is_open)
        if verdict.reason:
            attempt.note(reason=verdict.reason)
        if self.config.objective == "utility":
            for name, excess in verdict.limits.items():
                trial.set_constraint(name, excess)
        return verdict


def explained(error: Exception) -> str:
    """Why a trial failed, in one line, and what helps."""
    text = one_line(error)
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate" in text.lower():
        cure = "Lower `train_batch_size`, `batch_size` or `lora_rank`, or use a smaller model."
        return f"out of memory: {text[:200]} {cure}"
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
