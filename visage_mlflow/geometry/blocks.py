"""Sums of coefficient × tensor in float64, block by block, so that no tensor is ever converted as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BLOCK = 3 * 2**13
"""Elements per block of a sum. Small enough for a CPU's cache, and below the 2**15 elements from which torch uses
several threads: several times faster than whole tensors, and the same sums on any number of cores."""

LARGE_BLOCK = 2**17
"""Elements per block where values are only written, so that no sum depends on the split between threads."""

Term = tuple[float, Tensor]
"""A coefficient and the tensor, of any dtype, that it multiplies."""


def blocks(weight: Tensor, sums: Sequence[Sequence[Term]], size: int = BLOCK) -> Iterator[tuple[slice, list[Tensor]]]:
    """Each sum of terms in float64, flattened, block by block, on the device of `weight`, whose shape they all have.

    Each product is rounded before it is added, in order, so that equal terms of opposite sign leave an exact zero.
    """
    flat = [[(coefficient, tensor.detach().reshape(-1)) for coefficient, tensor in terms] for terms in sums]
    for first in range(0, weight.numel(), size):
        block = slice(first, min(first + size, weight.numel()))
        totals = []
        for terms in flat:
            total: Tensor | None = None
            for coefficient, tensor in terms:
                product = tensor[block].to(weight.device, torch.float64, copy=True)
                if coefficient != 1:
                    product *= coefficient
                total = product if total is None else total.add_(product)
            if total is None:
                total = torch.zeros(block.stop - first, dtype=torch.float64, device=weight.device)
            totals.append(total)
        yield block, totals


def merged(terms: Sequence[Term]) -> list[Term]:
    """The same sum with the coefficients of equal tensors added up, and without those that add up to 0.

    Two differences from the same weights both subtract these, for instance. Tensors are equal if they are views of the
    same memory. Each keeps its first place in the order.
    """
    found: dict[tuple[object, ...], Term] = {}
    for coefficient, tensor in terms:
        key = tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()
        total, _ = found.get(key, (0.0, tensor))
        found[key] = total + coefficient, tensor
    return [(coefficient, tensor) for coefficient, tensor in found.values() if coefficient != 0]


def whole(weight: Tensor, terms: Sequence[Term]) -> Tensor:
    """A sum of terms as one float64 tensor of the shape of `weight`; zeros if there are none."""
    total = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
    for block, (part,) in blocks(weight, [terms]):
        total.view(-1)[block] = part
    return total


def split(tensor: Tensor) -> Iterator[Tensor]:
    """Large blocks of a tensor's elements; views, if it is contiguous."""
    flat = tensor.reshape(-1)
    for first in range(0, flat.numel(), LARGE_BLOCK):
        yield flat[first : first + LARGE_BLOCK]


def length(tensor: Tensor) -> Tensor:
    """Frobenius norm in float64, of shape (), without a float64 copy of the tensor."""
    parts = [float(torch.linalg.vector_norm(block, dtype=torch.float64)) for block in split(tensor)]
    norm: Tensor = torch.linalg.vector_norm(torch.tensor(parts, dtype=torch.float64, device=tensor.device))
    return norm
