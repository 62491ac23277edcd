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
from visage_mlflow.config import FinetuneConfig, MeasureConfig, SearchConfig
from visage_mlflow.figures import search as figures
from visage_mlflow.language import prompts
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.measuring.measure import Measurer
from visage_mlflow.pages import search as pages
from visage_mlflow.results import Evaluation
from visage_mlflow.search import checks, limits, loop, study, trial, words
from visage_mlflow.search.storage import open_storage
from visage_mlflow.search.trial import Outcome, Watch, check_base, largest, retraining_of
from visage_mlflow.studies import evaluation, finetuning
from visage_mlflow.studies.finetuning import Ended, Plan
from visage_mlflow.text.errors import Mistake
from visage_mlflow.text.printing import masked
from visage_mlflow.tracking import connection, dead_runs, histories, lookup, runs
from visage_mlflow.tracking.runs import Run
from visage_mlflow.training.answers import OwnAnswer
from visage_mlflow.training.leakage import Evaluated

Prompts = tuple[list[Row], list[Row]]
"""Harmful and benign ones."""


def main(config: SearchConfig) -> None:
    """Run the trials of a study, or go on with it, into one MLflow run with a nested run for each trial."""
    # 1. Read the data of the largest mixture: mistakes in it show before a study is made or a model loaded.
    limits.check_possible(config)
    plan = finetuning.plan(largest(config))
    seen, kept = prompts_of(config)
    overlaps = [finetuning.overlap(plan, largest(config), leakable(config, seen, kept))]
    for seed in checks.seeds_of(config):  # Retrainings draw other rows.
        settings = retraining_of(largest(config), seed)
        overlaps.append(finetuning.overlap(finetuning.plan(settings), settings, leakable(config, kept)))
    # 2. Open the study, or make it.
    storage = open_storage(
        config.storage, heartbeat=config.heartbeat, on_dead=close_run_of, tracking_uri=connection.store()
    )
    opened, is_first = study.open_study(config, storage)
    begun = "begins" if is_first else f"goes on after {len(opened.trials)} trials"
    command_line.tell(f"study {config.study!r} {begun} in {masked(config.storage)}")
    try:
        # 3. Open its MLflow run, which all processes that work on the study share.
        with run_of(opened, config, is_first) as run:
            opened.set_user_attr(study.RUN, run.id)
            run.metrics({"overlap": max(overlaps)})  # Not 0 only where `allow_overlap` allows it.
            # 4. Run trials until the study has them all.
            if study.has_ended(opened.trials, config.n_trials) or run_trials(opened, config, plan, seen, run):
                # 5. In the process of the last trial, or in a later one, which does what that may have left undone:
                # check the best trials, and log the study as it ended.
                check_best(opened, config, kept)
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


def prompts_of(config: SearchConfig) -> tuple[Prompts, Prompts]:
    """What trials are measured on, and what is kept back from them for the checks; each the harmful and the benign."""
    split = partial(checks.split, seed=config.seed)
    harmful = split(
        prompts.read(config.prompts, setting="prompts"),
        config.n_prompts,
        config.n_check_prompts,
        setting="n_prompts",
        kept_setting="n_check_prompts",
    )
    benign = split(
        prompts.read(config.benign_prompts, setting="benign_prompts", needs_response=True),
        config.n_benign,
        config.n_check_benign,
        setting="n_benign",
        kept_setting="n_check_benign",
    )
    return (harmful[0], benign[0]), (harmful[1], benign[1])


def leakable(config: MeasureConfig, *asked: Prompts) -> list[Evaluated]:
    """All prompts that trials or checks are measured on, none of which may be trained on."""
    harmful, benign = ([row for each in asked for row in each[index]] for index in (0, 1))
    return [
        Evaluated("prompts", config.prompts, harmful),
        Evaluated("benign_prompts", config.benign_prompts, benign),
    ]


def plan_of(settings: FinetuneConfig, asked: Prompts) -> Plan:
    """The data of a finetuning whose checkpoints are measured on these prompts."""
    harmful, benign = asked
    plan = dataclasses.replace(finetuning.plan(settings), harmful=harmful, benign=benign)
    return dataclasses.replace(plan, overlap=finetuning.overlap(plan, settings, leakable(settings, asked)))


def run_trials(opened: optuna.Study, config: SearchConfig, plan: Plan, seen: Prompts, run: Run) -> bool:
    """Load the model, measure it once for all trials, and run these; whether the last one ended in this process.

    `plan` is that of the largest mixture.
    """
    base = load(
        config.model, config, *plan.measured, check=lambda form: finetuning.check(form, plan.rows, largest(config))
    )
    measure = Measurer(config)
    measured, _ = evaluation.evaluate(base, *seen, config, plan.task, measure=measure)
    check_base(config, measured)
    run.metrics({f"base_{name}": value for name, value in measured.metrics().items()})
    command_line.tell(f"{config.model} itself: ASR {measured.asr:.1f} %, over-refusal {measured.over_refusal:.1f} %")
    answers: dict[str, OwnAnswer] = {}  # The model's own, for all rows that a trial may be trained on.
    finetuning.training_rows(base, plan.rows, largest(config), measure, answers)

    def attempt(one: optuna.Trial, settings: FinetuneConfig, watch: Watch) -> Outcome:
        return train_and_judge(one, settings, watch, seen, base, measured.asr, answers, config, measure)

    def told(number: int) -> None:
        log(opened, config, run)
        command_line.tell(words.trial(study.record(opened, config), number))

    return loop.run(opened, config, attempt, told=told)


def train_and_judge(
    one: optuna.Trial,
    settings: FinetuneConfig,
    watch: Watch,
    seen: Prompts,
    base: Chat,
    base_asr: float,
    answers: dict[str, OwnAnswer],
    config: SearchConfig,
    measure: Measurer,
) -> Outcome:
    """Train and judge one trial in a nested run; `answers` are the base's own, and its ASR is in percent."""
    with runs.tracked("trial", settings, name=f"trial {one.number}: {mixture_of(settings)}", nested=True) as run:
        one.set_user_attr("run", run.id)
        plan = plan_of(settings, seen)

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
            run.metrics(histories.margin(edge))
            run.tag("margin", f"{edge.margin_in_words}. {edge.remark}".strip())
        run.tag("state", "PRUNED" if reason else "COMPLETE")
        run.tag("reason", verdict.in_words())
    return verdict


def check_best(opened: optuna.Study, config: SearchConfig, kept: Prompts) -> None:
    """Retrain the best trials and measure them on what was kept back, as far as that was not done; each in a run."""
    measure, loaded, answers = Measurer(config), list[Chat](), dict[str, OwnAnswer]()

    def unkept(folder: Path, step: int) -> str:
        return ""

    def retrain(number: int, seed: int) -> Evaluation:
        if not loaded:
            loaded.append(load(config.model, config))
        params = study.record(opened, config).trial(number).params
        settings = retraining_of(trial.settings_of(config, params), seed)
        with runs.tracked("check", settings, name=f"check of trial {number}, seed {seed}", nested=True) as nested:
            plan = plan_of(settings, kept)
            result = finetune(loaded[0], plan, settings, measure, nested, answers=answers, keep=unkept)
        return result.checkpoints[-1].evaluation

    checks.run(opened, config, lambda: study.record(opened, config).trials, retrain)


def log(opened: optuna.Study, config: SearchConfig, run: Run, *, is_last: bool = False) -> None:
    """Put the study as it is on its run; in the end its page, too, and what comes nearest if no check holds."""
    result = study.record(opened, config)
    run.metrics(result.metrics(with_nearest=is_last), step=result.n_ended)
    run.result(result, "search.json")
    run.text(result.to_csv(), "trials.csv")
    run.figure(figures.safe_share(result), "safe_share.png")
    run.figure(figures.front(result), "front.png")
    chosen, number = result.chosen
    if number is not None and (chosen == "best" or is_last):
        name = f"{chosen}_mixture.yaml"
        settings = trial.settings_of(config, result.trial(number).params)
        run.text(trial.recipe(settings, name, words.about(result, number)), name)
    if is_last:
        run.text(pages.page(result, opened), "study.html")
