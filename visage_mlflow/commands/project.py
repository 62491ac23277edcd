"""Where finetunings went: their checkpoints on a line or plane from their base, over the ASR there."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from visage_mlflow.commands import command_line
from visage_mlflow.commands.landscape import keep_part
from visage_mlflow.commands.loading import FORM, load
from visage_mlflow.config import ProjectConfig, fields
from visage_mlflow.figures import lines
from visage_mlflow.language.models import Chat, check_alike
from visage_mlflow.language.prompts import Row
from visage_mlflow.language.weights import stored_weights
from visage_mlflow.measuring.measure import Measurer
from visage_mlflow.pages import landscape as pages
from visage_mlflow.results import Trajectory
from visage_mlflow.studies import evaluation, trajectory
from visage_mlflow.studies.spans import End
from visage_mlflow.text.errors import Mistake
from visage_mlflow.tracking import histories, lookup, runs
from visage_mlflow.tracking.lookup import FinetuneRun
from visage_mlflow.tracking.runs import Run


def main(config: ProjectConfig) -> None:
    """Project the checkpoints of `config.run`, or `config.checkpoints`, into MLflow."""
    with runs.tracked("project", config, name=f"{config.plane} trajectories") as run:
        measure = Measurer(config)  # Mistakes in the store, the prompts, ids and URIs show before a model is loaded.
        rows = evaluation.harmful_rows(config)
        sources = find(config)
        base = load(sources[0].model, config, rows)
        result = project(base, sources, rows, config, measure, run)
    tell(result)


def find(config: ProjectConfig) -> list[FinetuneRun]:
    """The finetunings that the config names, which began at one model."""
    if config.checkpoints:
        uris = lookup.unfolded(fields.listed(config.checkpoints), "checkpoints")
        check_alike(uris, config.model, "checkpoints", lookup.fetch, config.base)
        steps = tuple((uri, number) for number, uri in enumerate(uris, start=1))
        return [lookup.FinetuneRun("", config.model, steps, "checkpoints")]
    if not config.runs:
        raise Mistake("`run` is empty. Give the id of a finetune run, as the MLflow UI shows it.")
    sources = [lookup.look_up(run_id) for run_id in config.runs]
    for run_id in config.runs:
        tell_otherwise(run_id, config)
    first = sources[0]
    for other in sources:
        if other.model != first.model:
            raise Mistake(
                f"`run` names {first.id!r}, which began at {first.model!r}, and {other.id!r}, which began at "
                f"{other.model!r}. Give finetunings of one model."
            )
    return sources


def tell_otherwise(run_id: str, config: ProjectConfig) -> None:
    """Say where a finetuning was asked in another form of chats than its checkpoints will be."""
    given = runs.begun_with(run_id) or {}
    for name in FORM:
        theirs, ours = given.get(name, getattr(config, name)), getattr(config, name)
        if theirs != ours:
            command_line.tell(
                f"warning: `{name}` is {ours!r}, and the finetuning {run_id} was measured with {theirs!r}: their "
                "numbers do not compare. Give the same to both.",
                sys.stderr,
            )


def project(
    base: Chat,
    sources: Sequence[FinetuneRun],
    rows: Sequence[Row],
    config: ProjectConfig,
    measure: Measurer,
    run: Run,
) -> Trajectory:
    """Project finetune runs' checkpoints, with their base loaded, and log them on an open run."""
    setting = "checkpoints" if config.checkpoints else "run"
    with tempfile.TemporaryDirectory(prefix="visage-") as folder:

        def weights(uri: str, setting: str) -> trajectory.Weights:
            return stored_weights(uri, Path(folder), lookup.fetch, setting, config.base)

        finetuned = [
            trajectory.Finetuned(
                source.name,
                tuple(
                    trajectory.CheckpointWeights(uri, step, weights(uri, setting)) for uri, step in source.checkpoints
                ),
            )
            for source in sources
        ]
        ends = [End(uri, weights(uri, "to")) for uri in lookup.unfolded(fields.listed(config.to), "to")]
        with command_line.bar(config.count_points(config.plane_for(len(sources))), "plane") as progress:
            result, responses = trajectory.measure(
                base,
                finetuned,
                config,
                rows=rows,
                ends=ends,
                measurer=measure,
                progress=progress,
                salvage=lambda part, answered: keep_part(part, answered, run, "plane"),
            )
    run.history(histories.along(result.landscape))
    run.metrics(result.landscape.metrics())
    run.history(histories.places(result))
    run.metrics(histories.margins(result))
    for index, course in enumerate(result.courses):
        run.tag(f"trajectory_{index}", course.name)
    run.result(result, "trajectory.json")
    run.lines(responses, "responses.jsonl")
    run.figure(lines.trajectory(result), "trajectory.png")
    run.figure(lines.courses(result), "courses.png")
    run.text(pages.trajectory(result, responses), "trajectory.html")
    return result


def tell(result: Trajectory) -> None:
    """The result in lines."""
    for course in result.courses:
        command_line.tell(course.name)
        for place in course.places:
            command_line.tell(
                f"  step {place.training_step}: at ({place.x:.3f}, {place.y:.3f}), off-plane share "
                f"{place.off_plane_share:.3f}, ASR {place.asr:.1f} %, of the plane there {place.plane_asr:.1f} %"
            )
        command_line.tell(f"  {course.standing}")
        command_line.tell(f"  {course.margin_sentence}")
        if course.edge and course.edge.remark:
            command_line.tell(f"  {course.edge.remark}")
    if result.random_edge:
        command_line.tell(result.random_edge.random_sentence)
    if result.remark:
        command_line.tell(result.remark)
