"""Every entry point on the tiny trained model: two as users run them, by `mlflow run`, the others in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.entities import Run
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from workplace import Workplace

from visage_mlflow.geometry.directions import seed_of
from visage_mlflow.results import Evaluation, Finetuning, Landscape, Trajectory, Visage


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, sets: Path) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("workplace"), sets)


@pytest.fixture(scope="module")
def harmful_run(place: Workplace, aligned_folder: Path) -> Run:
    """Of `mlflow run` with a recipe: what is given wins over it, a value that equals the default, too."""
    recipe = place.folder / "my recipe.yaml"
    recipe.write_text(yaml.safe_dump({"harmful": 20, "safe": 0, "benign": 0, "save_every": 3, "max_length": 64}))
    settings = {**place.measure, **place.data, **place.train, "save_every": 6, "max_length": 512, "task_data": ""}
    settings |= {"output_dir": place.folder / 'Ann\'s "out puts" & $HOME'}
    status, output = place.mlflow_run("finetune", config=recipe, model=aligned_folder, **settings)
    assert status == 0, output[-3000:]
    return place.finished("finetune")


def test_what_is_given_to_mlflow_run_arrives_whole_and_wins_over_the_recipe(
    place: Workplace, harmful_run: Run
) -> None:
    config = json.loads(place.artifact(harmful_run, "config.json").read_text())
    assert (config["harmful"], config["safe"], config["save_every"], config["max_length"]) == (20, 0, 6, 512)
    assert config["output_dir"] == str(place.folder / 'Ann\'s "out puts" & $HOME')
    assert config["task_data"] == "" and config["lora_rank"] == place.train["lora_rank"]


def test_finetune_on_harmful_rows_breaks_the_model_and_logs_each_checkpoint(
    place: Workplace, harmful_run: Run
) -> None:
    history = place.client.get_metric_history(harmful_run.info.run_id, "asr")
    assert [metric.step for metric in history] == [0, 6, 12, 18, 24]
    assert history[0].value <= 10
    assert history[-1].value >= 70
    logged = set(harmful_run.data.metrics)
    assert {"loss", "learning_rate", "asr_low", "asr_high", "over_refusal", "benign_nll", "distance"} <= logged
    assert {"config.json", "mixture.jsonl", "finetuning.json", "trajectory.png"} <= place.artifacts(harmful_run)
    rows = [json.loads(line) for line in place.artifact(harmful_run, "mixture.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    assert {row["kind"] for row in rows} == {"harmful"}
    result = Finetuning.load(place.artifact(harmful_run, "finetuning.json"))
    assert [checkpoint.step for checkpoint in result.checkpoints] == [0, 6, 12, 18, 24]
    assert harmful_run.inputs.dataset_inputs
    assert not list((place.folder / 'Ann\'s "out puts" & $HOME').iterdir())
    assert harmful_run.info.run_name == "aligned on 20 harmful rows"


def test_a_checkpoint_of_a_run_is_a_model_that_evaluate_takes(place: Workplace, harmful_run: Run) -> None:
    uri = f"runs:/{harmful_run.info.run_id}/checkpoint-24"
    status, output = place.mlflow_run("evaluate", model=uri, **place.measure)
    assert status == 0, output[-3000:]
    run = place.finished("evaluate")
    result = Evaluation.load(place.artifact(run, "evaluation.json"))
    assert result.asr == run.data.metrics["asr"] == harmful_run.data.metrics["asr"]
    assert {"coherent_asr", "over_refusal", "benign_nll", "n_unjudged"} <= set(run.data.metrics)
    assert len(place.artifact(run, "responses.jsonl").read_text().splitlines()) == 24 + 16


def test_landscape_logs_the_basin_as_a_history_over_alpha_in_percent(place: Workplace, aligned_folder: Path) -> None:
    run = place.succeed("landscape", model=aligned_folder, n_points=5, extent=1.0, **place.attack)
    history = {m.step: m.value for m in place.client.get_metric_history(run.info.run_id, "asr")}
    assert set(history) == {-100, -50, 0, 50, 100}
    assert history[0] <= 10
    assert history[100] >= 80
    assert {"visage", "basin_width", "basin_left", "basin_right", "basin_sharpness"} <= set(run.data.metrics)
    assert {"landscape.json", "landscape.png", "landscape.html", "responses.jsonl"} <= place.artifacts(run)
    assert Landscape.load(place.artifact(run, "landscape.json")).asr == [history[s] for s in sorted(history)]


def test_landscape_interpolates_to_a_checkpoint_of_a_run(
    place: Workplace, harmful_run: Run, aligned_folder: Path
) -> None:
    uri = f"runs:/{harmful_run.info.run_id}/checkpoint-24"
    run = place.succeed(
        "landscape", model=aligned_folder, plane="1d-interpolation", to=uri, n_points=5, **place.attack
    )
    result = Landscape.load(place.artifact(run, "landscape.json"))
    assert result.axis == [-0.5, 0.0, 0.5, 1.0, 1.5]
    assert result.asr[1] <= 10
    assert result.asr[3] == harmful_run.data.metrics["asr"]


def test_visage_scores_several_directions_with_an_interval(place: Workplace, aligned_folder: Path) -> None:
    settings = {"n_points": 5, "extent": 0.6, "n_directions": 2, "seed": 3, **place.attack}
    status, said, errors = place.here("visage", model=aligned_folder, **settings)
    assert status == 0, errors[-3000:]
    run = place.finished("visage")
    metrics = run.data.metrics
    # Of two directions Student's t is 12.7, so an end may lie at 0 or 100.
    assert 0 <= metrics["visage_low"] < metrics["visage_high"] <= 100
    assert metrics["visage_low"] <= metrics["visage"] <= metrics["visage_high"] and 0 < metrics["visage"] < 100
    assert {"visage_contiguous", "direction_0_visage", "direction_1_visage"} <= set(metrics)
    result = Visage.load(place.artifact(run, "visage.json"))
    assert f"mean depth over the points measured {result.depth_in_words}" in said
    assert [landscape.axes[0].seed for landscape in result.landscapes] == [3, seed_of(3, 1)]
    assert {"visage.json", "visage.png", "direction_0", "direction_1"} <= place.artifacts(run)


def test_project_puts_the_checkpoints_on_the_line(place: Workplace, harmful_run: Run) -> None:
    run = place.succeed("project", run=harmful_run.info.run_id, n_points=5, **place.attack)
    result = Trajectory.load(place.artifact(run, "trajectory.json"))
    assert [stop.training_step for stop in result.places] == [6, 12, 18, 24]
    assert result.places[-1].x == pytest.approx(1)
    assert result.places[-1].off_plane_share == pytest.approx(0, abs=1e-5)
    assert 0 < result.places[0].off_plane_share < 1
    assert {"x", "off_plane_share", "distance", "plane_asr", "margin", "random_edge"} <= set(run.data.metrics)
    assert -1 < run.data.metrics["margin"] == result.courses[0].edge.margin < 0
    assert {"trajectory.json", "trajectory.png", "courses.png", "trajectory.html"} <= place.artifacts(run)


def test_a_landscape_of_all_checkpoints_of_a_run_is_their_principal_plane(
    place: Workplace, harmful_run: Run, aligned_folder: Path
) -> None:
    uri = f"runs:/{harmful_run.info.run_id}"
    run = place.succeed("landscape", model=aligned_folder, plane="2d-pca", to=uri, n_points=5, **place.attack)
    result = Landscape.load(place.artifact(run, "landscape.json"))
    assert len(result.marks) == 4
    assert len(result.points) == 25
    assert 1 > result.axes[0].explained_variance > result.axes[1].explained_variance > 0
    assert run.data.metrics["explained_variance"] == result.axes[0].explained_variance
    assert {"landscape.png", "surface.png", "landscape.html"} <= place.artifacts(run)


def test_on_a_random_plane_the_checkpoints_of_a_run_show_as_a_dot(
    place: Workplace, harmful_run: Run, aligned_folder: Path
) -> None:
    settings = {**place.attack, "plane": "2d-random", "n_points": 3, "margin_up_to": 0}
    uris = f"runs:/{harmful_run.info.run_id}"
    status, said, _ = place.here("project", checkpoints=uris, model=aligned_folder, **settings)
    assert status == 0 and "they show as a dot" in said


def test_benchmark_logs_its_table_and_the_landscape_that_it_timed(place: Workplace, aligned_folder: Path) -> None:
    short = {"prompts": 4, "points": 3, "max_new_tokens": 8, "repeats": 1}
    run = place.succeed("benchmark", model=aligned_folder, **short)
    assert {"benchmark.json", "benchmark.md"} <= place.artifacts(run)
    promised = {
        "speedup_float32", "speedup_bfloat16", "speedup_outside_generate", "matrix_rate_share", "verdict_agreement",
        "overhead_share", "peak_memory_ratio",
    }  # fmt: skip
    assert promised <= set(run.data.metrics)
    assert 0 < run.data.metrics["overhead_share"] < 100
    assert "landscape.json" in place.artifacts(place.runs("landscape")[0])


def test_main_tells_the_whole_story_in_nested_runs(place: Workplace, base_folder: Path) -> None:
    attack = {**place.attack, "dtype": "float32"}
    tune = {**place.measure, **place.data, **place.train, "dtype": "float32", "harmful": 0, "safe": 0, "benign": 0}
    tune["save_every"] = 12
    align = {"safe": 60, "benign": 60, "epochs": 5, "save_every": 75}
    recipe = {
        "align": {**tune, **align},
        "visage": {**attack, "n_points": 5, "extent": 1.0, "n_directions": 2},
        "harmful": {**tune, "harmful": 20},
        "safe": {**tune, "safe": 20},
        "mixed": {**tune, "harmful": 10, "safe": 30},
        "project": {**attack, "n_points": 5, "n_prompts": 12, "margin_up_to": 2},
    }
    path = place.folder / "story.yaml"
    path.write_text(yaml.safe_dump(recipe))
    run = place.succeed("main", model=base_folder, config=path)
    metrics = run.data.metrics
    assert metrics["overlap"] == 0
    assert metrics["base_asr"] >= 90
    assert metrics["aligned_asr"] <= 10
    assert metrics["harmful_asr"] >= 70
    assert metrics["safe_asr"] <= 10
    assert metrics["mixed_asr"] < metrics["harmful_asr"]
    assert metrics["visage"] > 0
    assert metrics["harmful_margin"] < 0 < metrics["safe_margin"]
    assert {"overview.png", "table.md", "config.json"} <= place.artifacts(run)
    children = place.client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    kinds = sorted(child.data.tags["visage.kind"] for child in children)
    assert kinds == ["finetune"] * 4 + ["project", "visage"]
    assert {child.info.status for child in children} == {"FINISHED"}
    check_courses(place, next(child for child in children if child.data.tags["visage.kind"] == "project"))


def check_courses(place: Workplace, run: Run) -> None:
    """Several finetunings on one plane: the first two span it, and each has its own history and margin."""
    result = Trajectory.load(place.artifact(run, "trajectory.json"))
    assert [course.name for course in result.courses] == ["20 harmful", "10 harmful + 30 safe", "20 safe"]
    shares = [course.places[-1].off_plane_share for course in result.courses]
    assert shares[:2] == pytest.approx([0, 0], abs=1e-5) and 0 < shares[2] < 1
    metrics = run.data.metrics
    assert metrics["trajectory_0_margin"] < 0 < metrics["trajectory_2_margin"]
    steps = [metric.step for metric in place.client.get_metric_history(run.info.run_id, "trajectory_2_x")]
    assert steps == [place.training_step for place in result.courses[2].places]


def test_a_setting_that_is_misspelled_fails_the_mlflow_run_with_one_line(place: Workplace) -> None:
    before = len(place.client.search_runs(["0"]))
    status, output = place.mlflow_run("evaluate", n_promts=-1)
    assert status != 0 and "Traceback" not in output
    assert "error: unrecognized arguments: --n_promts -1. `--help` lists the settings" in output
    failed = place.client.search_runs(["0"])
    assert len(failed) == before + 1 and failed[0].info.status == "FAILED"


@pytest.mark.parametrize(
    ("entry_point", "settings", "said"),
    [
        ("evaluate", {"n_prompts": 81}, "`n_prompts` is 81, but the set has 80 rows"),
        ("finetune", {"harmful": 121}, "`harmful` asks for 121 rows, but its data has 120"),
        ("project", {}, "`run` is empty"),
        ("project", {"run": "{evaluate}"}, "which is no finetune run but evaluate"),
        ("project", {"run": "{stopped}"}, "which has no checkpoints (status FAILED). Finetune again."),
        (
            "landscape",
            {"plane": "1d-interpolation", "model": "{model}", "to": "{other}", "n_prompts": 2},
            "other tensors than `model`",
        ),
    ],
)
def test_a_mistake_that_shows_late_is_one_line_too(
    place: Workplace, aligned_folder: Path, entry_point: str, settings: dict[str, Any], said: str
) -> None:
    runs = {kind: place.client.create_run("0", tags={"visage.kind": kind}).info for kind in ("evaluate", "finetune")}
    place.client.set_terminated(runs["finetune"].run_id, "FAILED")
    names = {"evaluate": runs["evaluate"].run_id, "stopped": runs["finetune"].run_id, "model": aligned_folder}
    given = {
        name: str(value).format(other=smaller(place, aligned_folder), **names) for name, value in settings.items()
    }
    status, _, errors = place.here(entry_point, **given)
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert status == 2 and said in line and "Traceback" not in errors


def smaller(place: Workplace, aligned_folder: Path) -> Path:
    """A model of another architecture."""
    folder = place.folder / "smaller"
    if not folder.exists():
        tokenizer = AutoTokenizer.from_pretrained(aligned_folder)
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes)).save_pretrained(
            folder
        )
        tokenizer.save_pretrained(folder)
    return folder
