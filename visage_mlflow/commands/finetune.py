"""Finetune a chat model on an exact mixture of harmful, safe, benign and task rows; measure every checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from visage_mlflow.commands import command_line
from visage_mlflow.commands.loading import load
from visage_mlflow.config import FinetuneConfig
from visage_mlflow.figures import lines
from visage_mlflow.figures.style import short
from visage_mlflow.language.models import Chat
from visage_mlflow.measuring.measure import Measurer
from visage_mlflow.results import Checkpoint, Finetuning
from visage_mlflow.results.finetuning import in_words
from visage_mlflow.studies import finetuning
from visage_mlflow.studies.finetuning import Plan
from visage_mlflow.tracking import lookup, runs
from visage_mlflow.tracking.runs import Run
from visage_mlflow.training import mixture, sft
from visage_mlflow.training.answers import OwnAnswer


def main(config: FinetuneConfig) -> None:
    """Finetune `config.model`, into MLflow."""
    with runs.tracked("finetune", config, name=f"{short(config.model)} on {mixture_of(config)}") as run:
        measure = Measurer(config)  # Mistakes in the store and the data show before a model is loaded.
        plan = finetuning.plan(config)
        base = load(config.model, config, *plan.measured, check=lambda form: finetuning.check(form, plan.rows, config))
        result = finetune(base, plan, config, measure, run)
    for checkpoint in result.checkpoints:
        one = checkpoint.evaluation
        command_line.tell(
            f"step {checkpoint.step}: ASR {one.asr:.1f} %, over-refusal {one.over_refusal:.1f} %, "
            f"distance {100 * checkpoint.distance:.3f} % of the base's norm ({checkpoint.uri}){one.left_out}"
        )


def finetune(
    base: Chat,
    plan: Plan,
    config: FinetuneConfig,
    measure: Measurer,
    run: Run,
    *,
    answers: dict[str, OwnAnswer] | None = None,
    keep: Callable[[Path, int], str] | None = None,
    watch: Callable[[Checkpoint], None] = lambda checkpoint: None,
    until: ExitStack | None = None,
) -> Finetuning:
    """Finetune a loaded model, logging on an open run as it goes; one that was cut off goes on.

    `answers` are the model's own that are known already; `keep` (by default on the run) and `watch` are as in
    `finetuning.finetune`. What going on needs stays on disk until `until` closes, by default when all is logged.
    """

    answers = {} if answers is None else answers
    rows = finetuning.training_rows(base, plan.rows, config, measure, answers)
    run.lines(rows, "mixture.jsonl")
    schedule = sft.schedule_of(len(rows), finetuning.training_recipe(config))
    run.metrics({**schedule.metrics(), "overlap": plan.overlap})
    if plan.overlap:
        command_line.tell(
            f"warning: {plan.overlap} of the prompts measured on are (nearly) trained on, as `allow_overlap` allows: "
            "their answers tell nothing of other prompts.",
            sys.stderr,
        )
    if config.benign and config.benign_answers == "own":
        run.metrics(finetuning.own_answers_in(rows, plan, answers))
    run.dataset(mixture.to_dataset(rows, config.system_prompt), config.counts())
    with ExitStack() as here:  # The training's folder goes only when all is in MLflow, so that nothing is lost before.
        result = finetuning.finetune(
            base,
            rows,
            plan,
            config,
            folder=(until or here).enter_context(finetuning.training_folder(base, rows, config)),
            measure=measure,
            log=run.metrics,
            fetch=lookup.fetch,
            keep=keep or run.checkpoint,
            watch=watch,
        )
        run.figure(lines.finetuning(result), "trajectory.png")
        run.result(result, "finetuning.json")
    return result


def mixture_of(settings: FinetuneConfig) -> str:
    """A mixture in words."""
    return f"{in_words(settings.counts())} rows"
