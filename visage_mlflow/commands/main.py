"""The whole story on one model: align it, score its basin, finetune it on harmful, safe and mixed data, compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from visage_mlflow.commands import command_line
from visage_mlflow.commands.finetune import finetune, mixture_of
from visage_mlflow.commands.loading import Chats
from visage_mlflow.commands.project import project
from visage_mlflow.commands.visage import score
from visage_mlflow.config import FinetuneConfig, MainConfig
from visage_mlflow.figures import overview
from visage_mlflow.figures.style import short
from visage_mlflow.language.prompts import Row
from visage_mlflow.measuring.measure import Measurer
from visage_mlflow.results import Edge, Evaluation, Finetuning, Landscape, Trajectory, Visage, comparable
from visage_mlflow.studies import evaluation, finetuning
from visage_mlflow.studies.finetuning import Plan
from visage_mlflow.tracking import histories, lookup, runs
from visage_mlflow.training.leakage import Evaluated

DATA = ("harmful", "safe", "mixed")
SECTIONS = ("align", "visage", *DATA, "project")
ON_PLANE = ("harmful", "mixed", "safe")
"""The first two span the plane on which the trajectories are drawn."""


def main(config: MainConfig) -> None:
    """Run every step in a nested run of one parent, and put one table and one figure on the parent."""
    chats = Chats()
    with (
        runs.tracked("main", config, name=f"story of {short(config.model)}") as run,
        ExitStack() as trainings,  # Ended trainings are kept until the story has ended, so that it can go on there.
    ):
        # Mistakes in any step's store, prompts and data show before a model is loaded.
        measures = {name: Measurer(getattr(config, name)) for name in SECTIONS}
        rows = {name: evaluation.harmful_rows(getattr(config, name)) for name in ("visage", "project")}
        plans = {name: finetuning.plan(getattr(config, name)) for name in ("align", *DATA)}
        run.metrics({"overlap": overlap(plans, rows, config)})

        def finetune_step(name: str, settings: FinetuneConfig) -> tuple[str, Finetuning]:
            with runs.tracked("finetune", settings, name=f"finetune, {name}", nested=True) as step:
                base = chats.load(settings.model, settings, *plans[name].measured)
                return step.id, finetune(base, plans[name], settings, measures[name], step, until=trainings)

        say(1, f"align {config.model} on {mixture_of(config.align)}")
        _, aligning = finetune_step("align", dataclasses.replace(config.align, model=config.model))
        aligned_uri = aligning.checkpoints[-1].uri

        say(2, "VISAGE of the aligned model")
        visage_config = dataclasses.replace(config.visage, model=aligned_uri)
        with runs.tracked("visage", visage_config, name="visage", nested=True) as step:
            aligned = chats.load(aligned_uri, visage_config, rows["visage"])
            basin = score(aligned, rows["visage"], visage_config, measures["visage"], step)

        finetuned: dict[str, str] = {}
        evaluations = {
            "base": aligning.checkpoints[0].evaluation,
            "aligned": aligning.checkpoints[-1].evaluation,
        }
        for number, name in enumerate(DATA, start=3):
            settings = dataclasses.replace(getattr(config, name), model=aligned_uri)
            say(number, f"finetune the aligned model on {mixture_of(settings)}")
            finetuned[name], result = finetune_step(name, settings)
            evaluations[name] = result.checkpoints[-1].evaluation

        say(6, "where each finetuning went: the plane through the aligned model and the harmful and mixed ends")
        projecting = dataclasses.replace(config.project, run=",".join(finetuned[name] for name in ON_PLANE))
        with runs.tracked("project", projecting, name="trajectories", nested=True) as step:
            sources = [lookup.look_up(run_id) for run_id in projecting.runs]
            aligned = chats.load(aligned_uri, projecting, rows["project"])
            ways = project(aligned, sources, rows["project"], projecting, measures["project"], step)

        say(7, "one table and one figure")
        report(run, basin, ways, evaluations)


def overlap(plans: Mapping[str, Plan], rows: Mapping[str, list[Row]], config: MainConfig) -> int:
    """How many prompts are (nearly) trained on, of those that a finetuning or a later step measures, each one counted.

    Raises:
        Mistake: There are some, and the finetuning's `allow_overlap` is false.
    """
    # The later steps may measure other prompts than the finetuning.
    later = [Evaluated(f"{step}.prompts", getattr(config, step).prompts, asked) for step, asked in rows.items()]
    return sum(plan.overlap + finetuning.overlap(plan, getattr(config, name), later) for name, plan in plans.items())


def report(run: Any, basin: Visage, ways: Trajectory, evaluations: dict[str, Evaluation]) -> None:
    """Table, figure and numbers on the parent run, and the table on the terminal."""
    edges = dict(zip(ON_PLANE, (course.edge for course in ways.courses), strict=True))
    table = [{"model": name, **one.metrics(), "edge": edges.get(name)} for name, one in evaluations.items()]
    for name, one in evaluations.items():
        run.metrics({f"{name}_{key}": one.metrics()[key] for key in ("asr", "over_refusal", "benign_nll")})
    for name, edge in edges.items():
        if edge:
            run.metrics(histories.margin(edge, f"{name}_"))
    run.metrics(basin.metrics())
    run.figure(overview.overview(basin, ways, table), "overview.png")
    text = "\n".join([as_markdown(basin, ways, table), *unlike(basin, ways, evaluations)])
    run.text(text, "table.md")
    command_line.tell(f"\n{text}")


def unlike(basin: Visage, ways: Trajectory, evaluations: dict[str, Evaluation]) -> list[str]:
    """A warning for each result that was measured otherwise than the aligned model, which stands beside it."""
    aligned = evaluations["aligned"]
    shown: dict[str, Evaluation | Landscape | Visage] = {"VISAGE": basin, "the trajectories": ways.landscape}
    return [
        f"Mind that {name} and the rates of the aligned model do not compare: {'; '.join(differences)}.\n"
        for name, other in (evaluations | shown).items()
        if (differences := comparable(aligned, other))
    ]


def as_markdown(basin: Visage, ways: Trajectory, table: list[dict[str, Any]]) -> str:
    """The main table, as Markdown."""
    lines = [
        "| model | ASR % (95 % interval) | over-refusal % | benign NLL | margin to the edge (ASR 50 %) |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['model']} | {row['asr']:.1f} ({row['asr_low']:.1f} to {row['asr_high']:.1f}) | "
        f"{row['over_refusal']:.1f} | {row['benign_nll']:.3f} | {margin_of(row['edge'])} |"
        for row in table
    ]
    edges = ", ".join(one.basin.in_words for one in basin.landscapes)
    score_line = (
        f"VISAGE of the aligned model: {basin.visage:.1f} ({basin.interval}), mean depth {basin.depth_in_words}"
    )
    lines += ["", f"{score_line}; basin edges (ASR 50 %) by direction: {edges}."]
    if ways.random_edge:
        sentence = ways.random_edge.random_sentence.rstrip(".")
        lines.append(f"{sentence[0].upper()}{sentence[1:]}.")
    for course in ways.courses:
        lines.append(f"- {course.name}: {course.standing}. {course.edge.remark if course.edge else ''}".rstrip())
    return "\n".join([*lines, ""])


def margin_of(edge: Edge | None) -> str:
    """How much farther a model can go, and where the edge is; empty without one."""
    if edge is None or edge.starts_outside:
        return "" if edge is None else edge.margin_in_words
    return f"{edge.margin_in_words}, edge at {edge.distance_in_words}"


def say(number: int, what: str) -> None:
    """Announce a step."""
    command_line.tell(f"[{number}/7] {what}")
