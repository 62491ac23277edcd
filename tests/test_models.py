import contextlib
import json
import sys

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from visage_mlflow.language.models import compute_dtype, load, load_tokenizer, load_weights
from visage_mlflow.language.uris import check_uri, locate
from visage_mlflow.text.errors import Mistake


def stored(folder):
    return load_file(folder / "model.safetensors")


def store(weights, folder):
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def save_adapter(base, folder, seed=0, base_uri=None):
    """An adapter with weights of its own in both halves, as after training."""
    model = get_peft_model(
        load_weights(str(base)), LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.05, generator=generator)
    model.save_pretrained(folder)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": base_uri or str(base)}
    path.write_text(json.dumps(config))
    return folder


def added(folder):
    """What an adapter adds to each weight: alpha / r = 2 times B A."""
    halves = load_file(folder / "adapter_model.safetensors")
    return {
        name.removeprefix("base_model.model.").replace(".lora_A", ""): 2
        * halves[name.replace("lora_A", "lora_B")]
        @ halves[name]
        for name in halves
        if "lora_A" in name
    }


def refusal(call, *args, **kwargs):
    with pytest.raises(Mistake) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("`model` ") and message.endswith(".")
    return message


# What is loaded


def test_a_folder_is_loaded_with_the_files_weights_in_float32(base_folder):
    chat = load(str(base_folder), dtype="float32")
    expected = stored(base_folder)
    assert set(chat.weights) == set(expected)
    for name, weight in chat.weights.items():
        assert weight.dtype == torch.float32 and torch.equal(weight, expected[name])
    assert chat.uri == str(base_folder) and chat.system_prompt is None and not chat.model.training


def test_a_bfloat16_model_keeps_the_files_float32_weights_beside_the_rounded_ones(base_folder):
    chat = load(str(base_folder), dtype="bfloat16")
    expected = stored(base_folder)
    assert chat.model.dtype == torch.bfloat16
    for name, parameter in chat.model.named_parameters():
        assert torch.equal(chat.weights[name], expected[name]) and chat.weights[name].dtype == torch.float32
        assert torch.equal(parameter, expected[name].bfloat16())


def test_a_bfloat16_model_computes_as_one_that_transformers_loads_in_bfloat16(base_folder):
    """Rounded rotary frequencies would give other logits at every position but the first."""
    model = load(str(base_folder), dtype="bfloat16").model
    expected = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.bfloat16)
    ids = torch.arange(5, 105)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, expected(ids).logits)
    assert all(buffer.dtype == torch.float32 for buffer in model.buffers())


def test_weights_stored_in_bfloat16_come_in_float32(copy):
    store({name: weight.bfloat16() for name, weight in stored(copy).items()}, copy)
    chat = load(str(copy), dtype="float32")
    for name, weight in stored(copy).items():
        assert chat.weights[name].dtype == torch.float32 and torch.equal(chat.weights[name], weight.float())


def test_tied_weights_appear_once_and_untied_ones_both(base_folder, tmp_path):
    tied = load(str(base_folder), dtype="bfloat16")
    assert "model.embed_tokens.weight" in tied.weights and "lm_head.weight" not in tied.weights
    assert tied.model.lm_head.weight is tied.model.model.embed_tokens.weight
    tokenizer = tiny.build_tokenizer()
    tiny.new_model(tokenizer, seed=0, tied=False).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= set(load(str(tmp_path)).weights)


def test_a_system_prompt_stands_before_every_chat_and_none_leaves_it_to_the_template(base_folder):
    user = {"role": "user", "content": "How?"}
    for prompt in (None, "", "Be brief."):
        chat = load(str(base_folder), system_prompt=prompt)
        told = [] if prompt is None else [{"role": "system", "content": prompt}]
        own = chat.tokenizer.apply_chat_template(
            [*told, user], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert chat.system_prompt == prompt and chat.format.prompt("How?") == own


def test_a_tokenizer_without_a_padding_token_pads_with_its_end(copy):
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": None}))
    assert load_tokenizer(str(copy)).pad_token == tiny.END


@pytest.mark.parametrize(("name", "dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32), ("auto", None)])
def test_the_dtype_setting_names_what_is_computed_in(name, dtype):
    assert compute_dtype(name) in ((dtype,) if dtype else (torch.bfloat16, torch.float32))


# Adapters


def test_an_adapter_is_merged_into_its_base(base_folder, tmp_path):
    adapter = save_adapter(base_folder, tmp_path / "adapter")
    chat, base, change = load(str(adapter), dtype="float32"), stored(base_folder), added(adapter)
    assert set(chat.weights) == set(base) and len(change) == 14  # 7 linear layers in each of 2 blocks.
    for name, weight in chat.weights.items():
        expected = base[name] + change[name] if name in change else base[name]
        assert torch.allclose(weight, expected, atol=1e-6)
        assert torch.equal(weight, base[name]) == (name not in change)


def test_an_adapter_on_an_adapter_adds_both(base_folder, tmp_path):
    first = save_adapter(base_folder, tmp_path / "first", seed=1)
    second = save_adapter(first, tmp_path / "second", seed=2)
    weights, base = load(str(second), dtype="float32").weights, stored(base_folder)
    one, other = added(first), added(second)
    for name, weight in weights.items():
        expected = base[name] + one[name] + other[name] if name in one else base[name]
        assert torch.allclose(weight, expected, atol=1e-6)


def test_an_adapter_without_a_tokenizer_has_its_bases_and_with_one_its_own(base_folder, tmp_path):
    adapter = save_adapter(base_folder, tmp_path / "adapter")
    assert load_tokenizer(str(adapter)).chat_template == tiny.CHAT_TEMPLATE
    tokenizer = tiny.build_tokenizer()
    tokenizer.chat_template = tiny.CHAT_TEMPLATE + " "
    tokenizer.save_pretrained(adapter)
    assert load_tokenizer(str(adapter)).chat_template == tiny.CHAT_TEMPLATE + " "


def test_the_base_of_an_adapter_may_be_tracked(base_folder, tmp_path):
    adapter = save_adapter(base_folder, tmp_path / "adapter", base_uri="models:/base/1")
    asked = []
    chat = load(str(adapter), fetch=lambda uri: asked.append(uri) or base_folder)
    assert set(asked) == {"models:/base/1"} and set(chat.weights) == set(stored(base_folder))


def test_an_adapter_in_a_pickle_is_refused(base_folder, tmp_path):
    adapter = save_adapter(base_folder, tmp_path / "adapter")
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    for call in (check_uri, load, load_weights):
        message = refusal(call, str(adapter))
        assert repr(str(adapter)) in message and "never pickles" in message


def test_an_adapter_whose_base_is_gone_is_refused(base_folder, tmp_path):
    adapter = save_adapter(base_folder, tmp_path / "adapter", base_uri="./gone")
    assert "'./gone'" in refusal(load, str(adapter))


# Tracked models


@pytest.mark.parametrize("uri", ["runs:/0123456789abcdef/model", "models:/chat@champion", "models:/m-0123"])
def test_a_tracked_model_is_fetched_and_without_fetch_refused(base_folder, uri):
    asked = []
    assert locate(uri, lambda uri: asked.append(uri) or base_folder) == str(base_folder) and asked == [uri]
    check_uri(uri)
    message = refusal(load, uri)
    assert repr(uri) in message and "pass a `fetch`" in message


def test_what_was_fetched_is_checked_like_a_folder(tmp_path):
    assert "only safetensors are read" in refusal(load, "runs:/0123/model", fetch=lambda uri: tmp_path)


# What is refused


def test_a_good_folder_and_a_hub_id_pass_without_being_loaded(base_folder):
    check_uri(str(base_folder))
    check_uri("no-such-org/no-such-model")
    check_uri("builtin:smollm2")


@pytest.mark.parametrize(
    "uri",
    ["./nowhere", "../no/where", "/no/where/at/all", "gpt2", "", "a/b/c", "org/", "a b/c", "run:/1/m", "org/m\n"],
)
def test_what_is_no_uri_is_refused_with_the_forms_there_are(uri):
    for call in (check_uri, load):
        message = refusal(call, uri)
        assert repr(uri) in message and "hub id (`org/name`)" in message and "Check the spelling" in message


@pytest.mark.parametrize("uri", ["builtin:smollm3", "builtin:", "builtin:SmolLM2"])
def test_an_unknown_builtin_model_is_refused_with_those_there_are(uri):
    assert repr(uri) in (message := refusal(check_uri, uri)) and "builtin:smollm2" in message


def test_the_setting_is_named_as_the_caller_says():
    with pytest.raises(ValueError, match="^`to` is .*a folder that does not exist"):
        check_uri("./nowhere", "to")


def test_a_hub_id_that_cannot_be_reached_is_refused_in_one_line():
    for call in (load, load_weights, load_tokenizer):
        message = refusal(call, "no-such-org/no-such-model")
        assert "'no-such-org/no-such-model', which could not be loaded" in message


def test_a_file_is_refused(base_folder):
    message = refusal(check_uri, str(base_folder / "model.safetensors"))
    assert "must be a folder" in message and "Give the folder around it" in message


@pytest.mark.parametrize("gone", ["model.safetensors", "config.json"])
def test_a_folder_without_weights_or_config_is_refused(copy, gone):
    (copy / gone).unlink()
    for call in (check_uri, load):
        assert repr(str(copy)) in (message := refusal(call, str(copy))) and "save_pretrained" in message


def test_an_empty_folder_is_refused(tmp_path):
    assert "lacks config.json and *.safetensors" in refusal(check_uri, str(tmp_path))


def test_a_pickle_beside_safetensors_is_not_read(copy):
    (copy / "pytorch_model.bin").write_bytes(b"no pickle at all")
    assert set(load(str(copy)).weights) == set(stored(copy))


def test_a_folder_without_a_chat_template_is_refused(copy):
    (copy / "chat_template.jinja").unlink()
    for call in (load_tokenizer, load):
        assert repr(str(copy)) in (message := refusal(call, str(copy))) and "chat template" in message


def test_a_folder_without_a_tokenizer_is_told_so(copy):
    for path in (*copy.glob("tokenizer*"), copy / "chat_template.jinja"):
        path.unlink()
    message = refusal(load_tokenizer, str(copy))
    assert repr(str(copy)) in message and "holds no tokenizer" in message and "save_pretrained" in message


def test_a_template_in_the_tokenizers_config_is_one(copy):
    (copy / "chat_template.jinja").unlink()
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": tiny.CHAT_TEMPLATE}))
    check_uri(str(copy))
    assert load_tokenizer(str(copy)).chat_template == tiny.CHAT_TEMPLATE


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(copy, value):
    weights = stored(copy)
    weights["model.layers.1.mlp.up_proj.weight"][3, 2] = value
    store(weights, copy)
    message = refusal(load, str(copy))
    assert repr(str(copy)) in message and "model.layers.1.mlp.up_proj.weight" in message and "Retrain" in message


def test_a_weight_that_is_missing_is_not_made_up(copy):
    weights = stored(copy)
    del weights["model.layers.1.mlp.up_proj.weight"]
    store(weights, copy)
    message = refusal(load, str(copy))
    assert repr(str(copy)) in message and "model.layers.1.mlp.up_proj.weight" in message and "random" in message


def test_a_file_that_was_cut_off_is_refused(copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    assert "could not be loaded" in refusal(load, str(copy))


def test_code_that_comes_with_a_model_is_not_run(copy, tmp_path):
    path = copy / "config.json"
    config = json.loads(path.read_text()) | {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    path.write_text(json.dumps(config))
    (copy / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    assert "could not be loaded" in refusal(load, str(copy))
    assert not (tmp_path / "ran").exists()


def auto_map(copy, tmp_path, kind):
    """The folder with code that would write a file, said to be what `kind` is made of."""
    (copy / "own.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class Config(LlamaConfig): pass\nclass Model(LlamaForCausalLM): pass\n"
        "class Tokenizer(PreTrainedTokenizerFast): pass\n"
    )
    values = {
        "AutoConfig": "own.Config",
        "AutoModelForCausalLM": "own.Model",
        "AutoTokenizer": ["own.Tokenizer", None],
    }
    path = copy / ("tokenizer_config.json" if kind == "AutoTokenizer" else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {kind: values[kind]}}))


KINDS_OF_CODE = ["AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"]


@pytest.mark.parametrize("kind", KINDS_OF_CODE)
def test_a_models_own_code_is_not_run_where_the_library_knows_its_kind(copy, tmp_path, kind, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to trust the code"))
    auto_map(copy, tmp_path, kind)
    chat = load(str(copy), dtype="float32")
    assert not (tmp_path / "ran").exists() and type(chat.model).__module__.startswith("transformers.")


@pytest.mark.parametrize("kind", KINDS_OF_CODE)
def test_that_code_would_run_if_it_were_trusted(copy, tmp_path, kind, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*sys.path])
    auto_map(copy, tmp_path, kind)
    library = AutoTokenizer if kind == "AutoTokenizer" else AutoModelForCausalLM
    with contextlib.suppress(Exception):
        library.from_pretrained(copy, trust_remote_code=True)
    assert (tmp_path / "ran").exists()
