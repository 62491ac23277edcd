"""Load a chat model: its weights, a model to run, and its tokenizer."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PretrainedConfig
from transformers.utils import logging

from visage_mlflow.geometry import rounding
from visage_mlflow.geometry.blocks import length
from visage_mlflow.geometry.identity import Weights
from visage_mlflow.language import adapters, stored
from visage_mlflow.language.chat_format import ChatFormat
from visage_mlflow.language.uris import TRACKED, Fetch, adapters_and_base, check_uri, loading, naming_adapter
from visage_mlflow.text.errors import Mistake
from visage_mlflow.text.printing import tell

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
WINDOWS = ("max_position_embeddings", "max_seq_len")
"""How configs name the context window."""
TOKENIZERS = ("tokenizer*", "vocab*", "spiece*", "*.model", "*.tiktoken")
"""Files of which a folder with a tokenizer has one."""


@dataclass(frozen=True)
class Chat:
    """A chat model ready to be measured.

    Attributes:
        uri: Where it came from.
        weights: The stored weights by parameter name, float32; tied weights appear once, and of a multimodal model
            only those of the text decoder and its head do.
        model: The model to run, its weights rounded to the dtype it computes in.
        format: How chats become the tokens that it reads.
    """

    uri: str
    weights: Mapping[str, Tensor]
    model: Any
    format: ChatFormat

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer, with a chat template."""
        return self.format.tokenizer

    @property
    def system_prompt(self) -> str | None:
        """Put before every chat; None leaves that to the template."""
        return self.format.system_prompt

    @cached_property
    def norm(self) -> float:
        """Frobenius norm of all stored weights together: what distances from this model are relative to."""
        return math.sqrt(sum(float(length(weight)) ** 2 for weight in self.weights.values()))


def compute_dtype(name: str) -> torch.dtype:
    """The dtype of a `dtype` setting; ``auto`` is bfloat16 where the processor multiplies it natively."""
    if name == "auto":
        abilities = torch.cpu.get_capabilities()
        native = any(abilities.get(key) for key in ("avx512_bf16", "amx_bf16", "bf16"))
        name = "bfloat16" if native else "float32"
    if name not in DTYPES:
        raise Mistake(f"`dtype` must be one of auto, {', '.join(DTYPES)}, got {name!r}. Choose one.")
    return DTYPES[name]


def dtype_name(chat: Chat) -> str:
    """What a model computes in, as the `dtype` setting names it."""
    return str(chat.model.dtype).removeprefix("torch.")


def load_weights(uri: str, fetch: Fetch | None = None, setting: str = "model", base: str = "") -> Any:
    """The model behind a URI in float32, adapters merged into their base (`base`, if that is given).

    Raises:
        Mistake: The URI leads to no readable chat model, weights are missing, or there are some that it does not use.
    """
    found, base_uri, place = adapters_and_base(uri, fetch, setting, base)
    if found:
        outline(uri, fetch, setting, base)  # What names and shapes tell is told before weights are read.
    with naming_adapter(found[-1], setting) if found else nullcontext(), loading(base_uri, setting):
        model = _load_base(place, setting)
    for folder in reversed(found):
        with loading(str(folder), setting):
            shapes = {name: tuple(each.shape) for name, each in model.named_parameters(remove_duplicate=False)}
            adapters.check_fits(folder, shapes, base_uri, setting)
            model = adapters.merged(model, folder, setting)
    return model


def outline(uri: str, fetch: Fetch | None = None, setting: str = "model", base: str = "") -> Any:
    """The model behind a URI without weights, its tensors on torch's meta device; raises as `load_weights`.

    Of a folder, the names of the stored tensors are held against those of the model; so are those of adapters.
    """
    found, base_uri, place = adapters_and_base(uri, fetch, setting, base)
    with loading(base_uri, setting), adapters.quietly(), _without_bars(place):
        stored.check_quantization(PretrainedConfig.get_config_dict(place)[0], place, setting)
        if Path(place).is_dir():
            model, loaded = _read(place, device_map="meta")
            _check_names(place, loaded, setting)
        else:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(place, trust_remote_code=False))
    for folder in reversed(found):
        with loading(str(folder), setting):
            try:
                model = adapters.merged(model, folder, setting)
            except adapters.WantsValues:
                return outline(base_uri, fetch, setting)  # What follows shows when weights are there.
    return model


def _load_base(place: str, setting: str) -> Any:
    """The model of a folder or hub id, in float32."""
    config = PretrainedConfig.get_config_dict(place)[0]  # Of a hub id, only this file is brought here.
    stored.check_quantization(config, place, setting)
    with adapters.quietly(), _without_bars(place):
        if Path(place).is_dir():
            _check_names(place, _read(place, device_map="meta")[1], setting)  # Reads the files' heads only.
        model, loaded = _read(place)
    extra = _check_names(place, loaded, setting)
    if extra:
        adapters.tell_once(f"{place} stores {len(extra)} tensors that a text model leaves out: {stored.some(extra)}.")
    if model.get_output_embeddings() is not None and not adapters.is_tied(model):
        adapters.set_tied(model, False)  # Its config may say otherwise, where both are stored and differ.
    return model


def check_alike(uris: Sequence[str], other: str, setting: str, fetch: Fetch | None = None, base: str = "") -> None:
    """Refuse models that `setting` names, and that have other tensors than `model`, by what names and shapes tell.

    Those in MLflow are not brought here for this.

    Args:
        uris: The models'.
        other: That of `model`. One of two models may have an output head of its own.
        setting: What named the models.
        fetch: Brings tracked models into a local folder.
        base: What adapters stand on, in place of the base that they name.

    Raises:
        Mistake: One differs, or cannot be loaded.
    """
    for uri in uris:
        check_uri(uri, setting)
    here = [uri for uri in uris if not uri.startswith(TRACKED)]
    ours = _sizes(outline(other, fetch, "model", base)) if here else {}
    for uri in here:
        theirs = _sizes(outline(uri, fetch, setting, base))
        heads = {name for name in ours.keys() ^ theirs.keys() if _is_head(name)}
        if differing := {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)} - heads:
            raise Mistake(
                f"`{setting}` is {uri!r}, which has other tensors than `model`, {other!r} ({stored.some(differing)}): "
                "no line leads from one to the other. Give a finetuned copy of `model`."
            )


def _sizes(model: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's parameters, by name."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _is_head(name: str) -> bool:
    """Whether a parameter is the weight of an output head, by its name."""
    return name.rpartition(".")[0].rpartition(".")[2] in adapters.HEADS


@contextmanager
def _without_bars(place: str) -> Iterator[None]:
    """Inside, no progress bar is shown for a local folder, which loads in a second or two; a download's bar stays."""
    bars = logging.is_progress_bar_enabled()
    if Path(place).is_dir():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


def _read(place: str, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """A model in float32, and what was missing or left over."""
    model, loaded = AutoModelForCausalLM.from_pretrained(
        place,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # `_check_names` tells which they are.
        **kwargs,
    )
    return model, loaded


def _check_names(place: str, loaded: Mapping[str, Any], setting: str) -> list[str]:
    """Hold the names of stored tensors against those of the model; returns the needless ones that do no harm.

    Raises:
        ValueError: One is missing.
        Mistake: One has another size, or the model has no place for one that may matter, or stores no head.
    """
    if loaded["mismatched_keys"]:
        name, found, expected = min(loaded["mismatched_keys"])
        raise Mistake(
            f"`{setting}` is {place!r}, whose tensor {name} is {_by(found)}, where its config.json makes it "
            f"{_by(expected)}. Mend config.json, or save the model again."
        )
    missing = loaded["missing_keys"]
    if missing and all(map(_is_head, missing)):
        raise Mistake(
            f"`{setting}` is {place!r}, without an output head ({min(missing)}). Write `tie_word_embeddings: true` "
            "into its config.json if the embedding is the head, or save the model again with it."
        )
    adapters.check_missing(missing)
    unused, folder = loaded["unexpected_keys"], Path(place)
    sizes = stored.shapes(stored.weight_files(folder, setting), setting) if unused and folder.is_dir() else {}
    harmless = stored.left_out(unused, sizes)
    if lost := sorted(set(unused) - set(harmless)):
        raise Mistake(
            f"`{setting}` is {place!r}, which stores {len(lost)} tensors that a model of its config.json does not use "
            f"({stored.some(lost)}): without them it answers otherwise. Mend config.json so that it has them, or save "
            "the model again without them."
        )
    return harmless


def _by(shape: Sequence[int]) -> str:
    """A shape in words."""
    return " × ".join(map(str, shape))


def _read_tokenizer(uri: str, place: str) -> Any:
    folder = Path(place)
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in TOKENIZERS):
        raise Mistake(
            f"`model` is {uri!r}, which holds no tokenizer. Save that of the model there, with "
            "`tokenizer.save_pretrained(folder)`."
        )
    with loading(uri, "model"):
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False)


def load_tokenizer(uri: str, fetch: Fetch | None = None, base: str = "") -> Any:
    """The tokenizer behind a URI; that of the base for adapters saved without one.

    An adapter's tokenizer without a chat template takes the one of the model below it.

    Raises:
        Mistake: There is no readable tokenizer, or it has no chat template.
    """
    found, base_uri, place = adapters_and_base(uri, fetch, base=base)
    own = [str(folder) for folder in found if (folder / "tokenizer_config.json").is_file()]
    if own:
        tokenizer = _read_tokenizer(own[0], own[0])
        if not tokenizer.chat_template:
            tokenizer.chat_template = _read_tokenizer(base_uri, place).chat_template
        base_uri = own[0]
    else:
        tokenizer = _read_tokenizer(base_uri, place)
    if not tokenizer.chat_template:
        raise Mistake(
            f"`model` is {base_uri!r}, whose tokenizer has no chat template, so it cannot be asked anything as a "
            "chat. Give a chat (instruct) model, or set `tokenizer.chat_template` and save it."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_format(
    uri: str,
    *,
    system_prompt: str | None = None,
    template: Mapping[str, Any] | None = None,
    special_tokens: str = "plain",
    fetch: Fetch | None = None,
    base: str = "",
) -> ChatFormat:
    """How a model's chats become tokens, found without loading its weights; takes the same as `load`.

    Raises:
        Mistake: There is no readable tokenizer, or its chat template cannot do what is asked.
    """
    tokenizer, config = load_tokenizer(uri, fetch, base), text_config(uri, fetch, base)
    rows = getattr(config, "vocab_size", None)
    if rows is not None and (tokenizer.pad_token_id or 0) >= rows:
        tokenizer.pad_token = tokenizer.eos_token  # Added for training alone; it is never read as a token.
    found = ChatFormat(tokenizer, system_prompt, template or {}, special_tokens, window(config), rows)
    found.check(uri)
    return found


def text_config(uri: str, fetch: Fetch | None = None, base: str = "") -> Any:
    """The config of the model behind a URI, of a multimodal one that of its text decoder."""
    _, base_uri, place = adapters_and_base(uri, fetch, base=base)
    with loading(base_uri, "model"):
        return AutoConfig.from_pretrained(place, trust_remote_code=False).get_text_config()


def window(config: Any) -> int | None:
    """The most tokens that a model of a config can read and write together; None where that names no limit.

    Raises:
        Mistake: It names less than one.
    """
    named = (getattr(config, name, None) for name in WINDOWS)
    limit = next((each for each in named if isinstance(each, int)), None)
    if limit is not None and limit < 1:
        raise Mistake(
            f"`model` has a config.json with a context window of {limit} tokens, which must be at least 1. Mend it, "
            "or save the model again."
        )
    return limit


def load(
    uri: str,
    *,
    dtype: str = "auto",
    system_prompt: str | None = None,
    template: Mapping[str, Any] | None = None,
    special_tokens: str = "plain",
    fetch: Fetch | None = None,
    base: str = "",
    check: Callable[[ChatFormat], None] = lambda found: None,
) -> Chat:
    """Load a chat model for measuring.

    Args:
        uri: A hub id, a folder, ``runs:/…``, ``models:/…`` or ``builtin:smollm2``.
        dtype: What the model computes in: ``auto``, ``bfloat16`` or ``float32``. ``auto`` is float32 where bfloat16
            would undo a part of what finetuning changed.
        system_prompt: Put before every chat; None leaves that to the chat template.
        template: Arguments of the chat template by name.
        special_tokens: What special tokens inside of prompts and answers are: see `ChatFormat`.
        fetch: Brings tracked models into a local folder.
        base: What adapters stand on, in place of the base that they name; see `adapters_and_base`.
        check: Called before weights are loaded; raises Mistake for what cannot be asked of the model.

    Raises:
        Mistake: The URI leads to no readable chat model with finite weights.
    """
    asked = load_format(
        uri, system_prompt=system_prompt, template=template, special_tokens=special_tokens, fetch=fetch, base=base
    )
    check(asked)
    model = load_weights(uri, fetch, base=base).eval()
    decode_neutrally(model, asked)
    weights = Weights.of(model)
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise Mistake(f"`model` is {uri!r}, whose weight {name} has values that are not finite. Retrain it.")
    chat = Chat(uri, weights, model, asked)
    round_weights(chat, _dtype_at_rest(chat, dtype))
    return chat


def decode_neutrally(model: Any, asked: ChatFormat) -> None:
    """Let a model end answers at every token that ends its turn, and do nothing else that its makers set.

    Penalties and forbidden tokens of a `generation_config.json` would reach `generate` alone, and no other decoding.
    """
    own = model.generation_config.eos_token_id
    named = own if isinstance(own, list) else [own]
    known = range(model.get_input_embeddings().weight.shape[0])  # Folders name tokens that their model lacks.
    model.generation_config = GenerationConfig(
        eos_token_id=sorted({token for token in (*named, *asked.ends) if token in known}) or None,
        bos_token_id=asked.tokenizer.bos_token_id,
        pad_token_id=asked.tokenizer.pad_token_id,
    )


def _dtype_at_rest(chat: Chat, setting: str) -> torch.dtype:
    """What a model computes in where it is not perturbed; `setting` is that of `dtype`.

    A finetuning moves weights that are stored in bfloat16 by less than the distance of two such numbers, and rounding
    would move most of them back.
    """
    target = compute_dtype(setting)
    if target == torch.float32 or rounding.alignment(chat.weights, target) <= rounding.ALIGNED:
        return target
    if setting == "auto":
        tell(f"{chat.uri} computes in float32: bfloat16 would undo a part of its finetuning.", sys.stderr)
        return torch.float32
    tell(
        f"warning: dtype=bfloat16 undoes a part of the finetuning of {chat.uri}, whose numbers lean towards those of "
        "the model that was finetuned. Use dtype=auto or float32.",
        sys.stderr,
    )
    return target


def round_weights(chat: Chat, dtype: torch.dtype) -> None:
    """Let a model hold its stored weights rounded to a dtype, and compute in that."""
    for name, parameter in chat.model.named_parameters():
        # Always a new storage, so `weights` keep the stored one and perturbing needs no copy of it. `model.to` would
        # round the rotary frequencies, too.
        # Other towers of a multimodal model have no weights here, and no text reaches them: only their dtype matters.
        parameter.data = chat.weights.get(name, parameter.data).to(parameter.device, dtype, copy=True)


@contextmanager
def computing_in(chat: Chat, dtype: torch.dtype) -> Iterator[None]:
    """Inside, a model, unperturbed, computes in a dtype; after it in its own again."""
    own = chat.model.dtype
    if dtype == own:
        yield
        return
    round_weights(chat, dtype)
    try:
        yield
    finally:
        round_weights(chat, own)
