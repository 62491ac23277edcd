"""Principal components of displacements: the directions in which several models differ most from one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from visage_mlflow.geometry.directions import PARALLEL_SINE, Combination, Direction, gram


@dataclass(frozen=True)
class Component:
    """A principal component of displacements."""

    direction: Combination
    explained_variance: float
    """Its share of the displacements' variance around their mean, 0 to 1, as in a PCA; NaN if they are all equal."""
    share_from_origin: float
    """Its share of the squared lengths of all displacements together, 0 to 1: around the origin, not their mean."""
    spread: float
    """Root of the sum of the displacements' squared coordinates along it: a Frobenius norm over all weights."""


def components(weights: Mapping[str, Tensor], displacements: Sequence[Direction], count: int = 2) -> list[Component]:
    """Principal components of displacements from `weights`, as long as the longest displacement, largest first.

    They are taken around the origin, not around the mean, so that the plane they span holds the origin; and from the
    matrix of inner products, which is summed tensor by tensor (Li et al., 2018, draw trajectories this way). Each
    points so that the last displacement has no negative coordinate along it.

    Raises:
        ValueError: There are too few displacements, or they span less than `count` dimensions.
    """
    if len(displacements) < count:
        raise ValueError(f"{count} components need at least {count} displacements, got {len(displacements)}.")
    products = gram(weights, displacements)
    variances, vectors = np.linalg.eigh(products)  # Increasing; columns are unit vectors.
    longest = math.sqrt(products.diagonal().max())
    found = []
    for index in range(1, count + 1):
        variance, vector = max(0.0, float(variances[-index])), vectors[:, -index]
        if variance <= PARALLEL_SINE**2 * float(variances[-1]):
            raise ValueError(
                f"The {len(displacements)} displacements span only {index - 1} dimensions, {count} are needed: the "
                f"models are identical or lie on one line. Use models that differ."
            )
        along = float(products[-1] @ vector)
        scale = math.copysign(longest / math.sqrt(variance), along if along != 0 else 1.0)
        parts = [(scale * float(part), each) for part, each in zip(vector, displacements, strict=True)]
        centred = float(np.var(products @ vector)) * len(displacements) / variance
        total = float(np.trace(products) - products.sum() / len(displacements))
        explained = centred / total if total > PARALLEL_SINE**2 * float(np.trace(products)) else math.nan
        share = variance / float(variances.sum())
        found.append(Component(Combination(parts), explained, share, math.sqrt(variance)))
    return found
