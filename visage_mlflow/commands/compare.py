"""Is one model safer than another? Both on the same prompts and random directions, with intervals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from visage_mlflow.commands import command_line
from visage_mlflow.commands.loading import check_asked, load
from visage_mlflow.config import CompareConfig
from visage_mlflow.figures import comparison as figures
from visage_mlflow.figures.style import short
from visage_mlflow.language import uris
from visage_mlflow.language.models import Chat
from visage_mlflow.measuring.measure import Measurer
from visage_mlflow.results import Comparison, Evaluation, Visage
from visage_mlflow.studies import comparison, evaluation
from visage_mlflow.studies.comparison import Side
from visage_mlflow.studies.landscape import Progress, ignore
from visage_mlflow.text.errors import Mistake
from visage_mlflow.tracking import lookup, runs


def main(config: CompareConfig) -> None:
    """Compare `config.other` with `config.model`, or the two runs of `config.run`, into MLflow."""
    named = config.runs or [short(config.model), short(config.other)]
    with runs.tracked("comparison", config, name=f"{named[1]} against {named[0]}") as run:
        result = comparison.compared(*(found(each) for each in config.runs)) if config.runs else measured(config)
        run.metrics(result.metrics())
        run.result(result, "comparison.json")
        run.figure(figures.comparison(result), "comparison.png")
    tell(result)


def measured(config: CompareConfig) -> Comparison:
    """Both models asked now, one after the other, so that memory holds one of them."""
    measure = Measurer(config)  # Mistakes in the store, the prompts and URIs show before a model is loaded.
    rows, benign = evaluation.harmful_rows(config), evaluation.benign_rows(config)
    for setting in ("model", "other"):
        uris.check_uri(getattr(config, setting), setting)
    for setting in ("model", "other"):  # What is wrong with one shows before hours were spent on the first.
        with naming(setting):
            check_asked(getattr(config, setting), config, [*rows, *benign], benign)
    with ExitStack() as stack:
        progress: Progress = ignore
        if config.n_directions:
            progress = stack.enter_context(command_line.bar(2 * config.n_directions * config.n_points, "compare"))
        config = in_one_dtype(config)
        sides = [
            comparison.side(loaded(setting, config), rows, benign, config, measure, progress)
            for setting in ("model", "other")
        ]
    return comparison.compared(*sides)


def in_one_dtype(config: CompareConfig) -> CompareConfig:
    """The settings with the dtype named that both models need; under `auto` each is loaded once to see it."""
    if config.dtype != "auto":
        return config
    dtypes = [loaded(setting, config).model.dtype for setting in ("model", "other")]
    shared = comparison.shared_dtype(dtypes, config.dtype)
    return config if shared is None else replace(config, dtype=str(shared).removeprefix("torch."))


def loaded(setting: str, config: CompareConfig) -> Chat:
    """One of the two models; what is wrong with it names its setting."""
    with naming(setting):
        return load(getattr(config, setting), config)


@contextmanager
def naming(setting: str) -> Iterator[None]:
    """Inside, what is wrong with one of the models names its setting."""
    try:
        yield
    except Mistake as mistake:
        raise (mistake if setting == "model" else Mistake(f"`{setting}`: {mistake}")) from mistake.__cause__


def found(run_id: str) -> Side:
    """What an evaluate or visage run measured."""
    kind = lookup.kind_of(run_id)
    if kind == "evaluate":
        setup = Evaluation.load(lookup.artifact(run_id, "evaluation.json")).setup
        responses = lookup.responses(run_id)
        return Side(setup, responses[: setup.n_prompts], responses[setup.n_prompts :], run=run_id)
    if kind == "visage":
        result = Visage.load(lookup.artifact(run_id, "visage.json"))
        at_rest = [each for each in lookup.responses(run_id, "direction_0/responses.jsonl") if each.x == 0]
        return Side(result.landscapes[0].setup, at_rest, visage=result, run=run_id)
    raise Mistake(f"`run` is {run_id!r}, which is no evaluate or visage run but {kind}. Give one of those.")


def tell(result: Comparison) -> None:
    """The result in lines."""
    command_line.tell(f"first {result.first.model}, other {result.second.model}")
    for one in result.differences:
        command_line.tell(f"  {one.in_words()}")
    if result.first.dtype != result.second.dtype:
        command_line.tell(
            f"  Mind that they were computed in {result.first.dtype} and {result.second.dtype}, which alone may "
            "change a verdict in a hundred: dtype=float32 computes both alike."
        )
    if result.about_directions:
        command_line.tell(f"  {result.about_directions}")
