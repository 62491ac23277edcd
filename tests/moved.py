"""Weights moved to a known place."""

from visage_mlflow.geometry.directions import Difference, RandomDirection, orthogonal


def on_the_way(base, last, share, off=0.0):
    """Weights at base + share * (last - base), moved away from the line by `off` of its length."""
    line = Difference(last.weights)
    away = orthogonal(base.weights, RandomDirection(seed=5), to=line)
    return {
        name: (
            weight.double() + share * line.displacement(name, weight) + off * away.displacement(name, weight)
        ).float()
        for name, weight in base.weights.items()
    }
