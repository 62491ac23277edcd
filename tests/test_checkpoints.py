"""What a training leaves on disk, and that one which was cut off anywhere ends as an undisturbed one does."""

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch

from visage_mlflow.config import FinetuneConfig
from visage_mlflow.language.chat_format import ChatFormat
from visage_mlflow.language.models import load_tokenizer, load_weights
from visage_mlflow.studies import finetuning
from visage_mlflow.training import checkpoints, sft
from visage_mlflow.training.checkpoints import SavedCheckpoint
from visage_mlflow.training.mixture import MixtureRow, to_tokens
from visage_mlflow.training.sft import Diverged, Recipe, Unmoved

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

        with contextlib.suppress(Cut):  # The cut that `cut_after` asks for.
            sft.finetune(
                load_weights(str(aligned_folder)),
                load_tokenizer(str(aligned_folder)),
                to_tokens(ROWS, ChatFormat(load_tokenizer(str(aligned_folder)))),
                recipe,
                folder,
                base_uri=base_uri,
                on_log=lambda numbers, step: logged.append((step, numbers)),
                on_checkpoint=on_checkpoint,
            )
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


def test_after_a_file_was_damaged_it_starts_again_and_ends_the_same(train, undisturbed, again):
    path = again / "checkpoint-2" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert train(again) == undisturbed[1]


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
    assert [one.step for one in checkpoints.left_in(again)] == [2, 4]


# What counts


def written(folder, step):
    """A checkpoint as transformers leaves it."""
    made = SavedCheckpoint(folder / f"checkpoint-{step}", step)
    made.folder.mkdir()
    for name in ("model.safetensors", "optimizer.pt", "rng_state.pth", "training_args.bin"):
        (made.folder / name).write_text(name)
    history = [{"step": 1, "loss": 2.5}, {"step": step, "loss": 0.5}]
    (made.folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    return made


@pytest.fixture
def listed(tmp_path):
    """A folder with two checkpoints that are whole."""
    for step in (3, 12):
        checkpoints.complete(written(tmp_path, step))
    return tmp_path


def steps(folder):
    return [checkpoint.step for checkpoint in checkpoints.left_in(folder)]


def test_a_checkpoint_counts_once_it_is_complete_and_knows_its_log(tmp_path):
    assert steps(tmp_path) == steps(tmp_path / "none") == []
    checkpoint = written(tmp_path, 7)
    assert steps(tmp_path) == []
    checkpoints.complete(checkpoint)
    assert checkpoints.left_in(tmp_path) == [checkpoint]
    assert checkpoint.logs() == [{"step": 1, "loss": 2.5}, {"step": 7, "loss": 0.5}]
    assert [path.name for path in checkpoint.folder.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("name", ["checkpoint-3/model.safetensors", "checkpoint-12/model.safetensors",
                                  "state-12/optimizer.pt", "whole.json"])  # fmt: skip
@pytest.mark.parametrize("change", ["cut", "gone"])
def test_where_a_file_was_cut_no_checkpoint_counts(listed, name, change):
    assert steps(listed) == [3, 12]
    path = listed / name
    if change == "gone":
        path.unlink()
    else:
        path.write_text(path.read_text()[:-1])
    assert steps(listed) == []


def test_what_was_being_written_does_not_count_and_is_removed(listed):
    written(listed, 15)
    (listed / "state-15").mkdir()
    (listed / "draft").touch()
    before = set(listed.iterdir())
    kept = checkpoints.left_in(listed)
    assert [checkpoint.step for checkpoint in kept] == [3, 12] and set(listed.iterdir()) == before
    checkpoints.remove_all_but(listed, kept)
    assert {path.name for path in listed.iterdir()} == {"checkpoint-3", "checkpoint-12", "state-12", "whole.json"}
    checkpoints.remove_all_but(listed, [])
    assert list(listed.iterdir()) == []
    checkpoints.remove_all_but(listed / "none", [])


@pytest.mark.parametrize("count", range(5))
def test_a_kill_while_a_checkpoint_is_completed_leaves_it_or_the_one_before(listed, count, monkeypatch):
    """Three files are moved and the list is renamed; the process dies before each of these, and after all."""
    replace, left = Path.replace, [None] * count

    def dying(self, target):
        if not left:
            raise Cut
        left.pop()
        return replace(self, target)

    made = written(listed, 15)
    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(Cut) if count < 4 else contextlib.nullcontext():
        checkpoints.complete(made)
    assert steps(listed) == ([3, 12] if count < 4 else [3, 12, 15])
    assert checkpoints.left_in(listed)[-1].state.is_dir()


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
    ("error", "stays"),
    [(None, False), (finetuning.Ended("outside"), False), (Diverged("nan"), False), (Unmoved("0"), False)]
    + [(error, True) for error in (KeyboardInterrupt(), OSError("disk"), ValueError("`store`"), MemoryError())],
    ids=["ended", "ended early", "diverged", "unmoved", "interrupt", "disk", "store", "memory"],
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
