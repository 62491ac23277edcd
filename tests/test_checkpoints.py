"""What a training leaves on disk, and that one which was cut off anywhere ends as an undisturbed one does."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch

from visage_mlflow.config import FinetuneConfig
from visage_mlflow.language.models import load_tokenizer, load_weights
from visage_mlflow.studies import finetuning
from visage_mlflow.text.errors import Mistake
from visage_mlflow.training import checkpoints, sft
from visage_mlflow.training.checkpoints import SavedCheckpoint
from visage_mlflow.training.mixture import MixtureRow, to_dataset
from visage_mlflow.training.sft import Diverged, Recipe

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
    """The folder of a training that ended, and what it told."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, train(folder)


@pytest.fixture(scope="module")
def cut_off(train, tmp_path_factory):
    """The folder of a training that ended after its second checkpoint, at step 4."""
    folder = tmp_path_factory.mktemp("cut")
    train(folder, cut_after=2)
    return folder


@pytest.fixture
def again(cut_off, tmp_path):
    """A copy of it, to go on in."""
    return shutil.copytree(cut_off, tmp_path / "again")


def test_a_training_that_is_cut_off_again_and_again_ends_with_the_same_losses_and_weights(
    train, undisturbed, tmp_path
):
    for count in (1, 2, 3, 4, 5):
        assert len(train(tmp_path, cut_after=count)[1]) == count
    assert train(tmp_path) == undisturbed[1]


def test_full_finetuning_goes_on_in_the_middle_of_an_epoch(train, tmp_path):
    recipe = dataclasses.replace(RECIPE, lora_rank=0, learning_rate=1e-3, epochs=2.0, save_every=4)
    whole = train(tmp_path / "whole", recipe)
    train(tmp_path / "cut", recipe, cut_after=1)
    assert train(tmp_path / "cut", recipe) == whole and [step for step, _ in whole[1]] == [4, 6]


def test_one_that_had_ended_is_told_again_without_a_step(train, undisturbed, monkeypatch):
    monkeypatch.setattr("trl.SFTTrainer.train", lambda self, **options: pytest.fail("trained"))
    folder, told = undisturbed
    assert train(folder) == told


@pytest.mark.parametrize("name", ["checkpoint-2/adapter_model.safetensors", "state-4/trainer_state.json"])
def test_a_file_that_was_cut_off_is_told_with_the_folder_to_delete(train, again, name):
    path = again / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Mistake) as caught:
        train(again)
    message = str(caught.value)
    assert message.startswith("`output_dir` ") and f"{str(again)!r}" in message and "Delete that folder" in message
    assert "\n" not in message


def test_a_checkpoint_holds_no_pickle_and_no_path_of_this_machine(cut_off, aligned_folder):
    for step in (2, 4):
        names = {path.name for path in (cut_off / f"checkpoint-{step}").iterdir()}
        assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= names
        assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
        assert "trainer_state.json" not in names
        for path in (cut_off / f"checkpoint-{step}").glob("*.json"):
            assert str(cut_off) not in path.read_text(encoding="utf-8")
    assert [path.name for path in cut_off.glob("state-*/")] == ["state-4"]


def test_an_adapter_that_is_told_again_names_the_uri_its_base_has_now(train, again):
    train(again, cut_after=1, base_uri="models:/m-now")
    config = json.loads((again / "checkpoint-2" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "models:/m-now"
    assert not list((again / "checkpoint-2").glob("*.draft"))


# Folders


def written(folder, step):
    """A checkpoint as transformers leaves it."""
    made = folder / checkpoints.WRITING / f"checkpoint-{step}"
    made.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "rng_state.pth", "training_args.bin"):
        (made / name).write_text(name)
    (made / "trainer_state.json").write_text("{}")
    return made


def complete(folder, step):
    made = SavedCheckpoint(folder / f"checkpoint-{step}", step)
    checkpoints.complete(written(folder, step), made)
    return made


def test_a_checkpoint_counts_once_it_is_complete_and_only_the_last_state_is_kept(tmp_path):
    assert checkpoints.left_in(tmp_path) == checkpoints.left_in(tmp_path / "none") == []
    one, other = complete(tmp_path, 3), complete(tmp_path, 12)
    assert checkpoints.left_in(tmp_path) == [one, other]
    assert [path.name for path in one.folder.iterdir()] == ["model.safetensors"]
    assert [path.name for path in tmp_path.glob("state-*")] == ["state-12"]
    assert {path.name for path in other.state.iterdir()} == {"optimizer.pt", "rng_state.pth", "trainer_state.json"}


@pytest.mark.parametrize("count", range(6))
def test_a_checkpoint_that_was_cut_off_while_it_was_moved_does_not_count_and_is_removed(tmp_path, count, monkeypatch):
    """Three files, and then two folders, get their names by renaming: the process dies before each, and after all."""
    complete(tmp_path, 3)
    before = {path for path in tmp_path.rglob("*") if checkpoints.WRITING not in str(path)}
    rename, left = Path.rename, [None] * count

    def dying(self, target):
        if not left:
            raise Cut
        left.pop()
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", dying)
        if count < 5:
            with pytest.raises(Cut):
                complete(tmp_path, 12)
        else:
            complete(tmp_path, 12)
    kept = checkpoints.left_in(tmp_path)
    assert [checkpoint.step for checkpoint in kept] == ([3] if count < 5 else [3, 12])
    checkpoints.remove_all_but(tmp_path, kept)
    if count < 5:
        assert set(tmp_path.rglob("*")) == before
    assert kept[-1].state.is_dir() and not (tmp_path / checkpoints.WRITING).exists()
    complete(tmp_path, 15)
    assert [checkpoint.step for checkpoint in checkpoints.left_in(tmp_path)] == [*(one.step for one in kept), 15]


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
        with finetuning.training_folder(chat, ROWS, config) as folder:
            folder.mkdir(exist_ok=True)
            if error:
                raise error
    except type(error) as caught:
        assert caught is error
    assert folder.exists() == stays
    shutil.rmtree(folder, ignore_errors=True)


def test_what_decides_a_training_names_its_folder_and_nothing_else(chat, base, config):
    def name(start=chat, rows=ROWS, **changes):
        with finetuning.training_folder(start, rows, dataclasses.replace(config, **changes)) as folder:
            return folder.name

    assert name() == name(n_prompts=3, n_benign=3, judge="keyword", model="models:/m-1", store="off", batch_size=3)
    others = [
        *(name(base), name(rows=ROWS[1:]), name(rows=ROWS[::-1]), name(seed=1), name(epochs=2.5), name(lora_rank=2)),
        *(name(learning_rate=1e-5), name(train_batch_size=3), name(save_every=3), name(system_prompt="Be kind.")),
    ]
    assert len({name(), *others}) == len(others) + 1


def test_two_that_train_the_same_at_once_have_folders_of_their_own(chat, config):
    with (
        finetuning.training_folder(chat, ROWS, config) as first,
        finetuning.training_folder(chat, ROWS, config) as second,
    ):
        assert first != second and second.is_dir()
    assert not second.exists()
