"""What a training teaches, logs and saves, on the tiny model."""

import json
import math
import shutil
from collections import namedtuple
from types import SimpleNamespace

import pytest
import tiny
import torch
from safetensors.torch import load_file

from visage_mlflow.language.chat_format import ChatFormat
from visage_mlflow.language.likelihood import answer_nll
from visage_mlflow.language.models import load, load_tokenizer, load_weights
from visage_mlflow.text.errors import Mistake
from visage_mlflow.training import sft
from visage_mlflow.training.mixture import MixtureRow, to_tokens
from visage_mlflow.training.sft import (
    Diverged,
    Recipe,
    Schedule,
    Unmoved,
    check_disk,
    check_lengths,
    check_moved,
    checkpoint_bytes,
    total_steps,
)

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


@pytest.fixture(scope="module")
def train(aligned_folder, tmp_path_factory):
    """A function that trains with some settings and returns the logged losses and the checkpoints."""

    def run(**changes):
        losses, announced, rates = [], [], []

        def on_log(numbers, step):
            if "loss" in numbers:
                losses.append(numbers["loss"])
                rates.append(numbers["learning_rate"])
                assert step == len(losses)

        tokenizer = load_tokenizer(str(aligned_folder))
        sft.finetune(
            load_weights(str(aligned_folder)),
            tokenizer,
            to_tokens(ROWS, ChatFormat(tokenizer)),
            recipe(**changes),
            tmp_path_factory.mktemp("run"),
            base_uri=str(aligned_folder),
            on_log=on_log,
            on_checkpoint=announced.append,
        )
        assert all(map(math.isfinite, losses))
        return SimpleNamespace(losses=losses, checkpoints=announced, rates=rates)

    return run


@pytest.fixture(scope="module")
def lora(train):
    """Two epochs of LoRA, so fast that each weight moves by much."""
    return train(learning_rate=1e-2)


@pytest.fixture(scope="module")
def full(train):
    """Six epochs of full finetuning."""
    return train(lora_rank=0, epochs=6, learning_rate=2e-3)


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


def test_the_first_loss_is_the_mean_over_the_answers_of_the_first_batch(train, chat):
    """With all rows in one batch, the loss of step 1 is that of the untrained model on all of them."""
    trained = train(batch_size=10, epochs=1)
    answered = [chat.format.answered(row.prompt, row.response) for row in ROWS]
    prompts = [one.ids[: one.n_prompt] for one in answered]
    nll = answer_nll(chat.model, prompts, [one.ids for one in answered], batch_size=10)
    assert trained.losses == [pytest.approx(nll, rel=1e-4)]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [({}, [3, 6]), ({"epochs": 1.5}, [3, 5]), ({"save_every": 4}, [4, 6]), ({"save_every": 100}, [6])],
)
def test_checkpoints_come_at_epochs_or_every_few_steps_and_at_the_end(train, changes, steps):
    trained = train(**changes)
    assert [checkpoint.step for checkpoint in trained.checkpoints] == steps
    assert len(trained.losses) == steps[-1] == total_steps(10, recipe(**changes))
    assert all(checkpoint.folder.name == f"checkpoint-{checkpoint.step}" for checkpoint in trained.checkpoints)


def test_a_checkpoint_is_an_adapter_that_names_its_base_and_loads(lora, base_folder, aligned_folder):
    config = json.loads((lora.checkpoints[0].folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(aligned_folder)
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    assert not (lora.checkpoints[0].folder / "model.safetensors").exists()
    folders = (aligned_folder, *(checkpoint.folder for checkpoint in lora.checkpoints))
    base, first, last = (load(str(folder)).weights for folder in folders)
    for name in base:
        moves = "proj" in name
        assert torch.equal(first[name], base[name]) != moves and torch.equal(first[name], last[name]) != moves


def test_full_finetuning_saves_all_weights(full, chat):
    checkpoint = full.checkpoints[0]
    assert not (checkpoint.folder / "adapter_config.json").exists()
    weights = load_file(checkpoint.folder / "model.safetensors")
    assert set(weights) == set(chat.weights) == set(load(str(checkpoint.folder)).weights)
    assert not any(torch.equal(weights[name], chat.weights[name]) for name in weights)


def test_training_teaches_what_the_rows_say(full):
    assert full.losses[-1] < full.losses[0] / 4
    model, tokenizer = tiny.load(full.checkpoints[-1].folder)
    assert tiny.refusal_rate(model.eval(), tokenizer, [row.prompt for row in ROWS]) == 0


def test_the_same_seed_gives_the_same_losses_whatever_was_drawn_before(train, lora):
    torch.manual_seed(1)
    assert train(learning_rate=1e-2).losses == lora.losses
    assert train(learning_rate=1e-2, seed=1).losses != lora.losses


def test_bfloat16_products_give_nearly_the_same_losses(train, lora):
    rounded = train(learning_rate=1e-2, autocast=torch.bfloat16).losses
    assert rounded == pytest.approx(lora.losses, rel=0.02) and rounded != lora.losses


def test_a_row_longer_than_max_length_is_refused_rather_than_cut(train):
    tokenizer = tiny.build_tokenizer()
    lengths = [len(tokenizer(tiny.chat(tokenizer, row.prompt) + row.response + tiny.END)["input_ids"]) for row in ROWS]
    longest = max(lengths)
    check_lengths(lengths, longest)
    with pytest.raises(Mistake) as caught:
        train(max_length=longest - 1)
    rule = f"`max_length` is {longest - 1} tokens, and {lengths.count(longest)} of 10 rows are longer"
    assert str(caught.value).startswith(rule) and f"Raise `max_length` to {longest}" in str(caught.value)


def test_a_learning_rate_that_breaks_the_model_ends_the_training(train):
    with pytest.raises(Diverged) as caught:
        train(lora_rank=0, learning_rate=1e9)
    message = str(caught.value)
    assert message.startswith("The training loss is nan at step ") and "\n" not in message
    assert "`learning_rate` 1000000000.0 is too high" in message and "Try a tenth" in message


# Steps that teach


@pytest.mark.parametrize(
    ("steps", "warmup", "shares"),
    [
        (1, 0, [1.0]),
        (2, 1, [1 / 2, 1.0]),
        (5, 1, [1 / 2, 1.0, 3 / 4, 2 / 4, 1 / 4]),
        (10, 1, [1 / 2, 1.0, *(n / 9 for n in range(8, 0, -1))]),
        (100, 10, [*(n / 11 for n in range(1, 11)), 1.0, *(n / 90 for n in range(89, 0, -1))]),
    ],
)
def test_no_step_has_rate_0_and_one_has_the_peak(steps, warmup, shares):
    schedule = Schedule(steps, 1e-3)
    assert [schedule.share(done) for done in range(steps)] == pytest.approx(shares, rel=1e-12)
    assert min(shares) > 0 and shares.count(1.0) == 1
    assert schedule.metrics() == {"training_steps": steps, "warmup_steps": warmup, "peak_learning_rate": 1e-3}


@pytest.mark.parametrize("rank", [0, 4])
def test_a_training_of_one_step_moves_the_weights(train, chat, rank):
    """All 10 rows in one batch: transformers' own schedule has one step of rate 0 for that."""
    trained = train(batch_size=10, epochs=1, lora_rank=rank)
    assert trained.rates == [1e-3] and [checkpoint.step for checkpoint in trained.checkpoints] == [1]
    after = load(str(trained.checkpoints[0].folder)).weights
    assert any(not torch.equal(after[name], weight) for name, weight in chat.weights.items())


def test_the_trainer_takes_its_steps_at_the_rates_of_the_schedule(train):
    trained = train(epochs=2, learning_rate=2e-3)
    assert trained.rates == pytest.approx([2e-3 * Schedule(6, 2e-3).share(done) for done in range(6)])


@pytest.mark.parametrize("rank", [0, 4])
def test_a_training_that_leaves_the_weights_as_they_were_is_a_mistake(train, rank):
    """Settings refuse so small a rate; whoever calls this as a library is told here."""
    with pytest.raises(Unmoved) as caught:
        train(lora_rank=rank, learning_rate=1e-44, epochs=1)
    message = str(caught.value)
    assert message.startswith("The weights did not move in 3 training steps: `learning_rate` 1e-44 is too small")
    assert "Raise it" in message and "\n" not in message


def test_weights_that_broke_in_the_last_step_are_a_mistake(aligned_folder):
    model = load_weights(str(aligned_folder))
    with torch.no_grad():
        next(model.parameters())[0, 0] = math.inf
    with pytest.raises(Diverged, match="The weights are not finite after step 3: `learning_rate` 0.1 is too high"):
        check_moved(model, "", 0.1, 3)


# Sizes and disk


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs", "steps"),
    [(10, 4, 1.0, 3), (10, 4, 0.5, 2), (10, 4, 0.01, 1), (12, 4, 2.0, 6), (1, 8, 1.0, 1), (13, 4, 1.1, 5)],
)
def test_the_steps_are_batches_times_epochs_rounded_up(rows, batch_size, epochs, steps):
    assert total_steps(rows, recipe(batch_size=batch_size, epochs=epochs)) == steps


def test_a_checkpoints_estimate_is_no_less_than_its_weights_and_close(lora, full, chat):
    for trained, rank, file in ((lora, 4, "adapter_model.safetensors"), (full, 0, "model.safetensors")):
        size = sum(weight.numel() * 4 for weight in load_file(trained.checkpoints[0].folder / file).values())
        # The head is linear, too, but has no adapter: the estimate counts it.
        assert size <= checkpoint_bytes(chat.model, rank) <= 1.3 * size


def test_too_little_disk_is_refused_before_training(train, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9, 1000))
    with pytest.raises(Mistake) as caught:
        train()
    message = str(caught.value)
    assert "\n" not in message and message.startswith("`output_dir` is ") and "`save_every`" in message


def test_the_disk_is_checked_to_the_byte_and_the_folder_made(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, 5_000_000_000))
    check_disk(tmp_path / "a" / "b", 5_000_000_000)
    assert (tmp_path / "a" / "b").is_dir()
    with pytest.raises(Mistake, match=r"where 5,000 MB are free, but the checkpoints take 5,000 MB"):
        check_disk(tmp_path / "a", 5_000_000_001)


def test_a_place_where_no_folder_can_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Mistake, match="`output_dir` is .*, where no folder can be made: .* Choose another"):
        check_disk(tmp_path / "file" / "outputs", needed=0)
