"""An adapter that is merged answers as the live one does, or is refused with what to give instead."""

import copy
import json
import shutil
import warnings

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from small import IDS, N_ROWS, logits, save_small
from test_models import refusal
from test_stored import no_reading  # noqa: F401
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, MixtralConfig

from visage_mlflow.commands.loading import Chats
from visage_mlflow.config import EvaluateConfig
from visage_mlflow.language import adapters
from visage_mlflow.language.models import load, load_tokenizer, load_weights, outline
from visage_mlflow.language.uris import adapters_and_base, check_uri
from visage_mlflow.language.weights import stored_weights

KINDS = {
    "embedding": LoraConfig(target_modules=["embed_tokens"]),
    "head": LoraConfig(target_modules=["lm_head"]),
    "embedding and head": LoraConfig(target_modules=["embed_tokens", "lm_head", "q_proj"]),
    "embedding, tied on purpose": LoraConfig(target_modules=["embed_tokens"], ensure_weight_tying=True),
    "head saved whole": LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "embedding saved whole": LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
    "both saved whole": LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    "embedding saved whole, tied on purpose": LoraConfig(
        target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True
    ),
    "trained tokens": LoraConfig(target_modules=["q_proj"], trainable_token_indices=[3, 5]),
    "DoRA on the embedding": LoraConfig(target_modules=["embed_tokens", "q_proj"], use_dora=True),
    "DoRA": LoraConfig(target_modules="all-linear", use_dora=True),
    "rank-stabilized": LoraConfig(target_modules="all-linear", use_rslora=True, lora_alpha=4),
    "LoHa": peft.LoHaConfig(target_modules=["q_proj"]),
    "LoKr": peft.LoKrConfig(target_modules=["q_proj"]),
    "OFT": peft.OFTConfig(target_modules=["q_proj"], oft_block_size=4),
    "BOFT": peft.BOFTConfig(target_modules=["q_proj"], boft_block_size=4),
    "IA3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "VeRA": peft.VeraConfig(target_modules=["q_proj"]),
    "PiSSA": LoraConfig(target_modules=["q_proj"], init_lora_weights="pissa"),
    "OLoRA": LoraConfig(target_modules=["q_proj"], init_lora_weights="olora"),
    "SHiRA": peft.ShiraConfig(target_modules=["q_proj"], r=2),
    "tokens alone": peft.TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[3, 5]),
    "norms": peft.LNTuningConfig(target_modules=["input_layernorm"]),
}
ONE_MATRIX_MORE = {
    "embedding", "head", "embedding and head", "head saved whole", "embedding saved whole", "both saved whole",
    "DoRA on the embedding",
}  # fmt: skip


def save_adapter(base, folder, config, seed=1):
    """An adapter whose weights are all its own, as after training."""
    return save_adapter_of(AutoModelForCausalLM.from_pretrained(base), folder, config, seed)[0]


def save_adapter_of(base, folder, config, seed=1):
    """The folder of such an adapter of a model in memory, and the model with it."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = get_peft_model(base, copy.deepcopy(config))  # It is changed.
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        model.save_pretrained(folder)
    return folder, model


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def tied(tmp_path):
    return save_small(tmp_path / "base", tied=True)


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_model_answers_as_its_adapter_does(tmp_path, capsys, kind, is_tied):
    base = save_small(tmp_path / "base", tied=is_tied)
    adapter = save_adapter(base, tmp_path / "adapter", KINDS[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        live = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter))
    assert (live - logits(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 1e-3
    capsys.readouterr()
    model = load_weights(str(adapter))
    assert torch.allclose(logits(model), live, atol=1e-5)
    told_of = {name: parameter.shape for name, parameter in outline(str(adapter)).named_parameters()}
    assert told_of == {name: parameter.shape for name, parameter in model.named_parameters()}
    told, more = capsys.readouterr().err, is_tied and kind in ONE_MATRIX_MORE
    assert ("one matrix more" in told) == more and len(told.splitlines()) == more
    assert ("lm_head.weight" in dict(model.named_parameters())) == (more or not is_tied)
    model.save_pretrained(tmp_path / "again")
    assert torch.allclose(logits(load_weights(str(tmp_path / "again"))), live, atol=1e-5)


def test_adapters_on_each_other_are_merged_with_embedding_and_head_apart(tied, tmp_path):
    first = save_adapter(tied, tmp_path / "first", KINDS["embedding"], seed=1)
    middle = tmp_path / "middle"
    load_weights(str(first)).save_pretrained(middle)
    second = save_adapter(middle, tmp_path / "second", KINDS["head"], seed=2)
    edit(second / "adapter_config.json", base_model_name_or_path=str(first))
    live = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(middle), second)
    assert torch.allclose(logits(load_weights(str(second))), logits(live), atol=1e-5)


FAMILIES = {
    "GPT-2": (GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=64), ["wte", "c_attn"]),
    "Gemma 2": (
        Gemma2Config(
            vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8,
        ),
        ["embed_tokens", "q_proj"],
    ),
    "Mixtral": (
        MixtralConfig(
            vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, num_local_experts=3, tie_word_embeddings=True,
        ),
        ["lm_head", "q_proj"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_have_their_sides_apart_as_well(tmp_path, family):
    config, modules = FAMILIES[family]
    torch.manual_seed(0)
    config.initializer_range = 0.2
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    adapter = save_adapter(tmp_path / "base", tmp_path / "adapter", LoraConfig(target_modules=modules))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        live = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), adapter))
    model = load_weights(str(adapter))
    assert torch.allclose(logits(model), live, atol=1e-5) and "lm_head.weight" in dict(model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_adapter_and_a_base_in_half_precision_give_float32(tmp_path, dtype):
    base = save_small(tmp_path / "base", tied=True, dtype=dtype)
    adapter = save_adapter(base, tmp_path / "adapter", KINDS["both saved whole"])
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({name: weight.to(dtype) for name, weight in weights.items()}, adapter / "adapter_model.safetensors")
    live = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    model = load_weights(str(adapter))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.allclose(logits(model), logits(live), atol=1e-5)


# What is refused


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (peft.PromptTuningConfig(num_virtual_tokens=2), "is prompt tuning"),
        (peft.PrefixTuningConfig(num_virtual_tokens=2), "is prefix tuning"),
        (peft.PromptEncoderConfig(num_virtual_tokens=2), "is p-tuning"),
        (LoraConfig(target_modules=["q_proj"], alora_invocation_tokens=[1, 2]), "from certain tokens on"),
    ],
    ids=["prompt", "prefix", "p", "activated"],
)
def test_an_adapter_without_weights_to_merge_is_refused_from_its_config(tied, tmp_path, config, words):
    config.task_type = "CAUSAL_LM"
    adapter = save_adapter(tied, tmp_path / "adapter", config)
    message = refusal(check_uri, str(adapter))
    assert repr(str(adapter)) in message and words in message and "Give a plain LoRA adapter" in message


def test_an_adapter_that_repeats_layers_is_refused(tied, tmp_path):
    adapter = save_adapter(tied, tmp_path / "adapter", LoraConfig(target_modules=["q_proj"]))
    edit(adapter / "adapter_config.json", layer_replication=[[0, 2], [1, 2]])
    assert "`layer_replication`" in refusal(check_uri, str(adapter))


def test_a_merge_that_answers_otherwise_is_refused(tied, tmp_path, monkeypatch):
    """As a kind of adapter that this version of PEFT merges wrongly, or not at all."""
    adapter = save_adapter(tied, tmp_path / "adapter", KINDS["embedding"])
    monkeypatch.setattr(adapters, "_separate", lambda live: None)
    message = refusal(load_weights, str(adapter))
    assert "(LORA), which cannot be merged" in message and "logits differ by" in message


def test_a_kind_that_this_base_cannot_merge_says_why(tied, tmp_path):
    """It trains biases, which a Llama does not have."""
    adapter = save_adapter(tied, tmp_path / "adapter", peft.BeftConfig(target_modules=["q_proj"]))
    message = refusal(load_weights, str(adapter))
    assert "(BEFT), which cannot be merged: Base layer has no bias" in message
    assert "Give a plain LoRA adapter" in message


def test_an_adapter_for_modules_that_the_base_lacks_was_trained_on_another(tied, tmp_path):
    adapter = save_adapter(tied, tmp_path / "adapter", LoraConfig(target_modules=["q_proj"]))
    edit(adapter / "adapter_config.json", target_modules=["c_attn"])
    message = refusal(load_weights, str(adapter))
    assert "cannot be put on its base" in message and "c_attn" in message and "name that one in `base`" in message


def test_an_adapter_that_is_not_finite_is_no_matter_of_merging(base_folder, tmp_path):
    adapter = save_adapter(base_folder, tmp_path / "adapter", LoraConfig(target_modules=["q_proj"]))
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    with_tensors(adapter, **{name: torch.full((8, 64), torch.nan)})
    assert "q_proj.weight has values that are not finite" in refusal(load, str(adapter))


def test_one_token_of_others_may_go_another_way():
    """As where rounding changes which expert it goes to."""
    before = torch.ones(1, 5, 3)
    logits = before.clone()
    logits[0, 2] = 0
    adapters._check_alike(logits, before)
    logits[0, :3] = 0
    with pytest.raises(ValueError, match="differ by 1"):
        adapters._check_alike(logits, before)


def with_tensors(adapter, **changes):
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({name: one for name, one in (weights | changes).items() if one is not None}, path)


def test_a_tensor_for_which_the_base_has_no_module_is_named(tied, tmp_path):
    adapter = save_adapter(tied, tmp_path / "adapter", LoraConfig(target_modules=["q_proj"]))
    name = "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"
    with_tensors(adapter, **{name: torch.zeros(8, 16)})
    message = refusal(load_weights, str(adapter))
    assert f"1 tensors without a module in its base ({name})" in message and "in `base`" in message


def test_an_adapter_whose_config_says_another_rank_or_an_unknown_kind_says_so(tied, tmp_path):
    adapter = save_adapter(tied, tmp_path / "adapter", LoraConfig(target_modules=["q_proj"], r=4))
    edit(adapter / "adapter_config.json", r=2)
    message = refusal(load_weights, str(adapter))
    assert "other sizes than its adapter_config.json says" in message and "lora_A" in message
    edit(adapter / "adapter_config.json", peft_type="ZORK")
    message = refusal(load_weights, str(adapter))
    assert "does not know: 'ZORK'" in message and "Give a plain LoRA adapter" in message


@pytest.mark.parametrize("gone", ["lora_A", "lm_head"])
def test_a_tensor_that_an_adapter_lacks_is_named_before_weights_are_read(tied, tmp_path, gone, request):
    adapter = save_adapter(tied, tmp_path / "adapter", KINDS["head saved whole"])
    request.getfixturevalue("no_reading")
    name = next(each for each in load_file(adapter / "adapter_model.safetensors") if gone in each)
    with_tensors(adapter, **{name: None})
    assert f"it lacks 1 weights ({name}" in refusal(load_weights, str(adapter))


@pytest.mark.parametrize("kind", ["embedding", "head", "head saved whole", "embedding saved whole", "resized only"])
def test_an_adapter_of_a_resized_embedding_says_how_many_rows_its_base_lacks(tied, tmp_path, kind, monkeypatch):
    resized = AutoModelForCausalLM.from_pretrained(tied)
    resized.resize_token_embeddings(N_ROWS + 4, mean_resizing=False)
    resized.save_pretrained(tmp_path / "resized")
    adapter = tmp_path / "adapter"
    config = LoraConfig(target_modules=["q_proj"]) if kind == "resized only" else KINDS[kind]
    if kind == "resized only":
        get_peft_model(resized, config).save_pretrained(adapter)  # It finds that the base is smaller, and adds all.
    else:
        save_adapter(tmp_path / "resized", adapter, config)
    edit(adapter / "adapter_config.json", base_model_name_or_path=str(tied))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("read weights"))
    message = refusal(load_weights, str(adapter))
    assert f"a vocabulary of {N_ROWS + 4} tokens" in message and repr(str(tied)) in message
    assert f"has {N_ROWS} rows" in message and "name that in `base`" in message
    monkeypatch.undo()
    load_weights(str(adapter), base=str(tmp_path / "resized"))


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(target_modules=["q_proj"]),
        LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
        LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
        LoraConfig(target_modules=["q_proj"], trainable_token_indices=[3, N_ROWS + 1]),
    ],
    ids=["linear", "embedding saved whole", "both saved whole", "trained tokens"],
)
def test_an_adapter_of_an_embedding_that_was_resized_in_memory_brings_it(tmp_path, config, is_tied):
    """PEFT stores embedding and head with it, some of them twice: any base of as many rows will do."""

    def resized():
        model = AutoModelForCausalLM.from_pretrained(base)
        model.resize_token_embeddings(N_ROWS + 4, mean_resizing=False)
        return model

    base = save_small(tmp_path / "base", tied=is_tied)
    adapter, live = save_adapter_of(resized(), tmp_path / "adapter", config)
    message = refusal(load_weights, str(adapter))
    assert f"trained on a vocabulary of {N_ROWS + 4} tokens" in message
    assert f"`model.resize_token_embeddings({N_ROWS + 4})`" in message
    resized().save_pretrained(tmp_path / "resized")
    assert torch.allclose(logits(load_weights(str(adapter), base=str(tmp_path / "resized"))), logits(live), atol=1e-5)


def test_an_adapter_that_misfits_is_found_without_loading_anything(tied, tmp_path):
    adapter = save_adapter(save_small(tmp_path / "wide", hidden_size=32), tmp_path / "adapter", KINDS["head"])
    adapters_and_base(str(adapter))
    check_uri(str(adapter))
    with pytest.raises(ValueError, match="^`to` is the adapter .*`base`"):
        adapters_and_base(str(adapter), setting="to", base=str(tied))
    shutil.rmtree(tmp_path / "wide")
    with pytest.raises(ValueError, match="^`to` is the adapter .* whose base is .* a folder that does not exist"):
        adapters_and_base(str(adapter), setting="to")


def test_an_adapter_of_another_model_is_refused_with_both_sizes(tied, tmp_path):
    wide = save_small(tmp_path / "wide", hidden_size=32)
    adapter = save_adapter(wide, tmp_path / "adapter", LoraConfig(target_modules=["q_proj"]))
    edit(adapter / "adapter_config.json", base_model_name_or_path=str(tied))
    message = refusal(load_weights, str(adapter))
    assert "q_proj.lora_A.weight of 8 × 32 does not fit" in message and "is 16 × 16" in message


# Where the base is


def test_a_base_that_moved_is_replaced_by_the_setting(tied, tmp_path):
    adapter = save_adapter(tied, tmp_path / "adapter", KINDS["embedding"])
    expected = logits(load_weights(str(adapter)))
    moved = shutil.move(tied, tmp_path / "moved")
    message = refusal(load_weights, str(adapter))
    assert repr(str(adapter)) in message and repr(str(tied)) in message and "`base=<URI>`" in message
    assert torch.equal(logits(load_weights(str(adapter), base=str(moved))), expected)
    assert adapters_and_base(str(adapter), base=str(moved)) == ([adapter], str(moved), str(moved))


def test_the_setting_reaches_the_model_that_a_command_loads(base_folder, tmp_path):
    base = shutil.copytree(base_folder, tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", KINDS["rank-stabilized"])
    moved = str(shutil.move(base, tmp_path / "moved"))
    expected = load_weights(str(adapter), base=moved)
    chats = Chats()
    chat = chats.load(str(adapter), EvaluateConfig(base=moved, dtype="float32"))
    stored = stored_weights(str(adapter), tmp_path, setting="to", base=moved)
    for name, weight in expected.named_parameters():
        assert torch.equal(chat.weights[name], weight) and torch.equal(stored[name], weight)
    with pytest.raises(ValueError, match="`base=<URI>`"):
        chats.load(str(adapter), EvaluateConfig(dtype="float32"))


@pytest.mark.parametrize("named", ["./gone", "no-such-org/no-such-model", "../up", "", "runs:/0/../x"])
def test_a_base_that_cannot_be_had_names_the_adapter_and_the_setting(tied, tmp_path, named):
    adapter = save_adapter(tied, tmp_path / "adapter", KINDS["embedding"])
    edit(adapter / "adapter_config.json", base_model_name_or_path=named)
    for call in (load_weights, load_tokenizer):
        message = refusal(call, str(adapter))
        assert message.startswith(f"`model` is the adapter {str(adapter)!r}") and "`base=<URI>`" in message
    load_weights(str(adapter), base=str(tied))


def test_the_lowest_adapter_of_a_stack_takes_the_base_of_the_setting(tied, tmp_path):
    first = save_adapter(tied, tmp_path / "first", KINDS["rank-stabilized"], seed=1)
    second = save_adapter(tied, tmp_path / "second", KINDS["rank-stabilized"], seed=2)
    edit(second / "adapter_config.json", base_model_name_or_path=str(first))
    expected = logits(load_weights(str(second)))
    moved = shutil.move(tied, tmp_path / "moved")
    assert torch.equal(logits(load_weights(str(second), base=str(moved))), expected)


def test_a_base_in_the_setting_that_is_none_is_that_settings_mistake(tied, tmp_path):
    adapter = save_adapter(tied, tmp_path / "adapter", KINDS["embedding"])
    with pytest.raises(ValueError, match="^`base` "):
        load_weights(str(adapter), base="./gone")


def test_an_adapter_on_a_quantized_base_asks_for_the_unquantized_one(tied, tmp_path):
    adapter = save_adapter(tied, tmp_path / "adapter", KINDS["embedding"])
    edit(tied / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    message = refusal(load_weights, str(adapter))
    assert repr(str(adapter)) in message and "quantized (bitsandbytes)" in message and "`base=<URI>`" in message


def test_an_adapters_tokenizer_without_a_template_takes_that_of_its_base(base_folder, tmp_path):
    base = shutil.copytree(base_folder, tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", LoraConfig(target_modules=["q_proj"]))
    tokenizer = load_tokenizer(str(base))
    template, tokenizer.chat_template = tokenizer.chat_template, None
    tokenizer.add_tokens(["<mine>"])
    tokenizer.save_pretrained(adapter)
    found = load_tokenizer(str(adapter))
    assert found.chat_template == template and "<mine>" in found.get_vocab()


def test_probing_looks_at_tokens_from_the_whole_vocabulary(tied):
    ids = adapters._probe(AutoModelForCausalLM.from_pretrained(tied))
    assert ids.shape == (1, 16) and ids.min() == 0 and ids.max() == N_ROWS - 1 and IDS.max() < N_ROWS
