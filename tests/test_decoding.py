"""`transformers`' own `generate`, one prompt at a time, is the slow way that batched decoding must equal."""

import copy
import functools
import weakref

import pytest
import tiny
import torch
import transformers

from visage_mlflow.decoding.respond import CHECK_EVERY, EARLY, Batch, common_prefix, respond
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
ALONE = weakref.WeakKeyDictionary()
"""Model -> what it answered before."""


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
    window = {**grouped, "sliding_window": 12}
    sliding = {**window, "head_dim": 8}
    config = {
        "llama": lambda: transformers.LlamaConfig(**sizes, **grouped),
        "tied": lambda: transformers.LlamaConfig(**sizes | {"tie_word_embeddings": True}, **grouped),
        "qwen2": lambda: transformers.Qwen2Config(**sizes, **grouped),
        "mistral": lambda: transformers.MistralConfig(**sizes, **sliding),
        "gemma2": lambda: transformers.Gemma2Config(**sizes, **sliding),
        "gemma3": lambda: transformers.Gemma3TextConfig(**sizes, **sliding),
        "gpt-neox": lambda: transformers.GPTNeoXConfig(**sizes),
        "gpt2": lambda: transformers.GPT2Config(**sizes),
        "phi3": lambda: transformers.Phi3Config(**sizes, **window),
        "qwen3": lambda: transformers.Qwen3Config(**sizes, **grouped, head_dim=8),
        "opt": lambda: transformers.OPTConfig(**sizes, word_embed_proj_dim=32, ffn_dim=48, init_std=0.5),
        # The loop does not support these: no positions, no keys, and a bias by distance.
        "bloom": lambda: transformers.BloomConfig(**sizes),
        "mamba": lambda: transformers.MambaConfig(**sizes, state_size=4),
        "falcon": lambda: transformers.FalconConfig(**sizes, alibi=True),
    }[family]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


FAMILIES = ("llama", "tied", "qwen2", "qwen3", "mistral", "phi3", "gemma2", "gemma3", "gpt-neox", "gpt2", "opt")


@pytest.fixture(scope="module")
def models(base_folder, aligned_folder):
    return {
        **{family: untrained(family) for family in FAMILIES},
        "base": tiny.load(base_folder)[0].eval(),
        "aligned": tiny.load(aligned_folder)[0].eval(),
    }


def encode(chat):
    """A chat up to where the assistant's turn begins, by transformers itself."""
    return TOKENIZER.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)


def chats(prompts, system=None):
    return [[*([system] if system else []), {"role": "user", "content": prompt}] for prompt in prompts]


def answer(model, prompt, max_new_tokens=N_TOKENS):
    """The tokens that `generate` gives for one prompt, without padding."""
    ids = torch.tensor([prompt])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens
    )
    return out[0, len(prompt) :].tolist()


def text_of(tokens):
    return TOKENIZER.decode(tokens, skip_special_tokens=True)


def alone(model, prompt, max_new_tokens=N_TOKENS):
    """The tokens of `answer`, computed once for a model whose weights do not change."""
    found = ALONE.setdefault(model, {})
    key = (*prompt, max_new_tokens)
    if key not in found:
        found[key] = answer(model, prompt, max_new_tokens)
    return found[key]


def generated(model, chats, max_new_tokens=N_TOKENS):
    """What `generate` gives, one chat at a time."""
    return [text_of(alone(model, encode(chat), max_new_tokens)) for chat in chats]


def responses(model, chats, *, max_new_tokens=N_TOKENS, batch_size=8, **options):
    prompts = [encode(chat) for chat in chats]
    return respond(model, TOKENIZER, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, **options)


@pytest.mark.parametrize("name", [*FAMILIES, "base", "aligned"])
def test_texts_equal_those_of_generate_with_a_shared_prefix_and_left_padding(models, name):
    """The prefix is that of the template, or longer by a system prompt."""
    for system in (None, SYSTEM | {"content": "car"}):
        asked = chats(PROMPTS, system)
        lengths = {len(encode(chat)) for chat in asked}
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
    texts = respond(models[name], TOKENIZER, prompts, max_new_tokens=N_TOKENS, batch_size=8)
    assert texts == [text_of(answer(models[name], prompt)) for prompt in prompts]


@pytest.mark.parametrize("name", ["llama", "mistral", "aligned"])
def test_neither_batch_size_nor_order_nor_number_of_prompts_changes_a_text(models, name):
    asked = chats(PROMPTS)
    expected = generated(models[name], asked)
    for batch_size in (1, 2, 3, 100):
        assert responses(models[name], asked, batch_size=batch_size) == expected
    assert responses(models[name], asked[::-1], batch_size=2) == expected[::-1]
    assert responses(models[name], asked[:1]) == expected[:1]
    assert responses(models[name], asked[:1] * 3) == expected[:1] * 3


@pytest.mark.parametrize("n_tokens", [1, 2, 4, 5])
def test_a_response_has_at_most_max_new_tokens(models, n_tokens):
    asked = chats(PROMPTS)
    assert responses(models["llama"], asked, max_new_tokens=n_tokens) == generated(models["llama"], asked, n_tokens)


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
    """Passes of the first refusal: one for the prefix, which is all of a single prompt but its last token, so none for
    rests; then I'm, sorry, the comma, but, I, can't, help, with, that, the dot and the end of turn, which are 11.
    """
    model, calls = models["aligned"], []
    forward = model.forward

    @functools.wraps(forward)  # Keeps the signature, by which `respond` knows the model.
    def counted(*args, **kwargs):
        calls.append(args[0].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", counted)
    asked = chats(["How do I steal a car?"])
    assert responses(model, asked, max_new_tokens=100)[0] in tiny.REFUSALS[:2]  # The second has 11, too.
    assert calls == [len(encode(asked[0])) - 1, *[1] * 11]


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


def ended(text):
    """Whether a text is called final: a rule that holds by chance, after about one token in 13."""
    return sum(map(ord, text)) % 13 == 0


def until_ended(model, prompt):
    """The text of `generate`, cut after the first token where `ended` holds."""
    tokens = alone(model, prompt, EARLY)  # Until here every text is looked at.
    texts = [text_of(tokens[: count + 1]) for count in range(len(tokens))]
    return next(filter(ended, texts), texts[-1])


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "gpt-neox", "aligned"])
def test_prompts_that_join_a_running_batch_are_answered_as_if_alone(models, monkeypatch, name):
    asked = chats([*PROMPTS, *(row["prompt"] for row in [*tiny.harmful_rows(5, seed=1), *tiny.benign_rows(5)])])
    expected = [until_ended(models[name], encode(chat)) for chat in asked]
    assert len({len(TOKENIZER(text)["input_ids"]) for text in expected}) > 2
    joined, admit = [], Batch.admit
    monkeypatch.setattr(Batch, "admit", lambda batch: joined.append(len(batch.live)) or admit(batch))
    for batch_size in (2, 3, 9):
        joined.clear()
        found = responses(models[name], asked, max_new_tokens=EARLY, batch_size=batch_size, is_final=ended)
        assert found == expected
        assert joined[0] == 0 and max(joined) > 0  # The first finds no rows; some later one finds rows under way.


def test_a_text_is_looked_at_after_every_early_token_and_every_few_steps_later(models):
    """In tokens: 1 to 16, then 20, 24 and 28."""
    assert (EARLY, CHECK_EVERY) == (16, 4)
    asked, seen = chats(PROMPTS[:1]), []
    responses(models["llama"], asked, max_new_tokens=30, is_final=lambda text: seen.append(text) is not None)
    tokens = answer(models["llama"], encode(asked[0]), 30)
    assert len(tokens) == 30 and TOKENIZER.eos_token_id not in tokens
    assert seen == [text_of(tokens[:count]) for count in (*range(1, 17), 20, 24, 28)]


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_what_a_model_was_asked_before_does_not_change_its_texts(models, name):
    """Each call finds the memory of the one before, which is too small, of the right size, or too large."""
    asked = chats(PROMPTS)
    expected = generated(models[name], asked)
    for rows, batch_size in ((2, 8), (5, 8), (5, 8), (1, 8), (5, 2)):
        responses(models[name], chats(PROMPTS[:rows], SYSTEM | {"content": "car " * 20}), max_new_tokens=3)
        texts = responses(models[name], chats(PROMPTS[:rows]), batch_size=batch_size)
        assert texts == expected[:rows]


def test_weights_that_changed_in_place_are_the_ones_that_answer():
    model, asked = untrained("llama"), chats(PROMPTS)
    before = responses(model, asked)
    weight = model.model.layers[0].self_attn.v_proj.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.neg_()
    changed = responses(model, asked)
    assert changed == generated(model, asked) and not set(changed) & set(before)
    with torch.no_grad():
        weight.copy_(kept)
    assert responses(model, asked) == before


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


def test_a_row_in_the_place_of_one_that_broke_is_answered_as_if_alone(models):
    """The shortest prompt's eighth token has an embedding of NaN, which then stands in columns that others pass."""
    asked = chats(["Rent", *PROMPTS[::-1]])
    answers = [answer(models["llama"], encode(chat)) for chat in asked]
    fed = [encode(chat) + tokens[:-1] for chat, tokens in zip(asked, answers, strict=True)]
    met = [answers[0][7] in tokens for tokens in fed]
    broken = copy.deepcopy(models["llama"])
    with torch.no_grad():
        broken.model.embed_tokens.weight[answers[0][7]] = float("nan")
    assert 1 <= sum(met) < 3 and met[0]
    expected = [None if fails else text_of(tokens) for fails, tokens in zip(met, answers, strict=True)]
    for batch_size in (1, 2, 3, 4):
        assert responses(broken, asked, batch_size=batch_size) == expected


# Giving up


class GivenUp(Exception):
    pass


@pytest.mark.parametrize("family", ["llama", "mamba"])
@pytest.mark.filterwarnings("ignore:MambaForCausalLM is decoded by `generate`")
def test_check_is_called_after_every_token_and_ends_the_decoding_where_it_raises(family):
    """By the loop, and by `generate` for a model that the loop does not support."""
    calls = []

    def check():
        calls.append(None)
        if len(calls) == 4:
            raise GivenUp

    model = untrained(family)
    with pytest.raises(GivenUp):
        responses(model, chats(PROMPTS), check=check)
    assert len(calls) == 4
    assert len(responses(model, chats(PROMPTS))) == len(PROMPTS)
