"""What a folder says of its weights is believed, or refused before one of them is read."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import logits, save_small
from test_models import refusal
from transformers import AutoModelForCausalLM

from visage_mlflow.language.models import check_alike, load_weights
from visage_mlflow.language.uris import check_uri
from visage_mlflow.text.errors import Mistake


@pytest.fixture
def folder(tmp_path):
    return save_small(tmp_path / "model")


@pytest.fixture
def no_reading(monkeypatch):
    """Fails where weights are read: loading onto the meta device reads none."""
    loading = AutoModelForCausalLM.from_pretrained

    def only_heads(*args, **kwargs):
        assert kwargs.get("device_map") == "meta", "read weights"
        return loading(*args, **kwargs)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", only_heads)


def stored(folder):
    return load_file(folder / "model.safetensors")


def store(folder, weights):
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def edit(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# Names


def test_a_stored_bias_that_the_config_lacks_is_refused_before_weights_are_read(folder, no_reading):
    name = "model.layers.1.self_attn.q_proj.bias"
    store(folder, stored(folder) | {name: torch.ones(16)})
    message = refusal(load_weights, str(folder))
    assert f"1 tensors that a model of its config.json does not use ({name})" in message and "Mend config" in message


def test_with_the_bias_in_the_config_it_is_used(folder):
    plain = logits(load_weights(str(folder)))
    parts = [f"model.layers.{i}.self_attn.{kind}_proj.bias" for i in range(2) for kind in "qkvo"]
    store(folder, stored(folder) | {name: torch.ones(16) for name in parts})
    edit(folder, attention_bias=True)
    assert not torch.allclose(logits(load_weights(str(folder))), plain, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("v_head.summary.weight", (1, 16)),
        ("model.layers.0.self_attn.rotary_emb.cos_cached", (64, 8)),
        ("model.layers.0.attn.bias", (1, 1, 64, 64)),
        ("model.layers.0.attn.masked_bias", (1,)),
        ("vision_tower.patch.weight", (3, 3)),
    ],
)
def test_what_no_logit_depends_on_is_left_out_and_told(folder, capsys, name, shape):
    plain = logits(load_weights(str(folder)))
    store(folder, stored(folder) | {name: torch.ones(shape)})
    capsys.readouterr()
    assert torch.equal(logits(load_weights(str(folder))), plain)
    told = capsys.readouterr().err
    assert told == f"{folder} stores 1 tensors that a text model leaves out: {name}.\n"


def test_a_bias_of_attention_that_is_no_mask_is_refused(folder, no_reading):
    store(folder, stored(folder) | {"model.layers.0.attn.bias": torch.ones(16)})
    assert "model.layers.0.attn.bias" in refusal(load_weights, str(folder))


def test_frequencies_of_older_versions_are_nothing_to_tell(folder, capsys):
    store(folder, stored(folder) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    load_weights(str(folder))
    assert capsys.readouterr().err == ""


def test_a_missing_weight_is_found_before_weights_are_read(folder, no_reading):
    weights = stored(folder)
    del weights["model.layers.1.mlp.up_proj.weight"]
    store(folder, weights)
    assert "it lacks 1 weights (model.layers.1.mlp.up_proj.weight" in refusal(load_weights, str(folder))


def test_a_head_that_is_stored_beside_another_embedding_is_kept_and_the_config_mended(folder, tmp_path):
    store(folder, stored(folder) | {"lm_head.weight": torch.randn(40, 16)})
    model = load_weights(str(folder))
    assert torch.equal(model.lm_head.weight, stored(folder)["lm_head.weight"]) and not model.config.tie_word_embeddings
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(load_weights(str(tmp_path / "again"))), logits(model))


# Files


def test_weights_beside_an_index_of_others_are_ambiguous(folder, no_reading):
    index = {"metadata": {}, "weight_map": dict.fromkeys(stored(folder), "model-00001-of-00001.safetensors")}
    shutil.copy(folder / "model.safetensors", folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    message = refusal(check_uri, str(folder))
    assert "both model.safetensors and model.safetensors.index.json" in message and "Move the one" in message
    (folder / "model.safetensors").unlink()
    check_uri(str(folder))


def test_shards_that_an_index_names_and_are_missing_are_named(folder, tmp_path):
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "sharded", max_shard_size="4KB")
    gone = sorted((tmp_path / "sharded").glob("*.safetensors"))[1]
    check_uri(str(tmp_path / "sharded"))
    gone.unlink()
    message = refusal(check_uri, str(tmp_path / "sharded"))
    assert f"of which 1 is missing ({gone.name})" in message and "Download or save" in message


def test_a_file_that_was_cut_off_is_named_before_weights_are_read(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    message = refusal(check_uri, str(folder))
    assert "could not be loaded: model.safetensors" in message and message.endswith("Save or download it again.")


# Numbers


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_whole_float_come_in_float32(folder, dtype):
    store(folder, {name: weight.to(dtype) for name, weight in stored(folder).items()})
    edit(folder, dtype=str(dtype).removeprefix("torch."))
    model = load_weights(str(folder))
    assert {each.dtype for each in (*model.parameters(), *model.buffers())} == {torch.float32}
    for name, weight in model.named_parameters():
        assert torch.equal(weight, stored(folder)[name].float())


@pytest.mark.parametrize(
    ("config", "kind", "cure"),
    [
        ({"quant_method": "gptq", "bits": 4}, "GPTQ", "dequantize()"),
        ({"quant_method": "awq", "bits": 4}, "AWQ", "dequantize()"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes", "dequantize()"),
        ({"load_in_4bit": True}, "bitsandbytes", "dequantize()"),
        ({"quant_method": "fp8"}, "fp8", "FineGrainedFP8Config(dequantize=True)"),
        ({"quant_method": "mxfp4"}, "MXFP4", "Mxfp4Config(dequantize=True)"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors", "dequantize()"),
        ({"bits": 3}, "of an unnamed kind", "dequantize()"),
    ],
    ids=["gptq", "awq", "8 bit", "4 bit", "fp8", "mxfp4", "compressed", "unnamed"],
)
@pytest.mark.parametrize("inside", ["", "text_config"])
def test_a_quantized_model_is_refused_from_its_config_alone(folder, config, kind, cure, inside):
    found = {"quantization_config": config}
    edit(folder, **({inside: found} if inside else found))
    (folder / "model.safetensors").write_bytes(b"not looked at")
    message = refusal(check_uri, str(folder))
    assert f"quantized ({kind})" in message and "Give the unquantized model" in message and cure in message


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_weights_that_are_whole_numbers_are_refused_from_the_files_heads(folder, dtype, no_reading):
    name = "model.layers.0.mlp.up_proj.weight"
    store(folder, stored(folder) | {name: (stored(folder)[name] * 10).to(dtype)})
    message = refusal(check_uri, str(folder))
    assert f"{name} is stored in" in message and "whole numbers" in message


def test_a_tensor_of_another_size_than_the_config_says_is_told_with_both(folder, no_reading):
    edit(folder, intermediate_size=20)
    message = refusal(load_weights, str(folder))
    assert "mlp.down_proj.weight is 16 × 24, where its config.json makes it 16 × 20" in message


def test_a_head_that_is_neither_stored_nor_tied_says_how_to_tie_it(folder):
    edit(folder, tie_word_embeddings=False)
    store(folder, {name: weight for name, weight in stored(folder).items() if "lm_head" not in name})
    assert "Write `tie_word_embeddings: true` into its config.json" in refusal(load_weights, str(folder))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architectures": ["LlamaForSequenceClassification"]}, "of the kind LlamaForSequenceClassification"),
        ({"is_encoder_decoder": True}, "reads by an encoder"),
    ],
)
def test_models_that_answer_nothing_are_refused_from_their_config(folder, config, said, no_reading):
    edit(folder, **config)
    assert said in refusal(check_uri, str(folder))


def test_a_model_that_is_on_no_line_with_another_is_refused_before_weights_are_read(folder, tmp_path, no_reading):
    wide, untied = save_small(tmp_path / "wide", hidden_size=32), save_small(tmp_path / "untied", tied=False)
    with pytest.raises(Mistake, match="^`to` is .* other tensors than `model`.*model.embed_tokens.weight"):
        check_alike([str(untied), str(wide)], str(folder), "to")
    check_alike([str(untied)], str(folder), "to")
    check_alike([str(folder)], str(untied), "to")


@pytest.mark.parametrize("content", ["{", "[]", '{"eos_token_id": "</s>"}', '{"eos_token_id": [2, "</s>"]}'])
def test_ends_that_cannot_be_read_are_refused(folder, content, no_reading):
    (folder / "generation_config.json").write_text(content)
    assert "generation_config.json" in refusal(check_uri, str(folder))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_floats_of_8_bits_are_refused_from_the_files_heads(folder, dtype, no_reading):
    name = "model.layers.0.mlp.up_proj.weight"
    store(folder, stored(folder) | {name: stored(folder)[name].to(dtype)})
    message = refusal(check_uri, str(folder))
    assert f"{name} is stored in F8_E" in message and "FineGrainedFP8Config(dequantize=True)" in message
