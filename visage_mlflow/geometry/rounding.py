"""What rounding to the dtype that a model computes in leaves of a displacement of its weights.

Weights that are stored in bfloat16, and weights a little beside those, all lie in the middle between two points at
which rounding changes its mind. A displacement that is small against the distance of neighbouring numbers is then
rounded away, where from weights that lie anywhere it comes out right on average.

All figures come from a seeded sample of the weights.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from visage_mlflow.geometry.axes import Steps
from visage_mlflow.geometry.directions import Direction
from visage_mlflow.geometry.parts import known_parts

SAMPLE = 2**21
"""Weights that are looked at, of all tensors together: a share comes out to a thousandth where displacements are as
long as the rounding errors."""

TOLERANCE = 0.02
"""How far the realised share of a displacement may be from 1."""

ALIGNED = 0.01
"""From this `alignment` on, rounding undoes more than `TOLERANCE` of what lies beside the grid. Displacements from the
grid that are normal with a spread of s units in the last place have the alignment exp(-2 (pi s)^2); half a unit, of
which 98.6 % are realised, gives 0.007."""


def is_taken(share: float) -> bool:
    """Whether a realised share is 1 to `TOLERANCE`; NaN, of a displacement of length zero, counts."""
    return math.isnan(share) or abs(share - 1) <= TOLERANCE


def realised(
    weights: Mapping[str, Tensor], directions: Sequence[Direction], steps: Sequence[Steps], dtype: torch.dtype
) -> list[float]:
    """The share of each displacement that is left once the weights are rounded to `dtype`, before and after it.

    It is <moved, wanted> / <wanted, wanted>, with `wanted` = sum(step * direction) over all weights together and
    `moved` the difference of the rounded weights.

    Args:
        weights: The stored base.
        directions: What to move along.
        steps: For each displacement, one number for each direction.
        dtype: What the model computes in.

    Returns:
        One share for each displacement: 1 if it is wholly realised, 0 if nothing moves; above 1 if too much does. NaN
        for a displacement of length zero.
    """
    directions = [direction.among(known_parts(weights)) for direction in directions]
    shares = [_Share() for _ in steps]
    for name, weight, chosen in _samples(weights):
        base = _picked(weight, chosen)
        moves = [_moved(direction, name, weight, chosen) for direction in directions]
        for share, each in zip(shares, steps, strict=True):
            wanted = [step * move for step, move in zip(each, moves, strict=True) if step != 0 and move is not None]
            if wanted:
                share.add(base, torch.stack(wanted).sum(dim=0), dtype)
    return [share.value for share in shares]


def realised_at_random(weights: Mapping[str, Tensor], relative_norm: float, dtype: torch.dtype) -> float:
    """As `realised`, for Gaussian noise of `relative_norm` times the norm of each tensor.

    It is 1 where so few weights cannot tell it from that: in a small model a draw may be off by several per cent.
    """
    share = _Share()
    for name, weight, chosen in _samples(weights):
        base = _picked(weight, chosen)
        noise = torch.randn(base.shape, generator=_generator(f"noise:{name}"), dtype=torch.float64).to(base.device)
        share.add(base, relative_norm * base.square().mean().sqrt() * noise, dtype)
    return 1.0 if abs(share.value - 1) < 3 * share.standard_error else share.value


def alignment(weights: Mapping[str, Tensor], dtype: torch.dtype) -> float:
    """How closely the weights that `dtype` does not hold exactly lie around those that it holds.

    It is the mean cosine of the distance to the nearest number that `dtype` holds, one unit in the last place being a
    whole turn. Weights that were moved a little from numbers that `dtype` holds, by finetuning, have one near 1:
    rounding would move them back. Those that lie anywhere have 0; so do fewer such weights than the sample can tell.
    """
    bits = 1 - round(math.log2(torch.finfo(dtype).eps))
    total, n = 0.0, 0
    for _, weight, chosen in _samples(weights):
        values = _picked(weight, chosen)
        rest = values - values.to(dtype).double()
        beside = rest != 0
        exponents = torch.frexp(values[beside]).exponent
        turns = torch.ldexp(rest[beside], bits - exponents)
        total += float(torch.cos(2 * math.pi * turns).sum())
        n += int(beside.sum())
    # Three standard errors of what weights that lie anywhere would give.
    return total / n if n and total > 3 * math.sqrt(n / 2) else 0.0


class _Share:
    """Inner products added up over tensors."""

    def __init__(self) -> None:
        self.moved, self.wanted, self.squared_errors = 0.0, 0.0, 0.0

    def add(self, base: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
        """Add the elements of one tensor, all in float64."""
        moved = (base + wanted).to(dtype).double() - base.to(dtype).double()
        self.moved += float((moved * wanted).sum())
        self.wanted += float(wanted.square().sum())
        self.squared_errors += float(((moved - wanted) * wanted).square().sum())

    @property
    def value(self) -> float:
        return self.moved / self.wanted if self.wanted > 0 else math.nan

    @property
    def standard_error(self) -> float:
        """Of the value, where the weights lie anywhere."""
        return math.sqrt(self.squared_errors) / self.wanted if self.wanted > 0 else math.nan


def _samples(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Each floating-point tensor, with the places of the elements that are looked at; None for all."""
    total = sum(weight.numel() for weight in weights.values() if weight.is_floating_point())
    for name, weight in weights.items():
        if not weight.is_floating_point() or weight.numel() == 0:
            continue
        n = math.ceil(weight.numel() * SAMPLE / total)
        # Places at random: even steps might meet the same columns of a matrix again and again.
        everywhere = n >= weight.numel()
        yield name, weight, None if everywhere else torch.randint(weight.numel(), (n,), generator=_generator(name))


def _generator(key: str) -> torch.Generator:
    """Random numbers of a name's own."""
    return torch.Generator("cpu").manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1)


def _picked(tensor: Tensor, chosen: Tensor | None) -> Tensor:
    """Some elements, in float64."""
    flat = tensor.detach().reshape(-1)
    return (flat if chosen is None else flat[chosen.to(flat.device)]).double()


def _moved(direction: Direction, name: str, weight: Tensor, chosen: Tensor | None) -> Tensor | None:
    """A direction's displacement of the chosen elements; None if it does not move the tensor."""
    terms = direction.terms(name, weight)
    if not terms:
        return None
    return torch.stack([factor * _picked(tensor, chosen).to(weight.device) for factor, tensor in terms]).sum(dim=0)
