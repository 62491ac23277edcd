"""Search the mixture and training settings that keep a model inside the safety basin, and useful, with Optuna."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import optuna
from optuna import delete_study
from optuna.trial import FrozenTrial

from visage_mlflow.commands import command_line
from visage_mlflow.commands.finetune import finetune, mixture_of
from visage_mlflow.commands.loading import load
from visage_mlflow.config import FinetuneConfig, SearchConfig
from visage_mlflow.figures import search as figures
from visage_mlflow.language import prompts
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.measuring.measure import Measurer
from visage_mlflow.pages import search as pages
from visage_mlflow.search import loop, study, trial, words
from visage_mlflow.search.storage import open_storage
from visage_mlflow.search.trial import Outcome, Watch, check_base, largest
from visage_mlflow.studies import evaluation, finetuning
from visage_mlflow.studies.finetuning import Ended, Plan
from visage_mlflow.text.errors import Mistake
from visage_mlflow.text.printing import masked
from visage_mlflow.tracking import connection, dead_runs, lookup, runs
from visage_mlflow.tracking.runs import Run
from visage_mlflow.training.answers import OwnAnswer


def main(config: SearchConfig) -> None:
    """Run the trials of a study, or go on with it, into one MLflow run with a nested run for each trial."""
    # 1. Read the data of the largest mixture: mistakes in it show before a study is made or a model loaded.
    plan = finetuning.plan(largest(config))
    # 2. Open the study, or make it.
    storage = open_storage(
        config.storage, heartbeat=config.heartbeat, on_dead=close_run_of, tracking_uri=connection.store()
    )
    opened, is_first = study.open_study(config, storage)
    try:
        # 3. Open its MLflow run, which all processes that work on the study share.
        with run_of(opened, config, is_first) as run:
            opened.set_user_attr(study.RUN, run.id)
            # 4. Run trials until the study has them all.
            if study.has_ended(opened.trials, config.n_trials) or run_trials(opened, config, plan, run):
                # 5. In the process of the last trial, or in a later one, which does what that may have left undone:
                # check the best trial, and log the study as it ended.
                check_best(opened, config, plan.task, run)
                log(opened, config, run, is_last=True)
    except Mistake:
        if is_first and not opened.trials:
            delete_study(study_name=config.study, storage=storage)  # The command, once corrected, may use its name.
        raise
    # 6. Say how the study went.
    command_line.tell(words.summary(study.record(opened, config)))


def close_run_of(dead: FrozenTrial) -> None:
    """Close the MLflow run of a trial whose process died."""
    if run_id := dead.user_attrs.get("run"):
        dead_runs.close(run_id, study.DIED)


def run_of(opened: optuna.Study, config: SearchConfig, is_first: bool) -> AbstractContextManager[Run]:
    """The MLflow run of a study: a new one, or the one that another process began."""
    shown = dataclasses.replace(config, storage=masked(config.storage))
    known = "" if is_first else study.wait_for(opened, study.RUN)
    goes_on = partial(study.is_open, opened)
    if known and lookup.status_of(known):
        return runs.joined(known, shown, goes_on=goes_on)
    return runs.tracked("search", shown, name=f"search, {config.study}", goes_on=goes_on)


def run_trials(opened: optuna.Study, config: SearchConfig, plan: Plan, run: Run) -> bool:
    """Load the model, measure it once for all trials, and run these; whether the last one ended in this process.

    `plan` is that of the largest mixture.
    """
    base = load(config.model, config)
    measure = Measurer(config)
    measured, _ = evaluation.evaluate(base, plan.harmful, plan.benign, config, plan.task, measure=measure)
    check_base(config, measured)
    run.metrics({f"base_{name}": value for name, value in measured.metrics().items()})
    command_line.tell(f"{config.model} itself: ASR {measured.asr:.1f} %, over-refusal {measured.over_refusal:.1f} %")
    answers: dict[str, OwnAnswer] = {}  # The model's own, for all rows that a trial may be trained on.
    finetuning.training_rows(base, plan.rows, largest(config), measure, answers)

    def attempt(one: optuna.Trial, settings: FinetuneConfig, watch: Watch) -> Outcome:
        return train_and_judge(one, settings, watch, base, measured.asr, answers, config, measure)

    def told(number: int) -> None:
        log(opened, config, run)
        command_line.tell(words.trial(study.record(opened, config), number))

    return loop.run(opened, config, attempt, told=told)


def train_and_judge(
    one: optuna.Trial,
    settings: FinetuneConfig,
    watch: Watch,
    base: Chat,
    base_asr: float,
    answers: dict[str, OwnAnswer],
    config: SearchConfig,
    measure: Measurer,
) -> Outcome:
    """Train and judge one trial in a nested run; `answers` are the base's own, and its ASR is in percent."""
    with runs.tracked("trial", settings, name=f"trial {one.number}: {mixture_of(settings)}", nested=True) as run:
        one.set_user_attr("run", run.id)
        plan = finetuning.plan(settings)

        def keep(folder: Path, step: int) -> str:
            wanted = config.keep_checkpoints or step == watch.planned_steps
            return run.checkpoint(folder, step) if wanted else ""

        reason, edge = "", None
        try:
            finetune(base, plan, settings, measure, run, answers=answers, keep=keep, watch=watch)
            last = watch.checkpoints[-1]
            edge = trial.find_margin(base, base_asr, last, plan.harmful, config, measure, lookup.fetch)
        except Ended as ended:
            reason = str(ended)
        verdict = trial.judge(config, settings, watch.checkpoints[-1].evaluation, edge, reason)
        run.metrics({"inside": verdict.inside, "violation": verdict.violation, "utility": verdict.utility})
        if edge:
            run.metrics({"margin": edge.margin, "edge": edge.distance})
        run.tag("state", "PRUNED" if reason else "COMPLETE")
        run.tag("reason", verdict.in_words())
    return verdict


def check_best(opened: optuna.Study, config: SearchConfig, task: list[Row], run: Run) -> None:
    """Measure the best trial's checkpoint on the whole evaluation set, unless that was done."""
    result = study.record(opened, config)
    if result.best is None or result.check is not None:
        return
    harmful = prompts.read(config.prompts, setting="prompts")
    benign = prompts.read(config.benign_prompts, setting="benign_prompts", needs_response=True)
    chat = load(result.trial(result.best).uri, config)
    measured, responses = evaluation.evaluate(chat, harmful, benign, config, task)
    unseen = evaluation.rates([one.verdict for one in responses[config.n_prompts : len(harmful)]]).asr
    study.keep_check(opened, result.best, measured, unseen)
    run.result(measured, "check.json")
    run.lines(responses, "check_responses.jsonl")


def log(opened: optuna.Study, config: SearchConfig, run: Run, *, is_last: bool = False) -> None:
    """Put the study as it is on its run; in the end its page, too, and what comes nearest if no trial is inside."""
    result = study.record(opened, config)
    run.metrics(result.metrics(with_nearest=is_last), step=result.n_ended)
    run.result(result, "search.json")
    run.text(result.to_csv(), "trials.csv")
    run.figure(figures.safe_share(result), "safe_share.png")
    run.figure(figures.front(result), "front.png")
    chosen, number = result.chosen
    if number is not None and (chosen == "best" or is_last):
        name = f"{chosen}_mixture.yaml"
        run.text(trial.recipe(trial.settings_of(config, result.trial(number).params), name), name)
    if is_last:
        run.text(pages.page(result, opened), "study.html")
