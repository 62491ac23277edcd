"""What a model's folder says of the weights in it, before any of them is read: their files, dtypes, shapes, names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from visage_mlflow.language.folders import read_object
from visage_mlflow.text.errors import Mistake, one_line

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
GENERATION = "generation_config.json"
FULL_FLOATS = ("F64", "F32", "F16")
"""safetensors' names of floating-point numbers that are weights as they are; BF16 begins with a B. Others that begin
with F, in 8 bits or fewer, need scales that stand elsewhere."""
QUANTIZATIONS = {
    "bitsandbytes": "bitsandbytes", "gptq": "GPTQ", "awq": "AWQ", "fp8": "fp8", "fbgemm_fp8": "fp8", "mxfp4": "MXFP4",
}  # fmt: skip
DEQUANTIZING = {"fp8": "FineGrainedFP8Config", "mxfp4": "Mxfp4Config"}
"""Kinds in which models are published, so that there may be no unquantized one, and what undoes them."""
UNUSED = (
    r"(^|\.)(v_head|value_head|reward_head)\.",  # Heads of training by reinforcement, which no answer goes through.
    r"(^|\.)rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)$",  # Computed from the config.
    r"(^|\.)(position_ids|masked_bias|causal_mask)$",
    r"(^|\.)(vision_tower|vision_model|visual|audio_tower|multi_modal_projector|embed_vision|embed_audio)\.",
)
"""Stored tensors that a text model may leave out: no logit depends on them."""
OTHER_KINDS = re.compile(r"For(?:SequenceClassification|TokenClassification|QuestionAnswering|MaskedLM|Reward\w*)$")
"""Classes of models that are no chat models, as config.json names them."""
MASK = r"\.(attn|attention)\.bias$"
"""A causal mask where it has four dimensions, as old models stored them; else a bias, which counts."""

Shapes = Mapping[str, tuple[int, ...]]


def check_quantization(config: Mapping[str, Any], uri: str, setting: str) -> None:
    """Refuse a model whose config says that its weights are quantized: they cannot be moved by a little.

    Raises:
        Mistake: It is; the text names the kind, and what to give instead.
    """
    inner = [each for each in config.values() if isinstance(each, Mapping)]
    for each in (config, *inner):
        found = each.get("quantization_config") or each.get("compression_config")
        if isinstance(found, Mapping):
            bits = found.get("load_in_4bit") or found.get("load_in_8bit")
            method = str(found.get("quant_method") or ("bitsandbytes" if bits else "of an unnamed kind"))
            kind = QUANTIZATIONS.get(method, method)
            raise Mistake(
                f"`{setting}` is {uri!r}, which is quantized ({kind}), as its config.json says: its weights are codes "
                f"that cannot be moved by a little. {_cure(method)}"
            )


def _cure(method: str) -> str:
    """What to give in place of a quantized model."""
    cure = "Give the unquantized model that it was made from, or dequantize it and save that"
    if undoing := DEQUANTIZING.get(method):
        return f"{cure}: load it with `quantization_config={undoing}(dequantize=True)`."
    return f"{cure} with `model.dequantize().save_pretrained(folder)`."


def weight_files(folder: Path, setting: str = "model") -> list[Path]:
    """The files that hold a folder's weights.

    Raises:
        Mistake: Which ones these are is not clear, or one of them is missing.
    """
    own = read_object(folder / "config.json", setting).get("transformers_weights")
    if own is None and (folder / WHOLE).is_file() and (folder / INDEX).is_file():
        raise Mistake(
            f"`{setting}` is {str(folder)!r}, which holds both {WHOLE} and {INDEX}: two sets of weights, of which "
            "only one is the model. Move the one that is out of date away."
        )
    name = own or (WHOLE if (folder / WHOLE).is_file() else INDEX)
    if not (folder / name).is_file():
        raise Mistake(
            f"`{setting}` is {str(folder)!r}, which lacks {name if own else f'{WHOLE} or {INDEX}'}, so its weights "
            "cannot be found. Save the model there with `model.save_pretrained(folder)`."
        )
    if not name.endswith(".json"):
        return [folder / name]
    shards = sorted(set(read_object(folder / name, setting)["weight_map"].values()))
    if gone := [shard for shard in shards if not (folder / shard).is_file()]:
        raise Mistake(
            f"`{setting}` is {str(folder)!r}, whose {name} names {len(shards)} files, of which {len(gone)} "
            f"{'is' if len(gone) == 1 else 'are'} missing ({', '.join(gone[:3])}). Download or save the model again."
        )
    return [folder / shard for shard in shards]


def heads(files: Collection[Path], setting: str = "model") -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, dtype and shape of each tensor in safetensors files; the tensors are not read.

    Raises:
        Mistake: A file is damaged.
    """
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - no mapping, it has only this.
                    part = file.get_slice(name)
                    yield name, str(part.get_dtype()), tuple(part.get_shape())
        except Exception as error:  # The library raises its own types for a damaged file.
            raise Mistake(
                f"`{setting}` is {str(path.parent)!r}, which could not be loaded: {path.name}: {one_line(error)} Save "
                "or download it again."
            ) from error


def shapes(files: Collection[Path], setting: str = "model") -> Shapes:
    """Shape of each tensor in safetensors files, by name."""
    return {name: shape for name, _, shape in heads(files, setting)}


def check_stored(folder: Path, setting: str = "model") -> None:
    """Refuse a model's folder whose weights are quantized, ambiguous, missing or damaged, without reading them."""
    config = read_object(folder / "config.json", setting)
    check_quantization(config, str(folder), setting)
    check_kind(config, str(folder), setting)
    check_floats(weight_files(folder, setting), setting)
    check_ends(folder, setting)


def check_kind(config: Mapping[str, Any], uri: str, setting: str) -> None:
    """Refuse a model whose config says that it writes no texts, or reads them in an encoder."""
    named = config.get("architectures")
    kinds = [str(each) for each in named] if isinstance(named, list) else []
    if others := [each for each in kinds if OTHER_KINDS.search(each)]:
        raise Mistake(
            f"`{setting}` is {uri!r}, of the kind {others[0]}, which answers nothing. Give the chat model that it was "
            "made from, or another."
        )
    if config.get("is_encoder_decoder"):
        raise Mistake(
            f"`{setting}` is {uri!r}, which reads by an encoder and answers by a decoder: what is measured here are "
            "models of one decoder alone. Give one of these."
        )


def check_floats(files: Collection[Path], setting: str = "model", cure: str = "") -> None:
    """Refuse weights that are no floating-point numbers of 16 bits or more; `cure` says what to do then."""
    for path in files:
        for name, dtype, _ in heads([path], setting):
            is_weight = dtype.startswith("F") or (dtype[0] in "IU" and name.endswith("weight"))
            if is_weight and dtype not in FULL_FLOATS:
                what, kind = ("a float of few bits", "fp8") if dtype.startswith("F") else ("whole numbers", "")
                raise Mistake(
                    f"`{setting}` is {str(path.parent)!r}, whose tensor {name} is stored in {dtype}, {what}: that is "
                    f"a code without its scales. {cure or _cure(kind)}"
                )


def check_ends(folder: Path, setting: str = "model") -> None:
    """Refuse a generation_config.json that cannot be read, or names end tokens otherwise than by their numbers."""
    if not (folder / GENERATION).is_file():
        return
    ends = read_object(folder / GENERATION, setting).get("eos_token_id")
    for end in ends if isinstance(ends, list) else [ends]:
        if end is not None and (isinstance(end, bool) or not isinstance(end, int)):
            raise Mistake(
                f"`{setting}` is {str(folder)!r}, whose {GENERATION} has the `eos_token_id` {end!r}, which must be a "
                "token's number. Mend it."
            )


def left_out(names: Collection[str], sizes: Shapes) -> list[str]:
    """Those stored tensors, among the ones that the model has no place for, that no logit depends on.

    >>> left_out(["v_head.summary.weight", "model.layers.0.self_attn.q_proj.bias"], {})
    ['v_head.summary.weight']
    """
    harmless = re.compile("|".join(UNUSED))
    return sorted(
        name for name in names if harmless.search(name) or (re.search(MASK, name) and len(sizes.get(name, ())) == 4)
    )


def some(names: Collection[str]) -> str:
    """The first few of some names."""
    return ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
