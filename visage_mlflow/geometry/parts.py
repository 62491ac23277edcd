"""What each parameter of a model is to a direction: a norm layer's, a stack of experts, a matrix with its output rows.

The classes of a model's modules tell it. Where only names and tensors are at hand, the names must do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

NORM_CLASS = re.compile(r"(?i)norm(\d?d|1p|gated)?$")
"""Ends of the names of norm classes: `LayerNorm`, `BatchNorm1d`, `NemotronLayerNorm1P`, `Zamba2RMSNormGated`."""

NORM_NAME = re.compile(r"(?i)norm|(^|\.)ln(_?[a-z0-9]+)*\.|_ln\.")
"""How norm layers are called, for want of their classes: `input_layernorm`, `q_norm`, `ln_1`, `ln_f`."""

TOWER_CLASS = re.compile(r"(Vision|Image|Audio)(?!.*Text)")
"""Names of the classes of towers that stand inside a decoder; `Granite4VisionTextModel` is a decoder itself."""


@dataclass(frozen=True)
class Part:
    """What a parameter is to a direction."""

    is_norm: bool = False
    """Whether it belongs to a normalization layer."""
    experts: int | None = None
    """How many experts' tensors are stacked in it, along dimension 0; None if it is one tensor."""
    output: int = 0
    """The dimension of the output rows; in a stack, within each expert's tensor."""

    def split(self, tensor: Tensor) -> Tensor:
        """The tensors that `tensor` consists of, of shape (experts, …), or (1, …) if it is one."""
        if self.experts is None:
            return tensor.unsqueeze(0)
        rest = tensor.shape[1:] if tensor.shape[0] == self.experts else (-1, *tensor.shape[1:])
        return tensor.reshape(self.experts, *rest)


PLAIN, NORM = Part(), Part(is_norm=True)

Parts = Mapping[str, Part]
"""The parameters that count, by name."""


def parts_of(model: nn.Module) -> dict[str, Part]:
    """What each parameter that counts is, by the classes of the modules; tied parameters appear once.

    Of a model that wraps a text decoder and towers for pictures or sound, the decoder and the output head count.
    """
    found: dict[int, Part] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            found.setdefault(id(parameter), _part(module, name, parameter))
    counting = set(map(id, _counting(model)))
    named = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in counting}
    return {name: found.get(id(parameter), PLAIN) for name, parameter in named.items()}


def known_parts(weights: Mapping[str, Tensor]) -> Parts | None:
    """What the parameters are, if the weights know that, as `identity.Weights` of a model do."""
    parts = getattr(weights, "parts", None)
    return parts if isinstance(parts, Mapping) else None


def part_of(parts: Parts | None, name: str, tensor: Tensor) -> Part:
    """What a tensor is, as far as `parts` know it; else by its name."""
    return (parts or {}).get(name) or part_by_name(name, tensor)


def part_by_name(name: str, tensor: Tensor) -> Part:
    """What a tensor is, by its name and shape alone. Which way experts are stored is not told: output rows first."""
    if NORM_NAME.search(name):
        return NORM
    *parents, last = name.split(".")
    # Fused experts share a module, which has the tensors themselves; otherwise each expert's number stands between.
    is_stacked = bool(parents) and parents[-1] == "experts" and tensor.ndim == (2 if last.endswith("bias") else 3)
    return Part(experts=tensor.shape[0]) if is_stacked else PLAIN


def _part(module: nn.Module, name: str, parameter: Tensor) -> Part:
    """What a module's own parameter is."""
    classes = [each.__name__ for each in type(module).__mro__]
    if any(map(NORM_CLASS.search, classes)):
        return NORM
    if "Conv1D" in classes and parameter.ndim == 2:  # GPT-2's linear layer, stored as (input, output).
        return Part(output=1)
    if "DbrxExpertGLU" in classes:  # Its matrices stand one below the other; the last one is multiplied untransposed.
        return Part(experts=int(module.moe_num_experts), output=int(name == "w2"))  # type: ignore[arg-type]
    if classes[0].endswith("Experts") and parameter.ndim > 1:
        return Part(experts=parameter.shape[0], output=int(parameter.ndim == 3 and _is_transposed(module)))
    return PLAIN


def _is_transposed(experts: Any) -> bool:
    """Whether experts are stored as (experts, input, output)."""
    known = getattr(experts, "is_transposed", None)
    if known is None and isinstance(getattr(experts, "gate_up_proj", None), Tensor):
        # Where gate and up are one matrix, it has twice as many outputs as the next one has inputs. Stored the other
        # way, the compared numbers are the width and its double.
        return bool(experts.gate_up_proj.shape[2] == 2 * experts.down_proj.shape[1])
    return bool(known)


def _counting(model: Any) -> Iterator[nn.Parameter]:
    """Parameters of the text decoder and the output head; all parameters of a model that is a decoder itself."""
    # A decoder that was taken out of its wrapper may have kept the wrapper's configuration, and counts as a whole.
    is_wrapper = getattr(getattr(model, "config", None), "text_config", None) is not None
    tops = [model.get_decoder(), model.get_output_embeddings()] if is_wrapper else [model]
    for top in tops:
        modules = {} if top is None else dict(top.named_modules())
        towers = [f"{name}." for name, module in modules.items() if name and TOWER_CLASS.search(type(module).__name__)]
        for name, module in modules.items():
            if not f"{name}.".startswith(tuple(towers)):
                yield from module.parameters(recurse=False)
