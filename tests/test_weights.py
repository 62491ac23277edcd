"""Weights read tensor by tensor from a file: the same as the model's, and refused where there is no room for them."""

import shutil
from collections import namedtuple
from collections.abc import Mapping
from pathlib import Path

import pytest
import tiny
import torch
from families import GEMMA, PICTURES, wrapper
from moved import bitwise, copy_of
from safetensors.torch import load_file, save_file

from visage_mlflow.geometry.directions import Difference, RandomDirection, norm
from visage_mlflow.geometry.perturb import perturbed
from visage_mlflow.language import models
from visage_mlflow.language.weights import stored_weights

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def stored(aligned_folder, tmp_path_factory):
    return stored_weights(str(aligned_folder), tmp_path_factory.mktemp("stored"))


def same(left, right):
    return set(left) == set(right) and all(torch.equal(left[name], right[name]) for name in right)


def test_stored_weights_are_the_models_own_bit_for_bit(chat, stored):
    assert isinstance(stored, Mapping) and len(stored) == len(chat.weights) == len(list(stored))
    assert same(stored, chat.weights)
    assert all(
        stored[name].dtype == torch.float32 and stored[name].shape == chat.weights[name].shape for name in stored
    )
    assert stored.get("model.norm.weight") is not None and dict(stored.items()).keys() == set(chat.weights)


def test_tied_weights_are_stored_once_under_the_name_of_their_parameter(chat, stored):
    # The head is the embedding, and `named_parameters` names it once.
    assert chat.model.lm_head.weight is chat.model.model.embed_tokens.weight
    assert "lm_head.weight" not in stored and "model.embed_tokens.weight" in stored


def test_models_in_one_folder_have_files_of_their_own_and_stay_apart(
    aligned_folder, base_folder, base, chat, tmp_path
):
    kept = [stored_weights(str(folder), tmp_path) for folder in (base_folder, aligned_folder)]
    assert len(list(tmp_path.iterdir())) == 2
    assert same(kept[0], base.weights) and same(kept[1], chat.weights)
    assert not same(kept[0], chat.weights)


def test_a_tensor_outlives_its_mapping_and_its_file(chat, aligned_folder, tmp_path):
    weights = stored_weights(str(aligned_folder), tmp_path)
    tensor = weights["model.norm.weight"]
    del weights
    next(tmp_path.iterdir()).unlink()
    assert torch.equal(tensor, chat.weights["model.norm.weight"])


def test_writing_into_a_tensor_does_not_change_the_file(chat, aligned_folder, tmp_path):
    stored = stored_weights(str(aligned_folder), tmp_path)
    stored["model.norm.weight"].add_(1)
    assert torch.equal(load_file(next(tmp_path.iterdir()))["model.norm.weight"], chat.weights["model.norm.weight"])


def test_stored_weights_can_be_the_end_of_a_direction(chat, base, base_folder, tmp_path):
    direction = Difference(stored_weights(str(base_folder), tmp_path))
    direction.check(chat.weights)
    assert norm(chat.weights, direction) == norm(chat.weights, Difference(base.weights)) > 0
    with perturbed(chat.model, [direction], [1.0], weights=chat.weights):
        assert same(dict(chat.model.named_parameters()), base.weights)
    assert same(dict(chat.model.named_parameters()), chat.weights)


def test_an_adapter_is_merged_into_its_base_under_its_bases_names(aligned_folder, chat, tmp_path):
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(
        models.load_weights(str(aligned_folder)), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    wrapped.peft_config["default"].base_model_name_or_path = str(aligned_folder)
    (tmp_path / "adapter").mkdir()
    wrapped.save_pretrained(tmp_path / "adapter")
    (tmp_path / "stored").mkdir()
    kept = stored_weights(str(tmp_path / "adapter"), tmp_path / "stored")
    assert set(kept) == set(chat.weights)
    state = {name: weight.detach() for name, weight in wrapped.named_parameters()}
    for name, weight in chat.weights.items():
        if "q_proj" in name:
            layer = f"base_model.model.{name.removesuffix('.weight')}"
            down, up = (state[f"{layer}.lora_{side}.default.weight"].double() for side in "AB")
            scale = wrapped.peft_config["default"].lora_alpha / 2
            torch.testing.assert_close(kept[name].double(), weight.double() + scale * up @ down, rtol=1e-5, atol=1e-6)
            assert not torch.equal(kept[name], weight)
        else:
            assert torch.equal(kept[name], weight)


def test_weights_of_another_dtype_are_stored_in_float32(aligned_folder, tmp_path):
    coarse = models.load_weights(str(aligned_folder)).to(torch.bfloat16)
    (tmp_path / "model").mkdir()
    coarse.save_pretrained(tmp_path / "model")
    for file in Path(aligned_folder).glob("*token*"):
        shutil.copy(file, tmp_path / "model")
    shutil.copy(aligned_folder / "chat_template.jinja", tmp_path / "model")
    (tmp_path / "stored").mkdir()
    kept = stored_weights(str(tmp_path / "model"), tmp_path / "stored")
    expected = dict(coarse.named_parameters())
    assert all(kept[name].dtype == torch.float32 and torch.equal(kept[name], expected[name].float()) for name in kept)


@pytest.mark.parametrize("short_by", [1, 10**9])
def test_a_folder_without_room_is_refused_before_anything_is_written(
    aligned_folder, chat, tmp_path, monkeypatch, short_by
):
    needed = sum(weight.nbytes for weight in chat.weights.values())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, needed - short_by))
    with pytest.raises(ValueError) as caught:
        stored_weights(str(aligned_folder), tmp_path, setting="to")
    message = str(caught.value)
    assert message.startswith(f"`to` is {str(aligned_folder)!r}") and repr(str(tmp_path)) in message
    assert "\n" not in message and message.endswith("Free some space, or point TMPDIR at a larger disk.")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_read_is_refused_with_the_settings_name(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="^`to` ") as caught:
        stored_weights(str(tmp_path / "empty"), tmp_path, setting="to")
    assert "\n" not in str(caught.value)


@pytest.fixture
def multimodal_folder(tmp_path):
    """A saved Gemma 3 with a tower for pictures, whose text decoder has the vocabulary of the tiny tokenizer."""
    tokenizer = tiny.build_tokenizer()
    text = {**GEMMA, "vocab_size": len(tokenizer)}
    model = wrapper("gemma3", text_config=text, vision_config=PICTURES, image_token_index=len(tokenizer) - 1)
    model.save_pretrained(tmp_path / "wrapper")
    tokenizer.save_pretrained(tmp_path / "wrapper")
    return tmp_path / "wrapper"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_multimodal_model_is_its_text_decoder_to_all_that_measures_it(multimodal_folder, tmp_path, dtype):
    chat = models.load(str(multimodal_folder), dtype=dtype)
    every = load_file(multimodal_folder / "model.safetensors")
    text = {name: tensor for name, tensor in every.items() if "language_model" in name}
    assert len(text) < len(every) and sum("vision_tower" in name for name in every) > 10
    # The model names its parameters otherwise than the file does. The head is the embedding.
    assert {name.removeprefix("model.language_model.") for name in chat.weights} == {
        name.removeprefix("language_model.model.") for name in text
    }
    squares = sum(float(tensor.double().square().sum()) for tensor in text.values())
    assert chat.norm == pytest.approx(squares**0.5, rel=1e-9)
    assert {parameter.dtype for parameter in chat.model.parameters()} == {getattr(torch, dtype)}
    before = copy_of(chat.model)
    with perturbed(chat.model, [RandomDirection(seed=1)], [0.1], weights=chat.weights):
        moved = {name for name, each in chat.model.named_parameters() if not torch.equal(each, before[name])}
    assert moved == {name for name in chat.weights if "norm" not in name}
    assert bitwise(copy_of(chat.model), before)
    (tmp_path / "stored").mkdir()
    stored = stored_weights(str(multimodal_folder), tmp_path / "stored")
    assert same(stored, chat.weights) and stored.parts == chat.weights.parts
    Difference(stored).check(chat.weights)
    assert norm(chat.weights, Difference(stored)) == 0


def test_another_tower_makes_no_other_weights(multimodal_folder):
    first = models.load(str(multimodal_folder), dtype="float32").weights
    path = multimodal_folder / "model.safetensors"
    every = load_file(path)
    save_file({n: t if "language_model" in n else -t for n, t in every.items()}, path, metadata={"format": "pt"})
    assert models.load(str(multimodal_folder), dtype="float32").weights.digest == first.digest
