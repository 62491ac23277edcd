"""Trials that train nothing: from how many safe rows on a model stays inside the basin is planted."""

import contextlib
import dataclasses
import math
import sqlite3

import numpy as np
import optuna

from visage_mlflow.config import SearchConfig
from visage_mlflow.geometry.score import wilson
from visage_mlflow.results import Checkpoint, Evaluation, Setup
from visage_mlflow.search import checks, loop, study
from visage_mlflow.search.storage import open_storage
from visage_mlflow.search.trial import judge, settings_of
from visage_mlflow.studies.finetuning import Ended

MANY = 1_000_000
BOUNDARY = 48
"""Safe rows at which the ASR is at the limit of 10 %. With fewer it rises, steeply, to 100."""


def evaluation(asr=5.0, over_refusal=5.0, nll=3.0, task_nll=None):
    """Of so many answers that the intervals are narrow."""
    setup = Setup("org/model", "p", "d", 1, None, "keyword", 1, "float32")
    judged = [0 if math.isnan(rate) else MANY for rate in (asr, over_refusal)]
    ends = [wilson(rate * n / 100 if n else 0, n) for rate, n in zip((asr, over_refusal), judged, strict=True)]
    (low, high), (least, most) = ends
    return Evaluation(setup, asr, low, high, asr, over_refusal, least, most, nll, 0, task_nll)


def measured(settings):
    """ASR falls with safe rows, utility gets worse with all that are added, and off a learning rate of 3e-4."""
    asr = 100 / (1 + 9 * math.exp(settings.safe - BOUNDARY))
    off = math.log10(settings.learning_rate / 3e-4)
    return evaluation(asr, 5.0, 3 + 0.004 * settings.safe + 0.001 * settings.benign + 0.1 * off**2)


def trained(trial, settings, watch, config, last=None):
    """A trial in no time: each of its checkpoints is as the last one, and its watch is told of all."""
    last = last or measured(settings)
    steps, reason = 0, ""
    try:
        while steps < watch.planned_steps:
            steps = min(steps + settings.save_every, watch.planned_steps)
            watch(Checkpoint(f"models:/m-{trial.number}", steps, 0.001 * steps, last))
    except Ended as ended:
        reason = str(ended)
    return judge(config, settings, last, None, reason)


def settings(n_trials=5, **more):
    return SearchConfig(**{"model": "org/model", "harmful": 30, "n_trials": n_trials, **more})


def in_memory(config):
    """A study of its own."""
    return study.open_study(config, optuna.storages.InMemoryStorage())[0]


def in_file(path, config, on_dead=lambda dead: None):
    """A study in an SQLite file, as each process opens it."""
    return study.open_study(config, open_storage(str(path), heartbeat=config.heartbeat, on_dead=on_dead))[0]


def run(opened, config, attempt=None):
    """Run a study; returns the numbers that were told."""
    told = []
    loop.run(opened, config, attempt or (lambda *one: trained(*one, config)), told=told.append)
    return told


def with_more(config, n_trials):
    return dataclasses.replace(config, n_trials=n_trials)


def pass_an_hour(path):
    """Make all trials in an SQLite file an hour older, and their signs of life, too."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-1 hour')")
        database.execute("UPDATE trials SET datetime_start = datetime(datetime_start, '-1 hour')")


class World:
    """Mixtures whose true ASR and over-refusal are known, measured as a model is: prompt by prompt, seed by seed.

    Prompts differ in how readily they are answered, and a training with another seed shifts them all. The true rates
    are means over both.
    """

    PROMPTS, SEEDS = 1.5, 0.5  # Standard deviations, in logits.

    def __init__(self, config, number):
        self.config, self.number = config, number
        rng = np.random.default_rng((number, 0))
        n = {"asr": config.n_prompts + config.n_check_prompts, "over_refusal": config.n_benign + config.n_check_benign}
        self.hard = {name: rng.normal(0, self.PROMPTS, count) for name, count in n.items()}
        self.noise = np.random.default_rng(0).normal(0, np.hypot(self.PROMPTS, self.SEEDS), 20_000)

    def level(self, settings):
        """In logits. Safe rows lower the ASR and raise the over-refusal; the rate raises the ASR, benign rows mend."""
        rate = math.log10(settings.learning_rate / 3e-4)
        asr = 2.0 - 0.08 * settings.safe + 3.0 * rate + 0.5 * (settings.epochs - 2)
        return {"asr": asr, "over_refusal": -6.5 + 0.03 * settings.safe - 0.02 * settings.benign}

    def truth(self, settings, name):
        """In percent."""
        return float(100 * np.mean(1 / (1 + np.exp(-(self.level(settings)[name] + self.noise)))))

    def is_inside(self, settings):
        limits = {"asr": self.config.max_asr, "over_refusal": self.config.max_over_refusal}
        return all(self.truth(settings, name) <= limit for name, limit in limits.items())

    def evaluation(self, settings, seed, *, kept=False):
        """Of one training, on the prompts that trials see, or on those kept back."""
        rng = np.random.default_rng((self.number, *seed))
        rates = {}
        for name, seen in (("asr", self.config.n_prompts), ("over_refusal", self.config.n_benign)):
            hard = self.hard[name][seen:] if kept else self.hard[name][:seen]
            level = self.level(settings)[name] + hard + rng.normal(0, self.SEEDS)
            n = int((rng.random(len(hard)) < 1 / (1 + np.exp(-level))).sum())
            low, high = wilson(n, len(hard))
            rates |= {name: 100 * n / len(hard), f"{name}_low": low, f"{name}_high": high}
        off = math.log10(settings.learning_rate / 6e-4)
        nll = 3 + 0.004 * settings.safe + 0.001 * settings.benign + 0.1 * off**2
        return dataclasses.replace(evaluation(nll=nll), **rates)

    def search(self):
        """The whole search in this world, checks included, as a result."""
        opened = in_memory(self.config)
        run(
            opened,
            self.config,
            lambda one, settings, watch: trained(
                one, settings, watch, self.config, self.evaluation(settings, (1, one.number))
            ),
        )

        def trials():
            return study.record(opened, self.config).trials

        def retrain(number, seed):
            settings = settings_of(self.config, opened.trials[number].params)
            return self.evaluation(settings, (2, number, seed), kept=True)

        checks.run(opened, self.config, trials, retrain)
        return study.record(opened, self.config)

    def holds(self, result, number):
        """Whether a trial's mixture is truly inside."""
        return self.is_inside(settings_of(self.config, result.trial(number).params))


def by_measured_rates(result, max_over_refusal):
    """The trial that is chosen where its own measured rates are taken for the true ones; None if there is none."""
    kept = [t for t in result.trials if t.state == "complete" and t.asr <= 10 and t.over_refusal <= max_over_refusal]
    return min(kept, key=lambda trial: trial.value).number if kept else None
