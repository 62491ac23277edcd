"""Weights moved to a known place, and whether a model was left where it was."""

import torch

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


def copy_of(model):
    """The parameters of a model as they are now."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def bitwise(left, right):
    """Whether two sets of weights are the same in every bit."""
    return left.keys() == right.keys() and all(
        torch.equal(left[name].view(torch.uint8), right[name].view(torch.uint8)) for name in left
    )
