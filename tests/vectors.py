"""What the tests of directions measure with."""

from visage_mlflow.geometry.directions import inner, norm


def cosine(weights, a, b):
    """Cosine of the angle between two directions over all weights together."""
    return inner(weights, a, b) / norm(weights, a) / norm(weights, b)
