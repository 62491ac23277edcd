"""A model URI becomes weights, a model to run and its tokenizer. The one place that knows what a URI means."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visage_mlflow.geometry.blocks import length
from visage_mlflow.geometry.identity import Weights
from visage_mlflow.language import builtin
from visage_mlflow.language.adapters import adapter_base, is_adapter
from visage_mlflow.language.folders import check_folder, check_links, check_tracked, exists
from visage_mlflow.text.errors import Mistake

Fetch = Callable[[str], Path]
"""Brings the files behind a ``runs:/`` or ``models:/`` URI into a local folder (``tracking.fetch``)."""

BUILTIN = {"builtin:smollm2": builtin.smollm2}
TRACKED = ("runs:/", "models:/")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FORMS = "a hub id (`org/name`), a folder, `runs:/<run id>/<path>`, `models:/<name>@<alias>` or `builtin:smollm2`"


@dataclass(frozen=True)
class Chat:
    """A chat model ready to be measured.

    Attributes:
        uri: Where it came from.
        weights: The stored weights by parameter name, float32; tied weights appear once.
        model: The model to run, its weights rounded to the dtype it computes in.
        tokenizer: Its tokenizer, with a chat template.
        system_prompt: Put before every chat; None leaves that to the template.
    """

    uri: str
    weights: Mapping[str, Tensor]
    model: Any
    tokenizer: Any
    system_prompt: str | None = None

    @cached_property
    def norm(self) -> float:
        """Frobenius norm of all stored weights together: what distances from this model are relative to."""
        return math.sqrt(sum(float(length(weight)) ** 2 for weight in self.weights.values()))

    def messages(self, prompt: str) -> list[dict[str, str]]:
        """The chat that asks `prompt`."""
        system = [] if self.system_prompt is None else [{"role": "system", "content": self.system_prompt}]
        return [*system, {"role": "user", "content": prompt}]


def compute_dtype(name: str) -> torch.dtype:
    """The dtype of a `dtype` setting; ``auto`` is bfloat16 where the processor multiplies it natively.

    Raises:
        ValueError: Not ``auto``, ``bfloat16`` or ``float32``.
    """
    if name == "auto":
        abilities = torch.cpu.get_capabilities()
        native = any(abilities.get(key) for key in ("avx512_bf16", "amx_bf16", "bf16"))
        return torch.bfloat16 if native else torch.float32
    if name not in ("bfloat16", "float32"):
        raise Mistake(f"`dtype` must be auto, bfloat16 or float32, got {name!r}. Try auto.")
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def check_uri(uri: str, setting: str = "model") -> None:
    """Refuse, without loading anything, a URI that cannot be a chat model.

    Raises:
        ValueError: The form is unknown, or leads out of a run, or the folder is missing, holds no safetensors or no
            chat template.
    """
    if uri in BUILTIN:
        return
    if uri.startswith(TRACKED):
        check_tracked(uri, setting)
        return
    if uri.startswith("builtin:"):
        raise Mistake(
            f"`{setting}` must be {' or '.join(BUILTIN)} among the built-in models, got {uri!r}. Check the spelling."
        )
    if uri and exists(uri):  # The empty path is the working folder; nobody means that.
        check_folder(Path(uri).expanduser(), setting)
    elif not HUB_ID.fullmatch(uri) or uri.startswith(".") or ".." in uri:
        raise Mistake(f"`{setting}` must be {FORMS}, got {uri!r}, which is neither. Check the spelling.")


def locate(uri: str, fetch: Fetch | None = None, setting: str = "model") -> str:
    """The local folder, or the hub id, behind a model URI."""
    check_uri(uri, setting)
    if uri in BUILTIN:
        return str(BUILTIN[uri]())
    if uri.startswith(TRACKED):
        if fetch is None:
            raise Mistake(f"`{setting}` is {uri!r}: pass `fetch=visage_mlflow.tracking.lookup.fetch` to load it.")
        folder = fetch(uri)
        check_folder(folder, setting)
        check_links(folder, uri, setting)
        return str(folder)
    return str(Path(uri).expanduser()) if exists(uri) else uri


def load_weights(uri: str, fetch: Fetch | None = None, setting: str = "model", depth: int = 0) -> Any:
    """The model behind a URI in float32, an adapter merged into its base (which may be an adapter, too).

    `depth` adapters stand on top of it.

    Raises:
        ValueError: The URI leads to no readable chat model, or a weight is not finite.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    place = locate(uri, fetch, setting)
    if is_adapter(Path(place)):
        return merged(Path(place), fetch, setting, depth)
    bars = logging.is_progress_bar_enabled()
    if Path(place).is_dir():
        logging.disable_progress_bar()  # A local folder loads in a second or two; a download's bar stays.
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            place, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except MemoryError:
        raise
    except Exception as error:  # Of a damaged file each library raises its own types.
        raise unloadable(uri, error, setting) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    if missing := sorted(loaded["missing_keys"]):
        raise Mistake(
            f"`{setting}` is {uri!r}, whose files lack {len(missing)} weights ({missing[0]}, …): they would be "
            f"random. Save the whole model again."
        )
    return model


def unloadable(uri: str, error: BaseException, setting: str) -> ValueError:
    """What to raise where a library could not load what a URI leads to: its reason, in one line."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
    cure = "Save or download it again" if exists(uri) else f"Check the network and the spelling: it must be {FORMS}"
    return ValueError(f"`{setting}` is {uri!r}, which could not be loaded: {reason}. {cure}.")


def merged(folder: Path, fetch: Fetch | None = None, setting: str = "model", depth: int = 0) -> Any:
    """The base of a PEFT adapter with the adapter added to its weights in float32."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    base = load_weights(adapter_base(folder, setting, depth), fetch, setting, depth + 1)
    try:
        model = PeftModel.from_pretrained(base, folder)
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            missing = sorted(get_peft_model_state_dict(model).keys() - set(file.keys()))
        merged_model = model.merge_and_unload()
    except MemoryError:
        raise
    except Exception as error:
        raise unloadable(str(folder), error, setting) from error
    if missing:
        raise Mistake(
            f"`{setting}` is the adapter {str(folder)!r}, whose file lacks {len(missing)} weights ({missing[0]}, …): "
            "they would change nothing. Save the adapter again."
        )
    return merged_model


def load_tokenizer(uri: str, fetch: Fetch | None = None, setting: str = "model", depth: int = 0) -> Any:
    """The tokenizer behind a URI; an adapter saved without one has its base's. `depth` is as for `load_weights`.

    Raises:
        ValueError: It has no chat template.
    """
    from transformers import AutoTokenizer

    place = locate(uri, fetch, setting)
    folder = Path(place)
    if is_adapter(folder) and not (folder / "tokenizer_config.json").is_file():
        return load_tokenizer(adapter_base(folder, setting, depth), fetch, setting, depth + 1)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except Exception as error:
        raise unloadable(uri, error, setting) from error
    if not tokenizer.chat_template:
        raise Mistake(f"`{setting}` is {uri!r}, which has no chat template. Give a chat (instruct) model.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load(
    uri: str,
    *,
    dtype: str = "auto",
    system_prompt: str | None = None,
    fetch: Fetch | None = None,
    setting: str = "model",
) -> Chat:
    """Load a chat model for measuring.

    Args:
        uri: A hub id, a folder, ``runs:/…``, ``models:/…`` or ``builtin:smollm2``.
        dtype: What the model computes in: ``auto``, ``bfloat16`` or ``float32``.
        system_prompt: Put before every chat; None leaves that to the chat template.
        fetch: Brings tracked models into a local folder.
        setting: The setting's name in error messages.

    Raises:
        ValueError: The URI leads to no readable chat model with finite weights.
    """
    target = compute_dtype(dtype)
    tokenizer = load_tokenizer(uri, fetch, setting)
    model = load_weights(uri, fetch, setting).eval()
    weights = Weights((name, parameter.detach()) for name, parameter in model.named_parameters())
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise Mistake(f"`{setting}` is {uri!r}, whose weight {name} has values that are not finite. Retrain it.")
    for parameter in model.parameters():
        # Always a new storage, so `weights` keep the stored one and perturbing needs no copy of it. `model.to` would
        # round the rotary frequencies, too.
        parameter.data = parameter.data.to(target, copy=True)
    return Chat(uri, weights, model, tokenizer, system_prompt)
