"""Families of chat models as tiny random ones: their chat templates, special tokens, ends, and kinds of weights.

The templates are those that TRL ships, word for word, and for families that it does not know those in
`chat_templates/`, which render plain chats alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

HERE, SHIPPED = Path(__file__).parent / "chat_templates", Path(trl.__file__).parent / "chat_templates"
WINDOW = 512
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": WINDOW,
    "initializer_range": 0.2,
}


@dataclass(frozen=True)
class Family:
    """What a family's chats and weights are like.

    Attributes:
        template: Its chat template's file.
        tokens: Its special tokens; the first is the beginning of a text.
        eos: The tokenizer's end of a text.
        end: What ends an assistant's turn.
        ends: What its generation_config.json ends answers with.
        config: Makes a tiny configuration.
        added: Tokens that are added to the tokenizer without being special.
        pieces: Where texts are split as SentencePiece does rather than byte by byte: which of those between special
            tokens get a space before them, "all", the "first" or "none".
        is_tied: Whether the head is the embedding.
        takes: Arguments of its template, some of them.
        has_system: Whether the template takes a system prompt.
        opened: The thinking that the template begins.
        before: What it writes between the prompt and an answer, more than white space.
    """

    template: str
    tokens: tuple[str, ...]
    eos: str
    end: str
    ends: tuple[str, ...]
    config: Callable[..., Any]
    added: tuple[str, ...] = ()
    pieces: str = ""
    is_tied: bool = False
    takes: tuple[str, ...] = ()
    has_system: bool = True
    opened: str = ""
    before: str = ""
    sizes: dict[str, Any] = field(default_factory=dict)


CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA3 = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
)
GEMMA = ("<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>")
HARMONY = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|return|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|channel|>",
    "<|call|>",
    "<|constrain|>",
)
R1 = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
)
THINK = ("<think>", "</think>")
FAMILIES = {
    "llama2": Family(
        "llama2", ("<s>", "</s>", "<unk>"), "</s>", "</s>", ("</s>",), transformers.LlamaConfig, pieces="all"
    ),
    "llama3.2": Family(
        "llama3_2",
        LLAMA3,
        "<|eot_id|>",
        "<|eot_id|>",
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        transformers.LlamaConfig,
        is_tied=True,
        takes=("date_string",),
    ),
    "qwen2.5": Family(
        "qwen2_5",
        CHATML,
        "<|im_end|>",
        "<|im_end|>",
        ("<|im_end|>", "<|endoftext|>"),
        transformers.Qwen2Config,
        is_tied=True,
    ),
    "qwen3": Family(
        "qwen3",
        CHATML,
        "<|im_end|>",
        "<|im_end|>",
        ("<|im_end|>", "<|endoftext|>"),
        transformers.Qwen3Config,
        added=THINK,
        is_tied=True,
        takes=("enable_thinking",),
        before="<think>\n\n</think>\n\n",
        sizes={"head_dim": 8},
    ),
    "gemma2": Family(
        "gemma",
        GEMMA,
        "<eos>",
        "<end_of_turn>",
        ("<eos>", "<end_of_turn>"),
        transformers.Gemma2Config,
        pieces="none",
        is_tied=True,
        has_system=False,
        sizes={"head_dim": 8},
    ),
    "gemma3": Family(
        "gemma3",
        GEMMA,
        "<eos>",
        "<end_of_turn>",
        ("<eos>", "<end_of_turn>"),
        transformers.Gemma3TextConfig,
        pieces="none",
        is_tied=True,
        sizes={"head_dim": 8},
    ),
    "mistral": Family(
        "mistral",
        ("<s>", "</s>", "<unk>", "[INST]", "[/INST]"),
        "</s>",
        "</s>",
        ("</s>",),
        transformers.MistralConfig,
        pieces="first",
    ),
    "phi": Family(
        "phi3_5",
        ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|endoftext|>",
        "<|end|>",
        ("<|end|>", "<|assistant|>", "<|endoftext|>"),
        transformers.Phi3Config,
        pieces="first",
        sizes={"pad_token_id": 0},
    ),
    "gpt-oss": Family(
        "gptoss",
        HARMONY,
        "<|return|>",
        "<|return|>",
        ("<|return|>", "<|endoftext|>", "<|call|>"),
        transformers.GptOssConfig,
        takes=("reasoning_effort",),
        before="<|channel|>final<|message|>",
        sizes={
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "r1-distill": Family(
        "deepseek_r1_distill",
        R1,
        "<｜end▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        ("<｜end▁of▁sentence｜>",),
        transformers.Qwen2Config,
        added=THINK,
        opened="<think>",
        before="\n</think>\n\n",
    ),
    "smollm3": Family(
        "smollm3",
        CHATML,
        "<|im_end|>",
        "<|im_end|>",
        ("<|im_end|>",),
        transformers.SmolLM3Config,
        added=THINK,
        is_tied=True,
        takes=("enable_thinking",),
        sizes={"pad_token_id": 0},
    ),
    "olmo": Family(
        "olmo2",
        ("<|endoftext|>", "<|pad|>"),
        "<|endoftext|>",
        "<|endoftext|>",
        ("<|endoftext|>",),
        transformers.Olmo2Config,
        sizes={"pad_token_id": 0},
    ),
    "granite": Family(
        "granite",
        ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
        "<|end_of_text|>",
        "<|end_of_text|>",
        ("<|end_of_text|>",),
        transformers.GraniteConfig,
        sizes={"initializer_range": 0.15},  # Its multipliers make rounding errors grow with more.
        is_tied=True,
        takes=("thinking",),
    ),
}


def template(family: Family) -> str:
    """The chat template's text."""
    own = HERE / f"{family.template}.jinja"
    return (own if own.is_file() else SHIPPED / f"{family.template}.jinja").read_text(encoding="utf-8")


def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer that gives a token to each byte or letter, with the family's special tokens and template."""
    family = FAMILIES[name]
    core = _by_letters(family.pieces) if family.pieces else _by_bytes()
    made = PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False)
    made.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in family.tokens], special_tokens=True
    )
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.added])
    made.bos_token, made.eos_token, made.pad_token = family.tokens[0], family.eos, family.tokens[1]
    made.chat_template = template(family)
    return made


def _by_bytes() -> Tokenizer:
    """As the tokenizers of Llama 3, Qwen and GPT are, without any merges."""
    core = Tokenizer(models.BPE({sign: i for i, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return core


def _by_letters(prefixed: str) -> Tokenizer:
    """As those made by SentencePiece are, without any merges; `prefixed` says which texts get a space before them."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    core = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    scheme = {"all": "always", "first": "first", "none": "never"}[prefixed]
    core.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)
    strip = [] if prefixed == "none" else [decoders.Strip(" ", 1, 0)]
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return core


def model(name: str, *, is_tied: bool | None = None) -> Any:
    """A model with random weights."""
    family, made = FAMILIES[name], tokenizer(name)
    config = family.config(
        **{**SIZES, **family.sizes},
        vocab_size=len(made),
        tie_word_embeddings=family.is_tied if is_tied is None else is_tied,
        bos_token_id=made.bos_token_id,
        eos_token_id=made.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def save(name: str, folder: Path, **settings: Any) -> str:
    """A folder with the model and its tokenizer, as its makers publish it."""
    made = tokenizer(name)
    with_weights = model(name, **settings)
    ends = made.convert_tokens_to_ids(list(FAMILIES[name].ends))
    with_weights.generation_config = GenerationConfig(eos_token_id=ends, bos_token_id=made.bos_token_id)
    with_weights.save_pretrained(folder)
    made.save_pretrained(folder)
    return str(folder)
