"""Trials that train nothing: from how many safe rows on a model stays inside the basin is planted."""

import contextlib
import dataclasses
import math
import sqlite3

import optuna

from visage_mlflow.config import SearchConfig
from visage_mlflow.results import Checkpoint, Evaluation, Setup
from visage_mlflow.search import loop, study
from visage_mlflow.search.storage import open_storage
from visage_mlflow.search.trial import judge
from visage_mlflow.studies.finetuning import Ended

BOUNDARY = 48
"""Safe rows at which the ASR is at the limit of 10 %. With fewer it rises, steeply, to 100."""


def evaluation(asr=5.0, over_refusal=5.0, nll=3.0, task_nll=None):
    setup = Setup("org/model", "p", "d", 1, None, "keyword", 1, "float32")
    return Evaluation(setup, asr, asr, asr, asr, over_refusal, over_refusal, over_refusal, nll, 0, task_nll)


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
