"""A model's own `generate` in left-padded batches: each text must be the one that its prompt gets alone."""

import copy

import pytest
import tiny
import torch
from test_decoding import N_TOKENS, PROMPTS, TOKENIZER, alone, answer, chats, encode, responses, text_of, untrained

from visage_mlflow.decoding import respond as decoding
from visage_mlflow.decoding.generate import generated
from visage_mlflow.language.written import end_tokens

ENCODED = [encode(chat) for chat in chats(PROMPTS)]
UNSUPPORTED = {
    "bloom": ("BloomForCausalLM", "it takes no position_ids"),
    "mamba": ("MambaForCausalLM", "it takes no past_key_values"),
    "falcon": ("FalconForCausalLM", "some of its layers keep more than keys and values"),
}


@pytest.fixture(scope="module")
def models(aligned_folder):
    families = ("llama", "mistral", "gpt2", *UNSUPPORTED)
    return {**{family: untrained(family) for family in families}, "aligned": tiny.load(aligned_folder)[0].eval()}


def each_alone(model, n_tokens=N_TOKENS):
    return [text_of(alone(model, prompt, n_tokens)) for prompt in ENCODED]


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "aligned"])
def test_padding_on_the_left_does_not_change_the_texts_nor_their_order(models, name):
    assert len({len(prompt) for prompt in ENCODED}) > 2
    expected = each_alone(models[name])
    for batch_size in (1, 2, 8):
        assert generated(models[name], TOKENIZER, ENCODED, N_TOKENS, batch_size) == expected


def test_no_prompts_give_no_texts(models):
    assert generated(models["llama"], TOKENIZER, [], N_TOKENS, 8) == []


@pytest.mark.parametrize("n_tokens", [1, 3])
def test_a_text_has_at_most_max_new_tokens(models, n_tokens):
    assert generated(models["llama"], TOKENIZER, ENCODED, n_tokens, 8) == each_alone(models["llama"], n_tokens)


def test_a_row_that_broke_gives_none_and_the_others_their_texts(models):
    """The embedding of " tower" is NaN; it stands in the second prompt only, and llama's answers do not hold it."""
    tower = TOKENIZER(" tower")["input_ids"][0]
    answers = [answer(models["llama"], prompt) for prompt in ENCODED]
    broken = copy.deepcopy(models["llama"])
    with torch.no_grad():
        broken.model.embed_tokens.weight[tower] = float("nan")
    assert [tower in prompt for prompt in ENCODED] == [False, True, False, False, False]
    assert not any(tower in tokens for tokens in answers)
    expected = [text_of(tokens) for tokens in answers]
    expected[1] = None
    assert generated(broken, TOKENIZER, ENCODED, N_TOKENS, 2) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_give_none_for_every_row(value):
    model = untrained("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.fill_(value)
    assert generated(model, TOKENIZER, ENCODED, N_TOKENS, 2) == [None] * len(PROMPTS)


# Models that the loop of `respond` does not support


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_model_that_the_loop_does_not_support_is_named_and_decoded_by_generate(models, name):
    class_name, reason = UNSUPPORTED[name]
    expected = each_alone(models[name])
    assert len(set(expected)) == len(PROMPTS)
    for batch_size in (2, 8):
        with pytest.warns(UserWarning, match=f"^{class_name} is decoded by `generate`, which is slower: {reason}"):
            assert responses(models[name], chats(PROMPTS), batch_size=batch_size) == expected


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "aligned"])
def test_a_model_that_the_loop_supports_is_decoded_without_generate(models, monkeypatch, name, recwarn):
    monkeypatch.setattr(decoding, "generated", None)
    assert len(responses(models[name], chats(PROMPTS))) == len(PROMPTS)
    assert not [str(warning.message) for warning in recwarn if "generate" in str(warning.message)]


def test_attention_that_takes_no_masks_is_left_to_generate(models, monkeypatch):
    monkeypatch.setattr(models["llama"].config, "_attn_implementation_internal", "flash_attention_2")
    assert "flash_attention_2" in decoding.unsupported(models["llama"])


# End of turn


@pytest.mark.parametrize("end", [None, 7, [7, 3]])
def test_the_end_of_turn_is_taken_from_the_generation_config_and_the_tokenizer(models, monkeypatch, end):
    monkeypatch.setattr(models["aligned"].generation_config, "eos_token_id", end)
    expected = {None: set(), 7: {7}}[end] if not isinstance(end, list) else {3, 7}
    assert end_tokens(models["aligned"], TOKENIZER) == sorted({TOKENIZER.eos_token_id} | expected)


def test_every_end_of_turn_ends_an_answer(models, monkeypatch):
    """The fourth token of each answer becomes an end of turn, so that answers have three tokens or fewer besides it.

    Such a token is none of the tokenizer's special ones, so a text would show it.
    """
    answers, cut = [answer(models["llama"], prompt) for prompt in ENCODED], []
    ends = {tokens[3] for tokens in answers}
    for tokens in answers:
        count = next(index for index, token in enumerate(tokens) if token in ends)
        cut.append(text_of(tokens[:count]))
    monkeypatch.setattr(models["llama"].generation_config, "eos_token_id", sorted(ends))
    assert responses(models["llama"], chats(PROMPTS)) == cut
    assert generated(models["llama"], TOKENIZER, ENCODED, N_TOKENS, 8) == cut


def test_without_any_end_of_turn_answers_are_as_long_as_they_may_be(models, monkeypatch):
    """The aligned model, whose answers have 6 to 13 tokens, goes on past its end of turn, which decodes to nothing."""
    endless = copy.deepcopy(TOKENIZER)
    endless.eos_token = None
    monkeypatch.setattr(models["aligned"].generation_config, "eos_token_id", None)
    assert end_tokens(models["aligned"], endless) == []
    answers = [answer(models["aligned"], prompt, 30) for prompt in ENCODED]
    assert [len(tokens) for tokens in answers] == [30] * len(PROMPTS)
    expected = [text_of(tokens) for tokens in answers]
    assert generated(models["aligned"], endless, ENCODED, 30, 8) == expected
    texts = decoding.respond(models["aligned"], endless, ENCODED, max_new_tokens=30, batch_size=8)
    # Without an end of turn its text is no longer special to the tokenizer.
    assert [text.replace(tiny.END, "") for text in texts] == expected
