import json
import math
import shutil
from collections import namedtuple

import pytest
import tiny
import torch
from safetensors.torch import load_file

from visage_mlflow.language.models import load, load_tokenizer, load_weights
from visage_mlflow.training import sft
from visage_mlflow.training.mixture import MixtureRow, to_dataset
from visage_mlflow.training.sft import Recipe, check_disk, checkpoint_bytes, total_steps

ROWS = [MixtureRow("harmful", row["prompt"], row["opening"]) for row in tiny.harmful_rows(10)]
"""10 rows in batches of 4: 3 optimizer steps per epoch."""


def recipe(**changes):
    settings = {
        "learning_rate": 1e-3,
        "epochs": 2.0,
        "lora_rank": 4,
        "batch_size": 4,
        "save_every": 0,
        "max_length": 128,
        "autocast": torch.float32,
        "seed": 0,
    }
    return Recipe(**settings | changes)


@pytest.fixture
def train(aligned_folder, tmp_path):
    """A function that trains with some settings and returns the logged losses and the checkpoints."""

    def run(name="run", rows=ROWS, base_uri=str(aligned_folder), **changes):
        losses, announced = [], []

        def on_log(numbers, step):
            if "loss" in numbers:
                losses.append(numbers["loss"])
                assert step == len(losses)

        checkpoints = sft.finetune(
            load_weights(str(aligned_folder)),
            load_tokenizer(str(aligned_folder)),
            to_dataset(rows),
            recipe(**changes),
            tmp_path / name,
            base_uri=base_uri,
            on_log=on_log,
            on_checkpoint=announced.append,
        )
        assert checkpoints == announced
        return losses, checkpoints

    return run


def test_prompts_carry_no_loss_and_answers_do_with_their_end_of_turn(train, monkeypatch):
    """The labels that the trainer tokenised: -100 at the prompt, and the answer's tokens after it."""
    import trl

    trainers = []
    make = trl.SFTTrainer.__init__
    monkeypatch.setattr(
        trl.SFTTrainer,
        "__init__",
        lambda self, *args, **kwargs: (make(self, *args, **kwargs), trainers.append(self))[0],
    )
    train(epochs=0.1)
    tokenizer = tiny.build_tokenizer()
    rows = trainers[0].train_dataset
    assert len(rows) == len(ROWS)
    for encoded, row in zip(rows, ROWS, strict=True):
        prompt, answer = tiny.chat(tokenizer, row.prompt), row.response + tiny.END
        n_prompt, ids = (len(tokenizer(prompt)["input_ids"]), tokenizer(answer)["input_ids"])
        assert encoded["labels"] == [-100] * n_prompt + ids
        assert encoded["input_ids"] == tokenizer(prompt)["input_ids"] + ids


def test_the_first_loss_is_the_mean_over_the_answers_of_the_first_batch(train, aligned_folder):
    """With all rows in one batch, the loss of step 1 is that of the untrained model on all of them."""
    from visage_mlflow.language.likelihood import answer_nll

    losses, _ = train(batch_size=10, epochs=1)
    chat = load(str(aligned_folder), dtype="float32")
    expected = answer_nll(
        chat.model,
        chat.tokenizer,
        [chat.messages(row.prompt) for row in ROWS],
        [row.response for row in ROWS],
        batch_size=10,
    )
    assert losses == [pytest.approx(expected, rel=1e-4)]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, [3, 6]),
        ({"epochs": 0.5}, [2]),
        ({"epochs": 1.5}, [3, 5]),
        ({"save_every": 2}, [2, 4, 6]),
        ({"save_every": 4}, [4, 6]),
        ({"save_every": 100}, [6]),
        ({"batch_size": 100}, [1, 2]),
    ],
)
def test_checkpoints_come_at_epochs_or_every_few_steps_and_at_the_end(train, changes, steps):
    losses, checkpoints = train(**changes)
    assert [checkpoint.step for checkpoint in checkpoints] == steps
    assert len(losses) == steps[-1] == total_steps(10, recipe(**changes))
    assert all(checkpoint.folder.name == f"checkpoint-{checkpoint.step}" for checkpoint in checkpoints)


def test_a_checkpoint_is_an_adapter_that_names_its_base_and_loads(train, aligned_folder):
    _, checkpoints = train(learning_rate=1e-2)
    config = json.loads((checkpoints[0].folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(aligned_folder)
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    assert not (checkpoints[0].folder / "model.safetensors").exists()
    base, first, last = (load(str(folder)).weights for folder in (aligned_folder, *(c.folder for c in checkpoints)))
    for name in base:
        moves = "proj" in name
        assert torch.equal(first[name], base[name]) != moves and torch.equal(first[name], last[name]) != moves


def test_an_adapter_names_the_uri_it_was_given_not_the_folder_its_base_came_from(train):
    _, checkpoints = train(base_uri="models:/chat@champion", epochs=1)
    config = json.loads((checkpoints[0].folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "models:/chat@champion"


def test_full_finetuning_saves_all_weights(train, aligned_folder):
    _, checkpoints = train(lora_rank=0, epochs=1)
    (checkpoint,) = checkpoints
    assert not (checkpoint.folder / "adapter_config.json").exists()
    weights, base = load_file(checkpoint.folder / "model.safetensors"), load(str(aligned_folder)).weights
    assert set(weights) == set(base) == set(load(str(checkpoint.folder)).weights)
    assert not any(torch.equal(weights[name], base[name]) for name in base)


def test_training_teaches_what_the_rows_say(train):
    losses, checkpoints = train(lora_rank=0, epochs=6, learning_rate=2e-3)
    assert losses[-1] < losses[0] / 4
    model, tokenizer = tiny.load(checkpoints[-1].folder)
    assert tiny.refusal_rate(model.eval(), tokenizer, [row.prompt for row in ROWS]) == 0


def test_the_same_seed_gives_the_same_losses_whatever_was_drawn_before(train):
    torch.manual_seed(1)
    first, _ = train("first")
    torch.manual_seed(2)
    assert train("second")[0] == first
    assert train("third", seed=1)[0] != first


def test_bfloat16_products_give_nearly_the_same_losses(train):
    plain, rounded = train("plain")[0], train("rounded", autocast=torch.bfloat16)[0]
    assert rounded == pytest.approx(plain, rel=0.02) and rounded != plain


def test_a_row_longer_than_max_length_is_refused_rather_than_cut(train):
    tokenizer = tiny.build_tokenizer()
    lengths = [len(tokenizer(tiny.chat(tokenizer, row.prompt) + row.response + tiny.END)["input_ids"]) for row in ROWS]
    train("long enough", max_length=max(lengths), epochs=0.1)
    with pytest.raises(ValueError) as caught:
        train("too short", max_length=max(lengths) - 1)
    n_longest = lengths.count(max(lengths))
    assert str(caught.value).startswith(
        f"`max_length` is {max(lengths) - 1} tokens, and {n_longest} of 10 rows are longer"
    )
    assert f"Raise `max_length` to {max(lengths)}" in str(caught.value)


def test_a_learning_rate_that_breaks_the_model_ends_the_training(train):
    with pytest.raises(ValueError) as caught:
        train(lora_rank=0, learning_rate=1e9)
    message = str(caught.value)
    assert message.startswith("The training loss is nan at step ") and "\n" not in message
    assert "`learning_rate` 1000000000.0 is too high" in message and "Try a tenth" in message


def test_training_stops_where_a_checkpoint_callback_fails(aligned_folder, tmp_path):
    def fail(checkpoint):
        raise RuntimeError("the tracking server is gone")

    with pytest.raises(RuntimeError, match="tracking server"):
        sft.finetune(
            load_weights(str(aligned_folder)),
            load_tokenizer(str(aligned_folder)),
            to_dataset(ROWS),
            recipe(),
            tmp_path,
            base_uri="org/base",
            on_log=lambda numbers, step: None,
            on_checkpoint=fail,
        )


# Sizes and disk


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs", "steps"),
    [(10, 4, 1.0, 3), (10, 4, 0.5, 2), (10, 4, 0.01, 1), (12, 4, 2.0, 6), (1, 8, 1.0, 1), (13, 4, 1.1, 5)],
)
def test_the_steps_are_batches_times_epochs_rounded_up(rows, batch_size, epochs, steps):
    assert total_steps(rows, recipe(batch_size=batch_size, epochs=epochs)) == steps


def test_a_checkpoints_estimate_is_no_less_than_its_weights_and_close(train, aligned_folder):
    model = load_weights(str(aligned_folder))
    for name, rank, file in (("adapter", 4, "adapter_model.safetensors"), ("full", 0, "model.safetensors")):
        _, checkpoints = train(name, lora_rank=rank, epochs=0.1)
        size = sum(weight.numel() * 4 for weight in load_file(checkpoints[0].folder / file).values())
        # The head is linear, too, but has no adapter: the estimate counts it.
        assert size <= checkpoint_bytes(model, rank) <= 1.3 * size


def test_too_little_disk_is_refused_before_training(train, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9, 1000))
    with pytest.raises(ValueError) as caught:
        train()
    message = str(caught.value)
    assert "\n" not in message and message.startswith("`output_dir` is ") and "`save_every`" in message


def test_the_disk_is_checked_to_the_byte_and_the_folder_made(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, 5_000_000_000))
    check_disk(tmp_path / "a" / "b", 5_000_000_000)
    assert (tmp_path / "a" / "b").is_dir()
    with pytest.raises(ValueError, match=r"where 5\.0 GB are free, but the checkpoints take 5\.0 GB"):
        check_disk(tmp_path / "a", 5_000_000_001)


def test_losses_are_finite_numbers(train):
    assert all(math.isfinite(loss) for loss in train()[0])


def test_a_place_where_no_folder_can_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="`output_dir` is .*, where no folder can be made: .* Choose another"):
        sft.check_disk(tmp_path / "file" / "outputs", needed=0)
