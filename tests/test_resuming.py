"""What a training leaves on disk, and that one which was cut off anywhere ends as an undisturbed one does."""

import dataclasses
import json
import shutil

import pytest
import tiny
import torch

from visage_mlflow.config import FinetuneConfig
from visage_mlflow.language.models import load_tokenizer, load_weights
from visage_mlflow.studies import finetuning
from visage_mlflow.training import checkpoints, sft
from visage_mlflow.training.checkpoints import Checkpoint
from visage_mlflow.training.mixture import MixtureRow, to_dataset
from visage_mlflow.training.reporting import Diverged
from visage_mlflow.training.sft import Recipe

ROWS = [MixtureRow("harmful", row["prompt"], row["opening"]) for row in tiny.harmful_rows(10)]
RECIPE = Recipe(
    learning_rate=5e-3,
    epochs=3.0,
    lora_rank=4,
    batch_size=4,
    save_every=2,
    max_length=128,
    autocast=torch.float32,
    seed=0,
)
"""9 steps: checkpoints after 2, 4, 6, 8 and 9."""


class Cut(Exception):
    """Where a training ends in the middle."""


@pytest.fixture(scope="module")
def train(aligned_folder):
    """A function that trains in a folder, and tells what it logged and which weights each checkpoint has."""

    def run(folder, recipe=RECIPE, cut_after=None, base_uri=str(aligned_folder)):
        logged, weights = [], []

        def on_checkpoint(checkpoint):
            name = "adapter_model" if recipe.lora_rank else "model"
            weights.append((checkpoint.step, (checkpoint.folder / f"{name}.safetensors").read_bytes()))
            if len(weights) == cut_after:
                raise Cut

        try:
            sft.finetune(
                load_weights(str(aligned_folder)),
                load_tokenizer(str(aligned_folder)),
                to_dataset(ROWS),
                recipe,
                folder,
                base_uri=base_uri,
                on_log=lambda numbers, step: logged.append((step, numbers)),
                on_checkpoint=on_checkpoint,
            )
        except Cut:
            pass
        return logged, weights

    return run


@pytest.fixture(scope="module")
def undisturbed(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("cut_after", [1, 2, 4])
def test_a_training_that_was_cut_off_goes_on_with_the_same_losses_and_weights(train, undisturbed, tmp_path, cut_after):
    assert len(train(tmp_path, cut_after=cut_after)[1]) == cut_after
    assert train(tmp_path) == undisturbed


def test_full_finetuning_goes_on_in_the_middle_of_an_epoch(train, tmp_path):
    recipe = dataclasses.replace(RECIPE, lora_rank=0, learning_rate=1e-3, epochs=2.0, save_every=4)
    whole = train(tmp_path / "whole", recipe)
    train(tmp_path / "cut", recipe, cut_after=1)
    assert train(tmp_path / "cut", recipe) == whole and [step for step, _ in whole[1]] == [4, 6]


def test_one_that_had_ended_is_told_again_without_a_step(train, undisturbed, tmp_path, monkeypatch):
    train(tmp_path)
    monkeypatch.setattr("trl.SFTTrainer.train", lambda self, **options: pytest.fail("trained"))
    assert train(tmp_path) == undisturbed


def test_it_may_be_cut_off_again_and_again(train, undisturbed, tmp_path):
    for count in (1, 2, 3, 4, 5):
        train(tmp_path, cut_after=count)
    assert train(tmp_path) == undisturbed


@pytest.mark.parametrize("name", ["checkpoint-2/adapter_model.safetensors", "state-4/optimizer.pt", "state-4.json"])
def test_after_a_file_was_cut_it_begins_anew_and_ends_the_same(train, undisturbed, tmp_path, name):
    train(tmp_path, cut_after=2)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    assert train(tmp_path) == undisturbed


def test_a_checkpoint_that_was_being_written_does_not_count(train, undisturbed, tmp_path):
    train(tmp_path, cut_after=2)
    shutil.copytree(tmp_path / "checkpoint-4", tmp_path / "checkpoint-6")
    (tmp_path / "state-6").mkdir()
    assert [checkpoint.step for checkpoint in checkpoints.found(tmp_path)] == [2, 4]
    assert not (tmp_path / "checkpoint-6").exists() and not (tmp_path / "state-6").exists()
    assert train(tmp_path) == undisturbed


def test_a_kept_checkpoint_holds_no_pickle_and_no_path_of_this_machine(train, tmp_path):
    train(tmp_path, cut_after=1, base_uri="models:/aligned@champion")
    names = {path.name for path in (tmp_path / "checkpoint-2").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert "trainer_state.json" not in names
    for path in (tmp_path / "checkpoint-2").glob("*.json"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8")


def test_only_the_last_checkpoint_has_a_state_and_none_that_nobody_needs_any_more(train, tmp_path):
    train(tmp_path, cut_after=2)
    assert [path.name for path in tmp_path.glob("state-*/")] == ["state-4"]
    train(tmp_path)
    assert [path.name for path in (tmp_path / "state-9").iterdir()] == ["trainer_state.json"]


def test_an_adapter_that_is_told_again_names_the_uri_its_base_has_now(train, tmp_path):
    train(tmp_path, cut_after=1, base_uri="models:/m-before")
    train(tmp_path, cut_after=1, base_uri="models:/m-now")
    config = json.loads((tmp_path / "checkpoint-2" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "models:/m-now" and checkpoints.is_whole(tmp_path / "checkpoint-2")


# Seals


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint as transformers leaves it."""
    made = Checkpoint(tmp_path / "checkpoint-7", 7)
    made.folder.mkdir()
    for name in ("model.safetensors", "optimizer.pt", "rng_state.pth", "training_args.bin"):
        (made.folder / name).write_text(name)
    history = [{"step": 1, "loss": 2.5}, {"step": 7, "loss": 0.5}]
    (made.folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    return made


def test_a_checkpoint_is_whole_once_it_is_kept_and_knows_its_log(checkpoint):
    assert not checkpoints.is_whole(checkpoint.folder) and checkpoints.found(checkpoint.folder.parent / "none") == []
    checkpoints.keep(checkpoint)
    assert checkpoints.is_whole(checkpoint.folder) and checkpoints.is_whole(checkpoint.state)
    assert checkpoints.found(checkpoint.folder.parent) == [checkpoint]
    assert checkpoint.logs() == [(1, {"loss": 2.5}), (7, {"loss": 0.5})]


@pytest.mark.parametrize("change", ["cut", "more", "less", "another byte"])
def test_a_folder_that_changed_is_not_whole(checkpoint, change):
    checkpoints.keep(checkpoint)
    path = checkpoint.folder / "model.safetensors"
    if change == "less":
        path.unlink()
    elif change == "more":
        (checkpoint.folder / "extra").touch()
    else:
        path.write_text("model.safetensor" if change == "cut" else "model.safetensorS")
    assert not checkpoints.is_whole(checkpoint.folder) and checkpoints.found(checkpoint.folder.parent) == []
    assert list(checkpoint.folder.parent.iterdir()) == []


# The folder of a training


@pytest.fixture(scope="module")
def config(aligned_folder, sets, tmp_path_factory):
    return FinetuneConfig(
        model=str(aligned_folder),
        output_dir=str(tmp_path_factory.mktemp("outputs")),
        harmful=4,
        safe=0,
        benign=0,
        dtype="float32",
    )


@pytest.mark.parametrize(
    ("error", "stays"), [(None, False), (finetuning.Ended("outside"), False), (Diverged("nan"), False)]
    + [(error, True) for error in (KeyboardInterrupt(), OSError("disk"), ValueError("`store`"), MemoryError())],
    ids=["ended", "ended early", "diverged", "interrupt", "disk", "store", "memory"],
)  # fmt: skip
def test_the_folder_of_a_training_stays_where_it_was_cut_off(chat, config, error, stays):
    try:
        with finetuning.workshop(chat, ROWS, config) as folder:
            folder.mkdir(exist_ok=True)
            if error:
                raise error
    except type(error) as caught:
        assert caught is error
    assert folder.exists() == stays
    shutil.rmtree(folder, ignore_errors=True)


def test_what_decides_a_training_names_its_folder_and_nothing_else(chat, base, config):
    def name(start=chat, rows=ROWS, **changes):
        with finetuning.workshop(start, rows, dataclasses.replace(config, **changes)) as folder:
            return folder.name

    assert name() == name(n_prompts=3, n_benign=3, judge="keyword", model="models:/m-1", store="off", batch_size=3)
    others = [
        *(name(base), name(rows=ROWS[1:]), name(rows=ROWS[::-1]), name(seed=1), name(epochs=2.5), name(lora_rank=2)),
        *(name(learning_rate=1e-5), name(train_batch_size=3), name(save_every=3), name(system_prompt="Be kind.")),
    ]
    assert len({name(), *others}) == len(others) + 1


def test_two_that_train_the_same_at_once_have_folders_of_their_own(chat, config):
    with finetuning.workshop(chat, ROWS, config) as first, finetuning.workshop(chat, ROWS, config) as second:
        assert first != second and second.is_dir()
    assert not second.exists()
