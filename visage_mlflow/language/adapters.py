"""PEFT adapters: whether one can be added to the weights of its base, and the model with it added."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from visage_mlflow.language.folders import ADAPTER_CONFIG, read_object
from visage_mlflow.language.stored import Shapes, check_floats, shapes, some
from visage_mlflow.text.errors import Mistake, is_out_of_memory, one_line
from visage_mlflow.text.printing import tell

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
WITHOUT_WEIGHTS = {
    "PROMPT_TUNING": "prompt tuning", "MULTITASK_PROMPT_TUNING": "multitask prompt tuning", "P_TUNING": "p-tuning",
    "PREFIX_TUNING": "prefix tuning", "CPT": "context-aware prompt tuning", "CARTRIDGE": "a cartridge",
    "ADAPTION_PROMPT": "an adaption prompt",
}  # fmt: skip
"""Kinds that put something before the text instead of changing weights, as PEFT names them, and in words."""
BY_INPUT = {"XLORA": "X-LoRA", "POLY": "Poly"}
"""Kinds whose change of the weights depends on the input."""
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "embeddings")
HEADS = ("lm_head", "embed_out", "output")
PART = re.compile(
    r"(?P<module>.+?)\.(?:(?P<kind>lora_A|lora_B)\.weight|(?P<embedded>lora_embedding_[AB])"
    r"|(?:token_adapter\.|modules_to_save\.|original_module\.)?(?:base_layer\.)?weight)"
)
STORED_AGAIN = re.compile(r"\.(?:modules_to_save\.weight|token_adapter\.trainable_tokens_delta)")
"""What PEFT stores under a second name, too, where the vocabulary was resized."""
TRAINED_ON = "It was trained on another model: name that one in `base`."
MERGEABLE = "Give a plain LoRA adapter, or a model that was finetuned as a whole."
WITHOUT_VALUES = re.compile(r"\bmeta\b|register_meta|incompatible tensor type")
"""How torch says that a tensor on its meta device has no values."""
N_PROBED = 16
AGREEING = 1e-3
"""Logits of the merged model may differ from those of the adapter by this share of the greatest one: rounding makes
about 1e-6, a kind that cannot be merged far more."""


def check_adapter(folder: Path, setting: str = "model") -> None:
    """Refuse an adapter of a kind that cannot be added to weights, or stored as codes, without reading its weights."""
    config = read_object(folder / ADAPTER_CONFIG, setting)
    kind = str(config.get("peft_type", "")).upper()
    if kind in WITHOUT_WEIGHTS:
        why = f"is {WITHOUT_WEIGHTS[kind]}: it puts vectors before the text and changes no weights"
    elif kind in BY_INPUT:
        why = f"is {BY_INPUT[kind]}, which changes the weights by what is asked"
    elif config.get("alora_invocation_tokens") or config.get("arrow_config"):
        why = "works from certain tokens on, or chooses among experts: it changes the weights by what is asked"
    elif config.get("layer_replication"):
        why = "repeats layers of its base (`layer_replication`), so that it has other weights than these"
    else:
        check_floats([folder / WEIGHTS], setting, "Save the adapter in float32, float16 or bfloat16.")
        return
    raise Mistake(
        f"`{setting}` is the adapter {str(folder)!r}, which {why}. There is nothing to merge, so no place in weight "
        f"space. {MERGEABLE}"
    )


def check_fits(folder: Path, base: Shapes, base_uri: str, setting: str = "model") -> None:
    """Refuse an adapter that was trained on a model of other sizes, a resized embedding among them.

    Args:
        folder: The adapter's.
        base: The shapes of the base's tensors, by name. Names that it does not have are passed over.
        base_uri: What messages call it.
        setting: That of the adapter.
    """
    for name, shape in shapes([folder / WEIGHTS], setting).items():
        found = PART.fullmatch(name.removeprefix(PREFIX))
        if not found or not (there := _shape(base, found["module"])):
            continue
        side = found["kind"] or found["embedded"]
        if side is None:
            expected, fits = shape, shape == there
        else:
            size = shape[-1] if side.endswith("A") else shape[0]
            expected, fits = (size,), size in there
        if fits:
            continue
        module = found["module"].rsplit(".", 1)[-1]
        if module in (*EMBEDDINGS, *HEADS) and expected[0] != there[0] and expected[1:] in ((), there[1:]):
            raise Mistake(
                f"`{setting}` is the adapter {str(folder)!r}, trained on a vocabulary of {expected[0]} tokens, where "
                f"{found['module']} of its base {base_uri!r} has {there[0]} rows: it was resized for training. "
                f"{_resized(folder, setting, expected[0])}"
            )
        sizes = " × ".join(map(str, there))
        raise Mistake(
            f"`{setting}` is the adapter {str(folder)!r}, whose {name} of {' × '.join(map(str, shape))} does not fit "
            f"{found['module']} of its base {base_uri!r}, which is {sizes}. "
            f"{TRAINED_ON}"
        )


def _resized(folder: Path, setting: str, n_rows: int) -> str:
    """Which base an adapter wants whose vocabulary was resized to so many rows."""
    whole = set()
    for name, shape in shapes([folder / WEIGHTS], setting).items():
        part = PART.fullmatch(name.removeprefix(PREFIX))
        if part and not (part["kind"] or part["embedded"]) and shape[0] == n_rows:
            whole.add(part["module"].rsplit(".", 1)[-1])
    if whole & set(EMBEDDINGS) and whole & set(HEADS):
        return f"Save the base after `model.resize_token_embeddings({n_rows})`, and name that in `base`."
    return (
        f"Save the very model of {n_rows} rows that it was trained on, as it does not hold all the new rows, and name "
        "that in `base`."
    )


def _shape(base: Shapes, module: str) -> tuple[int, ...]:
    """The shape of a module's weight; a head that is not stored is its embedding."""
    if (own := base.get(f"{module}.weight")) or module.rsplit(".", 1)[-1] not in HEADS:
        return own or ()
    return next((shape for name, shape in base.items() if name.split(".")[-2:-1] in ([e] for e in EMBEDDINGS)), ())


def merged(base: Any, folder: Path, setting: str = "model") -> Any:
    """A float32 model with a PEFT adapter added to its weights.

    Where the adapter changes a matrix that is input embedding and output head at once, each side gets its own first:
    the adapter means one of them. Of a model on torch's meta device, this gives what names and shapes tell.

    Raises:
        ValueError: It lacks tensors that an adapter of its config has.
        Mistake: It does not fit the model, or cannot be merged: the merged model would answer otherwise than it does.
    """
    was_tied, probe, has_values = is_tied(base), _probe(base), not base.get_input_embeddings().weight.is_meta
    with quietly():
        live = _attached(base, folder, setting).eval()
        config = live.peft_config["default"]
        kind = config.peft_type.value
        with _refused(f"`{setting}` is the adapter {str(folder)!r} ({kind}), which cannot be merged", MERGEABLE):
            before = _logits(live, probe) if has_values else None
            _separate(live)
            model = live.merge_and_unload()
            if was_tied:
                _tie_again(model, config)
            if before is not None:
                _check_alike(_logits(model, probe), before)
    if was_tied and has_values and not is_tied(model):
        tell_once(
            f"{folder} changes input embedding and output head apart, which its base shares: the model has one matrix "
            "more now."
        )
    return model


def _attached(base: Any, folder: Path, setting: str) -> Any:
    """A model with an adapter beside its weights; each of the adapter's tensors is there, and has its place."""
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    name, mapping = f"`{setting}` is the adapter {str(folder)!r}", getattr(base, "_checkpoint_conversion_mapping", {})
    with _refused(f"{name}, whose {ADAPTER_CONFIG} PEFT {version('peft')} does not know", MERGEABLE):
        config = PeftConfig.from_pretrained(folder)
    config.inference_mode = True
    with _refused(f"{name}, which cannot be put on its base", _cure):
        live = PeftModel(base, config)
    stored = load_peft_weights(str(folder), device="cpu", key_mapping=mapping or {})
    expected = set(get_peft_model_state_dict(live, save_embedding_layers=False))
    known = expected | set(live.state_dict())
    stored = _once(stored, known)
    missing, unknown = expected - set(stored), set(stored) - known
    if not unknown:  # Else transformers may rename tensors of fused layers while it loads them.
        check_missing(missing)
    try:
        found = set_peft_model_state_dict(live, stored)
    except KeyError:  # A module that was saved as a whole is looked up by name.
        check_missing(missing)
        raise
    except RuntimeError as error:
        if WITHOUT_VALUES.search(str(error)):
            raise WantsValues from error
        sizes = " ".join(str(error).split()).partition("size mismatch for ")[2].partition(". ")[0]
        raise Mistake(
            f"{name}, whose weights have other sizes than its {ADAPTER_CONFIG} says: {sizes or one_line(error)}. Give "
            "the config that it was trained with."
        ) from error
    if extra := set(found.unexpected_keys):
        raise Mistake(
            f"{name}, which holds {len(extra)} tensors without a module in its base ({some(extra)}). {TRAINED_ON}"
        )
    if unknown:
        check_missing([each for each in found.missing_keys if "default" in each.split(".")])
    return live


def _once(stored: dict[str, Tensor], known: Collection[str]) -> dict[str, Tensor]:
    """Stored tensors by name, without those that are copies of others whose names are known."""

    def is_copy(name: str) -> bool:
        if name in known or not STORED_AGAIN.search(name):
            return False
        return any(torch.equal(stored[name], stored[other]) for other in known if other in stored)

    return {name: tensor for name, tensor in stored.items() if not is_copy(name)}


class WantsValues(Exception):
    """What names and shapes cannot tell of an adapter, whose kind computes with the values of its base."""


@contextmanager
def _refused(problem: str, cure: str | Callable[[Exception], str]) -> Iterator[None]:
    """Inside, what a library cannot do with an adapter is a Mistake that says so.

    Raises:
        WantsValues: It could not for want of values.
    """
    try:
        yield
    except WantsValues:
        raise
    except Exception as error:  # Each kind of adapter raises its own types.
        if is_out_of_memory(error):
            raise
        if isinstance(error, NotImplementedError) or WITHOUT_VALUES.search(str(error)):
            raise WantsValues from error
        cure = cure if isinstance(cure, str) else cure(error)
        raise Mistake(f"{problem}: {one_line(error)} {cure}") from error


def _cure(error: Exception) -> str:
    """What to do about an adapter that cannot be put on its base."""
    if re.search("target modules|out of bounds|size|shape", str(error), re.I):
        return TRAINED_ON
    return f"Mend its {ADAPTER_CONFIG}, or give a plain LoRA adapter."


def check_missing(names: Collection[str]) -> None:
    """Raise ValueError if weights are missing, for which a library takes random numbers, or none."""
    if names:
        raise ValueError(f"it lacks {len(names)} weights ({min(names)}, …), which would be random or have no effect")


def is_tied(model: Any) -> bool:
    """Whether a model's input embedding is its output head, too."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and head.weight is embedding.weight


def set_tied(model: Any, tied: bool) -> None:
    """Say in a model's config, which is saved with it, whether embedding and head are one matrix."""
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = tied


def _separate(live: nn.Module) -> None:
    """Give each side of a shared matrix its own, where an adapter changes one of them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    adapted = {id(layer.get_base_layer()) for layer in live.modules() if isinstance(layer, BaseTunerLayer)}
    for module in live.modules():
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((module, name))
    for shared in owners.values():
        if any(id(module) in adapted for module, _ in shared):
            for module, name in shared[1:]:
                setattr(module, name, nn.Parameter(getattr(module, name).detach().clone(), requires_grad=False))


def _tie_again(model: Any, config: Any) -> None:
    """Share one matrix where both sides of it were changed alike, as tokens that were trained are."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight.is_meta:
        tokens = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None)
        apart = isinstance(tokens, dict) and len(tokens) > 1
        are_alike = head.weight is embedding.weight or bool(tokens and not apart)
    else:
        are_alike = torch.equal(head.weight, embedding.weight)
    if are_alike or getattr(config, "ensure_weight_tying", False):
        head.weight = embedding.weight
    set_tied(model, is_tied(model))


def _check_alike(logits: Tensor, before: Tensor) -> None:
    """Raise ValueError if most tokens have other logits, of shape (1, tokens, vocabulary), than before.

    A single one may: rounding can send it to another expert. Weights that are not finite are found later, by name.
    """
    difference = float((logits - before).abs().amax(-1).median())
    if torch.isfinite(before).all() and not difference <= AGREEING * float(before.abs().max()):
        raise ValueError(f"added to the weights, its logits differ by {difference:.3g}")


def _probe(model: Any) -> Tensor:
    """Token ids from all over the vocabulary, of shape (1, tokens)."""
    n_rows = model.get_input_embeddings().weight.shape[0]
    return torch.linspace(0, n_rows - 1, min(N_PROBED, n_rows)).long()[None]


@torch.no_grad()
def _logits(model: Any, ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids.to(model.device)).logits.float()
    return logits


@cache
def tell_once(line: str) -> None:
    """Say a line on a model, which one command may load many times."""
    tell(line, sys.stderr)


@contextmanager
def quietly() -> Iterator[None]:
    """Inside, libraries say nothing: what matters of what they would say is told in one line."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
