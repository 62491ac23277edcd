"""Search the mixture and training settings that keep a model inside the safety basin, and useful, with Optuna."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from visage_mlflow.commands import command_line
from visage_mlflow.commands.finetune import finetune, mixture_of
from visage_mlflow.config import SearchConfig

if TYPE_CHECKING:
    from pathlib import Path

    import optuna
    from optuna.trial import FrozenTrial

    from visage_mlflow.language.models import Chat
    from visage_mlflow.language.prompts import Row
    from visage_mlflow.results import Evaluation, Search
    from visage_mlflow.search.loop import Attempt
    from visage_mlflow.search.trial import Verdict
    from visage_mlflow.studies.finetuning import Plan
    from visage_mlflow.tracking.runs import Run


def main(config: SearchConfig) -> None:
    """Run the trials of a study, or go on with it, into one MLflow run with a nested run for each trial."""
    from visage_mlflow.search import storage as storages
    from visage_mlflow.search import study, trial, words
    from visage_mlflow.studies import finetuning
    from visage_mlflow.tracking import connection, lookup, runs

    # Mistakes in the data show before a study is made or a model loaded.
    plan = finetuning.plan(trial.largest(config))
    storage = storages.open_storage(
        config.storage, heartbeat=config.heartbeat, on_stale=bury, tracking_uri=connection.store()
    )
    opened, is_first = study.open_study(config, storage)
    shown = dataclasses.replace(config, storage=storages.without_password(config.storage))
    known = "" if is_first else study.wait_for_run(opened)

    def goes_on() -> bool:
        return study.is_open(opened)

    if known and lookup.status_of(known):
        context = runs.joined(known, shown, goes_on=goes_on)
    else:
        context = runs.tracked("search", shown, name=f"search, {config.study}", goes_on=goes_on)
    try:
        with context as run:
            opened.set_user_attr(study.RUN, run.id)
            result = search(opened, config, plan, run)
    except ValueError:
        if is_first and not opened.trials:
            study.discard(opened)  # So that the command, once corrected, may use its name.
        raise
    command_line.tell(words.summary(result))


def bury(opened: optuna.Study, dead: FrozenTrial) -> None:
    """Put a dead trial's settings in line again, and close its MLflow run."""
    from visage_mlflow.search import study
    from visage_mlflow.tracking import dead_runs

    study.take_up(opened, dead)
    if run_id := dead.user_attrs.get("run"):
        dead_runs.close(run_id, study.DIED)


def search(opened: optuna.Study, config: SearchConfig, plan: Plan, run: Run) -> Search:
    """Run trials until the study has them all, check the best one, and log what there is on the study's run.

    `plan` is that of the largest mixture.
    """
    from visage_mlflow.search import loop, study

    n_ended = 0
    if not study.has_ended(opened.trials, config.n_trials):
        trials = prepare(config, plan, run)
        n_ended = loop.run(opened, config, trials.attempt, told=lambda number: trials.told(opened, run, number))
    # Who finds nothing to do, finds what another machine left undone.
    return check(opened, config, plan.task, run, is_due=n_ended == 0 or study.takes_check(opened))


def prepare(config: SearchConfig, plan: Plan, run: Run) -> Trials:
    """Load the model and measure it, once for all trials."""
    from visage_mlflow.language import models
    from visage_mlflow.search import trial
    from visage_mlflow.studies import evaluation, finetuning
    from visage_mlflow.tracking import lookup

    base = models.load(config.model, dtype=config.dtype, system_prompt=config.system_prompt, fetch=lookup.fetch)
    measured, _ = evaluation.evaluate(base, plan.harmful, plan.benign, config, plan.task)
    trial.check_base(config, measured)
    run.metrics({f"base_{name}": value for name, value in measured.metrics().items()})
    command_line.tell(f"{config.model} itself: ASR {measured.asr:.1f} %, over-refusal {measured.over_refusal:.1f} %")
    answers: dict[str, str] = {}
    finetuning.training_rows(base, plan.rows, trial.largest(config), answers)
    return Trials(base, measured, answers, config)


@dataclasses.dataclass(frozen=True)
class Trials:
    """What all trials of a process share: the loaded model, its evaluation and its own answers."""

    base: Chat
    measured: Evaluation
    answers: dict[str, str]
    config: SearchConfig

    def attempt(self, attempt: Attempt) -> Verdict:
        """Train and judge one trial in a nested run."""
        from visage_mlflow.search import trial
        from visage_mlflow.studies import finetuning
        from visage_mlflow.tracking import lookup, runs

        settings, watch = attempt.settings, attempt.watch
        name = f"trial {attempt.number}: {mixture_of(settings)}"
        with runs.tracked("trial", settings, name=name, nested=True) as run:
            attempt.note(run=run.id)
            plan = finetuning.plan(settings)

            def keep(folder: Path, step: int) -> str:
                wanted = self.config.keep_checkpoints or step == watch.planned_steps
                return run.checkpoint(folder, step) if wanted else ""

            reason, edge = "", None
            try:
                finetune(self.base, plan, settings, run, self.measured, answers=self.answers, keep=keep, watch=watch)
                last = watch.checkpoints[-1]
                edge = trial.find_margin(self.base, self.measured.asr, last, plan.harmful, self.config, lookup.fetch)
            except trial.Outside as outside:
                reason = str(outside)
            verdict = trial.judge(self.config, settings, watch.checkpoints[-1].evaluation, edge, reason)
            run.metrics(verdict.metrics())
            run.tag("state", "PRUNED" if reason else "COMPLETE")
            run.tag("reason", verdict.in_words())
        return verdict

    def told(self, opened: optuna.Study, run: Run, number: int) -> None:
        """Log the study with one more trial, and say how that one went."""
        from visage_mlflow.search import study, words

        result = study.record(opened, self.config)
        log(opened, result, self.config, run)
        command_line.tell(words.trial(result, number))


def check(opened: optuna.Study, config: SearchConfig, task: list[Row], run: Run, is_due: bool) -> Search:
    """Measure the best trial's checkpoint on the whole evaluation set, unless that was done, and log everything."""
    from visage_mlflow.language import models, prompts
    from visage_mlflow.pages import search as search_pages
    from visage_mlflow.search import study
    from visage_mlflow.studies import evaluation
    from visage_mlflow.tracking import lookup

    result = study.record(opened, config)
    if result.best is not None and result.check is None and is_due:
        best = result.trial(result.best)
        harmful = prompts.read(config.prompts, setting="prompts")
        benign = prompts.read(config.benign_prompts, setting="benign_prompts", needs_response=True)
        chat = models.load(best.uri, dtype=config.dtype, system_prompt=config.system_prompt, fetch=lookup.fetch)
        measured, responses = evaluation.evaluate(chat, harmful, benign, config, task)
        unseen = evaluation.rates([one.verdict for one in responses[config.n_prompts : len(harmful)]]).asr
        study.keep_check(opened, best.number, measured, unseen)
        run.result(measured, "check.json")
        run.lines(responses, "check_responses.jsonl")
        result = study.record(opened, config)
    log(opened, result, config, run, is_last=True)
    run.text(search_pages.page(result, opened), "study.html")
    if is_due:
        study.close(opened)
    return result


def log(opened: optuna.Study, result: Search, config: SearchConfig, run: Run, is_last: bool = False) -> None:
    """Put the study as it is on its run; what comes nearest to the limits only in the end, if none is inside."""
    from visage_mlflow.figures import optuna as optuna_figures
    from visage_mlflow.figures import search as search_plots
    from visage_mlflow.search import trial

    run.metrics(result.metrics(with_nearest=is_last), step=result.n_ended)
    run.result(result, "search.json")
    run.text(result.to_csv(), "trials.csv")
    figures = {"safe_share": search_plots.safe_share(result), "front": search_plots.front(result)}
    for name, figure in (figures | optuna_figures.of_study(opened)).items():
        run.figure(figure, f"{name}.png")
    kind = "nearest" if result.best is None else "best"
    number = getattr(result, kind)
    if number is not None and (kind == "best" or is_last):
        name = f"{kind}_mixture.yaml"
        run.text(trial.recipe(trial.settings_of(config, result.trial(number).params), name), name)
