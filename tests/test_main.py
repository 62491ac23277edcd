"""What `main` shares between its steps; the story itself is in test_end_to_end.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import made
import pytest

from visage_mlflow.commands.command_line import parse
from visage_mlflow.commands.loading import Chats
from visage_mlflow.commands.main import as_markdown, overlap, unlike
from visage_mlflow.config import EvaluateConfig, FinetuneConfig, MainConfig, ProjectConfig, VisageConfig
from visage_mlflow.language.prompts import Row
from visage_mlflow.studies.finetuning import Plan
from visage_mlflow.text.errors import Mistake
from visage_mlflow.training.mixture import MixtureRow


def test_steps_share_a_model_only_where_they_agree_on_dtype_and_system_prompt(aligned_folder: Path) -> None:
    chats, uri = Chats(), str(aligned_folder)
    chat = chats.load(uri, EvaluateConfig(dtype="float32"))
    assert chats.load(uri, EvaluateConfig(dtype="float32", n_prompts=3)) is chat
    assert chats.load(uri, EvaluateConfig(dtype="bfloat16")).model.dtype != chat.model.dtype
    assert chats.load(uri, EvaluateConfig(dtype="float32", system_prompt="Be kind.")).system_prompt == "Be kind."


def test_a_model_that_cannot_be_loaded_is_refused_as_the_model() -> None:
    with pytest.raises(ValueError, match="`model` is .*does not exist"):
        Chats().load("./nowhere", EvaluateConfig())


def test_a_basin_that_goes_on_past_the_axis_is_open_in_the_table() -> None:
    opened = made.landscape(edges=(-0.5, 0.4), is_open=(True, False))
    basin = replace(made.visage(), landscapes=(opened, made.landscape()))
    text = as_markdown(basin, made.trajectory(), [])
    assert "by direction: -0.500 (open) to +0.400, -0.300 to +0.400." in text


def test_results_measured_otherwise_are_named_under_the_table() -> None:
    basin, ways, aligned = made.visage(), made.trajectory(), made.evaluation()
    setup = replace(aligned.setup, n_prompts=40)
    ways = replace(ways, landscape=replace(ways.landscape, setup=aligned.setup))
    assert unlike(basin, ways, {"aligned": aligned}) == []
    (line,) = unlike(basin, ways, {"aligned": aligned, "harmful": replace(aligned, setup=setup)})
    assert line.startswith("Mind that harmful and") and "number of prompts: 4 and 40" in line


@pytest.mark.parametrize("budget", ["default", "quick"])
def test_every_model_in_the_table_is_asked_the_same_by_a_recipe(budget: str) -> None:
    config = parse(MainConfig, ["--budget", budget])
    asked = [
        (each.n_prompts, each.n_benign, each.max_new_tokens)
        for each in (config.align, config.harmful, config.safe, config.mixed)
    ]
    assert len(set(asked)) == 1, asked


def test_prompts_of_later_steps_that_are_trained_on_are_counted_where_that_is_allowed() -> None:
    """Of the two scored ones the aligned model is taught one, and two of the mixed rows are measured by their own."""
    common = {"model": "org/model", "output_dir": "outputs", "store": "off", "allow_overlap": True}
    tuned = {name: FinetuneConfig(**common) for name in ("align", "harmful", "safe", "mixed")}
    config = MainConfig(
        **tuned,
        visage=VisageConfig(model="org/model", prompts="asked.csv"),
        project=ProjectConfig(run="x"),
    )
    taught = [MixtureRow("safe", "Name three long rivers", "No.")]
    sets = {"safe": [Row("Name three long rivers", "No.")]}
    plans = {name: Plan([], [], [], [], {}) for name in tuned} | {
        "align": Plan(taught, [], [], [], sets),
        "mixed": Plan([], [], [], [], {}, overlap=2),
    }
    rows = {"visage": [Row("NAME three long rivers!"), Row("Hum")], "project": [Row("Sing")]}
    assert overlap(plans, rows, config) == 1 + 2
    refusing = replace(config, align=replace(tuned["align"], allow_overlap=False))
    with pytest.raises(Mistake, match="`visage.prompts` is 'asked.csv', and 1 of the 2 prompts"):
        overlap(plans, rows, refusing)
