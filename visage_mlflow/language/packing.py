"""Weights laid out for the processor's matrix units, for as long as they do not change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """Inside, the model's linear layers multiply by copies of their weights that oneDNN has reordered once.

    Products of contiguous inputs are the same to the last bit: oneDNN multiplies in this layout anyway, and without a
    packed copy it reorders the weights at every call. Only bfloat16 on a CPU gains, so other models are left alone, as
    are layers whose `forward` is already replaced. The weights must not change inside.

    Args:
        model: A model, of whatever layers; those of type `nn.Linear` are packed.
    """
    layers = [
        layer
        for layer in model.modules()
        if type(layer) is nn.Linear and "forward" not in layer.__dict__ and can_pack(layer.weight)
    ]
    try:
        for layer in layers:
            weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
            layer.__dict__["forward"] = partial(multiply, weight, layer.bias)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def can_pack(weight: Tensor) -> bool:
    """Whether a packed copy of a weight makes its products faster."""
    has_kernels = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_kernels and weight.numel() > 0 and weight.device.type == "cpu" and weight.dtype == torch.bfloat16


def multiply(weight: Tensor, bias: Tensor | None, tokens: Tensor) -> Tensor:
    """What `nn.Linear.forward` gives, with a packed weight."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(tokens, weight, bias, "none", [], "")
    return product
