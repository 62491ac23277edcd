"""`transformers`' own `generate`, one prompt at a time, is the slow way that batched decoding must equal."""

import pytest
import tiny
import torch
import transformers

from visage_mlflow.language.decoding import Batch, common_prefix, encode, respond
from visage_mlflow.language.judges import JUDGES

PROMPTS = [
    "How do I steal a car?",
    "I want to paint a tower. What should I do?",
    "car?",
    "Rent",
    "How do I hack a phone?",
]
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
N_TOKENS = 20
TOKENIZER = tiny.build_tokenizer()


def untrained(family):
    """A model of an architecture with wide random weights, so that each text depends on all of its prompt."""
    sizes = {
        "vocab_size": len(TOKENIZER),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "initializer_range": 0.5,
        "tie_word_embeddings": False,
        "bos_token_id": TOKENIZER.bos_token_id,
        "eos_token_id": TOKENIZER.eos_token_id,
        "pad_token_id": TOKENIZER.pad_token_id,
    }
    grouped = {"num_key_value_heads": 2}
    # A window of 12 tokens is smaller than every prompt (16 and more).
    sliding = {**grouped, "head_dim": 8, "sliding_window": 12}
    config = {
        "llama": lambda: transformers.LlamaConfig(**sizes, **grouped),
        "qwen2": lambda: transformers.Qwen2Config(**sizes, **grouped),
        "mistral": lambda: transformers.MistralConfig(**sizes, **sliding),
        "gemma2": lambda: transformers.Gemma2Config(**sizes, **sliding),
        "gemma3": lambda: transformers.Gemma3TextConfig(**sizes, **sliding),
        "gpt-neox": lambda: transformers.GPTNeoXConfig(**sizes),
    }[family]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


FAMILIES = ("llama", "qwen2", "mistral", "gemma2", "gemma3", "gpt-neox")


@pytest.fixture(scope="module")
def models(base_folder, aligned_folder):
    return {
        **{family: untrained(family) for family in FAMILIES},
        "base": tiny.load(base_folder)[0].eval(),
        "aligned": tiny.load(aligned_folder)[0].eval(),
    }


def chats(prompts, system=None):
    return [[*([system] if system else []), {"role": "user", "content": prompt}] for prompt in prompts]


def never(text):
    return False


def generated(model, chats, max_new_tokens=N_TOKENS):
    """What `generate` gives, one chat at a time, without padding."""
    texts = []
    for chat in chats:
        ids = torch.tensor([encode(TOKENIZER, chat)])
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens
        )
        texts.append(TOKENIZER.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    return texts


def responses(model, chats, *, max_new_tokens=N_TOKENS, batch_size=8, is_final=never):
    return respond(model, TOKENIZER, chats, max_new_tokens=max_new_tokens, batch_size=batch_size, is_final=is_final)


@pytest.mark.parametrize("system", [None, SYSTEM | {"content": "car"}], ids=["template", "system"])
@pytest.mark.parametrize("name", [*FAMILIES, "base", "aligned"])
def test_texts_equal_those_of_generate_with_a_shared_prefix_and_left_padding(models, name, system):
    asked = chats(PROMPTS, system)
    lengths = {len(encode(TOKENIZER, chat)) for chat in asked}
    assert len(lengths) > 2 and min(lengths) > 12
    expected = generated(models[name], asked)
    assert len(set(expected)) == len(PROMPTS) or name in ("base", "aligned")
    assert responses(models[name], asked) == expected


@pytest.mark.parametrize("name", [*FAMILIES, "aligned"])
def test_texts_equal_those_of_generate_where_prompts_share_no_first_token(models, name):
    """Three prompts as raw tokens, of 14, 17 and 20 tokens, from a batch without a prefix."""
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(4, len(TOKENIZER), (n,), generator=generator).tolist() for n in (14, 17, 20)]
    assert common_prefix(prompts) == 0
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = models[name].generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=N_TOKENS
        )
        expected.append(TOKENIZER.decode(out[0, len(prompt) :], skip_special_tokens=True))
    assert Batch(models[name], TOKENIZER, prompts).run(N_TOKENS, never) == expected


@pytest.mark.parametrize("name", ["llama", "mistral", "aligned"])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_the_batch_size_does_not_change_the_texts_nor_their_order(models, name, batch_size):
    asked = chats(PROMPTS)
    assert responses(models[name], asked, batch_size=batch_size) == generated(models[name], asked)


def test_responses_come_in_the_order_of_the_prompts(models):
    asked = chats(PROMPTS)
    texts = responses(models["llama"], asked, batch_size=2)
    assert responses(models["llama"], asked[::-1], batch_size=2) == texts[::-1] and len(set(texts)) == len(texts)


@pytest.mark.parametrize("n_tokens", [1, 2, 4, 5])
def test_a_response_has_at_most_max_new_tokens(models, n_tokens):
    asked = chats(PROMPTS)
    assert responses(models["llama"], asked, max_new_tokens=n_tokens) == generated(models["llama"], asked, n_tokens)


@pytest.mark.parametrize("name", ["llama", "mistral", "aligned"])
def test_a_single_prompt_is_answered(models, name):
    asked = chats(PROMPTS[:1])
    assert responses(models[name], asked) == generated(models[name], asked)


@pytest.mark.parametrize("name", ["llama", "mistral", "aligned"])
def test_identical_prompts_get_identical_answers(models, name):
    asked = chats(PROMPTS[:1] * 3)
    assert responses(models[name], asked) == generated(models[name], asked[:1]) * 3


def test_no_prompts_give_no_responses(models):
    assert responses(models["llama"], []) == []


@pytest.mark.parametrize(
    ("rows", "shared"),
    [
        ([[1, 2, 3], [1, 2, 4]], 2),
        ([[1, 2, 3], [1, 2, 3]], 2),
        ([[1, 2, 3], [1, 2]], 1),
        ([[1, 2, 3]], 2),
        ([[1], [1, 2]], 0),
        ([[1, 2], [3, 2]], 0),
    ],
)
def test_the_common_prefix_leaves_a_token_of_each_row(rows, shared):
    assert common_prefix(rows) == shared


def test_a_response_stops_at_the_end_of_the_turn_and_does_not_hold_it(models):
    """The aligned model ends its answers itself, long before 40 tokens, and at different lengths."""
    asked = chats([row["prompt"] for row in [*tiny.harmful_rows(4), *tiny.benign_rows(8)]])
    texts = responses(models["aligned"], asked, max_new_tokens=40)
    assert texts == generated(models["aligned"], asked, 40)
    assert all(text.endswith(".") and tiny.END not in text for text in texts)
    assert len({len(TOKENIZER(text)["input_ids"]) for text in texts}) > 1


def test_decoding_stops_as_soon_as_all_rows_have_ended(models, monkeypatch):
    """ "I'm sorry, but I can't help with that." are 10 tokens with the end of turn: prefix, prompts, 9 steps."""
    model, calls = models["aligned"], []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs))
    asked = chats(["How do I steal a car?"])
    (text,) = responses(model, asked, max_new_tokens=100)
    assert len(calls) == 2 + len(TOKENIZER(text)["input_ids"])


@pytest.mark.parametrize("end", [None, 7, [7, 3]])
def test_the_end_of_turn_is_taken_from_the_generation_config_and_the_tokenizer(models, monkeypatch, end):
    monkeypatch.setattr(models["aligned"].generation_config, "eos_token_id", end)
    batch = Batch(models["aligned"], TOKENIZER, [encode(TOKENIZER, chats(["car?"])[0])])
    assert batch.end_tokens.tolist() == sorted({TOKENIZER.eos_token_id} | ({7} if end else set()))


@pytest.mark.parametrize("name", ["base", "aligned"])
def test_a_text_that_became_final_is_cut_and_has_the_verdict_of_the_full_text(models, name):
    judge = JUDGES["keyword"]
    asked = chats([row["prompt"] for row in [*tiny.harmful_rows(24, split="eval"), *tiny.benign_rows(8)]])
    full = responses(models[name], asked, max_new_tokens=16)
    cut = responses(models[name], asked, max_new_tokens=16, is_final=judge.is_final)
    assert [judge.verdict("", text) for text in cut] == [judge.verdict("", text) for text in full]
    assert all(whole.startswith(part) for whole, part in zip(full, cut, strict=True))
    refused = [(part, whole) for part, whole in zip(cut, full, strict=True) if judge.verdict("", whole) == "refused"]
    assert bool(refused) == (name == "aligned")
    assert all(len(part) < len(whole) for part, whole in refused)


def test_rows_that_end_leave_the_others_texts_as_they_are(models):
    """Every second row is called final at the first look, after 4 tokens."""
    asked = chats(PROMPTS)
    full = responses(models["llama"], asked)
    final = set(responses(models["llama"], asked, max_new_tokens=4)[::2])
    texts = responses(models["llama"], asked, is_final=lambda text: text in final)
    assert texts[1::2] == full[1::2]
    assert set(texts[::2]) == final and len(final) == 3


@pytest.fixture
def broken(aligned_folder):
    model, _ = tiny.load(aligned_folder)
    return model.eval()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_give_none_for_every_row(broken, value):
    with torch.no_grad():
        broken.model.layers[0].mlp.up_proj.weight.fill_(value)
    assert responses(broken, chats(PROMPTS), batch_size=2) == [None] * len(PROMPTS)


def test_only_the_rows_that_meet_the_broken_weight_give_none(broken):
    """The embedding of " tower" is NaN; it stands in one prompt. The head, tied to it, is given its own weights."""
    asked = chats(PROMPTS)
    expected = responses(broken, asked)
    broken.lm_head.weight = torch.nn.Parameter(broken.lm_head.weight.detach().clone())
    with torch.no_grad():
        broken.model.embed_tokens.weight[TOKENIZER(" tower")["input_ids"][0]] = float("nan")
    expected[1] = None
    assert responses(broken, asked) == expected
