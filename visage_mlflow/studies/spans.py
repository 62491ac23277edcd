"""The planes of the paper around one model: their directions, what results keep of these, and the grid on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any

from torch import Tensor

from visage_mlflow.config.grid import AXES, LineConfig, PlaneConfig
from visage_mlflow.geometry import directions
from visage_mlflow.geometry.axes import axis, interpolation_axis, spanning_axis
from visage_mlflow.geometry.components import components
from visage_mlflow.geometry.directions import Combination, Difference, Direction, Materialized, RandomDirection
from visage_mlflow.geometry.plane import Plane
from visage_mlflow.language.models import Chat
from visage_mlflow.measuring.measure import Measurer
from visage_mlflow.results import Mark
from visage_mlflow.text.errors import Mistake

ROUNDING = 4 * 2.0**-24
"""Weights that were rounded to float32 lie about a fourth of this, as a share of their norm, from where they were:
a direction no longer than this is noise."""


@dataclass(frozen=True)
class End:
    """Another model that helps to span a plane, and how an error introduces its URI."""

    uri: str
    weights: Mapping[str, Tensor]
    named: str = "`to` is"


@dataclass(frozen=True)
class Span:
    """A line or plane through a model.

    Attributes:
        name: One of `PLANES`.
        directions: One or two; the second is orthogonal to the first.
        about: Of each, what `results.Axis` keeps of it.
        weights: The model's, at the origin.
        ends: The models that span it.
    """

    name: str
    directions: tuple[Direction, ...]
    about: tuple[dict[str, Any], ...]
    weights: Mapping[str, Tensor]
    ends: tuple[End, ...]

    @cached_property
    def geometry(self) -> Plane:
        """The same as a plane to project on."""
        return Plane(self.weights, *self.directions)

    @cached_property
    def marks(self) -> tuple[Mark, ...]:
        """Where the models that span it lie on it."""
        places = [self.geometry.project(end.weights) for end in self.ends]
        return tuple(Mark(end.uri, place.x, place.y) for end, place in zip(self.ends, places, strict=True))

    def grid_axes(self, config: PlaneConfig, places: Sequence[tuple[float, float]] = ()) -> list[list[float]]:
        """Steps along each axis.

        Random axes reach `extent` each way. Others reach `extra` past the model, the marks, and `places`.

        Args:
            config: How many steps, and how far.
            places: What else must lie on the grid, as (x, y).
        """
        held = [(mark.x, mark.y) for mark in self.marks] + list(places)
        axes = []
        for index, kind in enumerate(AXES[self.name]):
            n_points, extent, extra = config.axis_settings()[index]
            coordinates = [place[index] for place in held]
            if kind == "random":
                steps = axis(extent, n_points)
            elif index == 0 and kind == "difference":
                # With the other model exactly on it; its own coordinate is 1 but for rounding.
                if all(-extra - 1e-9 <= each <= 1 + extra + 1e-9 for each in coordinates):
                    steps = interpolation_axis(n_points, extra)
                else:
                    steps = spanning_axis(coordinates, n_points, extra, exactly=(0.0, 1.0))
            else:
                steps = spanning_axis(coordinates, n_points, extra)
            axes.append([float(step) for step in steps])
        return axes


def relative_norm(chat: Chat, direction: Direction) -> float:
    """Length of a direction over all weights together, relative to the norm of the model's weights.

    Raises:
        Mistake: The direction leads to weights that are not finite.
    """
    try:
        return directions.norm(chat.weights, direction) / chat.norm
    except ValueError as error:
        raise Mistake(f"{error} Finetune {chat.uri!r} again with a lower `learning_rate`.") from error


def span(
    chat: Chat,
    name: str,
    config: LineConfig,
    measurer: Measurer,
    ends: Sequence[End] = (),
    *,
    seed: int | None = None,
) -> Span:
    """The line or plane called `name` through a model.

    Args:
        chat: The model, at the origin.
        name: One of `PLANES`.
        config: Seed, `norm`, and whether to save memory.
        measurer: Knows the inner products of directions that were drawn before.
        ends: The other models, as many as the plane needs.
        seed: Of the first random direction, if not the config's; a second one's is `seed_of(seed, 1)`.

    Raises:
        Mistake: An end is of another architecture or not finite; two models are identical; directions are parallel;
            there are too few ends.
    """
    for end in ends:
        check_fits(chat, end)
        if directions.norm(chat.weights, Difference(end.weights)) == 0:
            raise Mistake(
                f"{end.named} {end.uri!r}, which has the same weights as {chat.uri!r}: a direction of length zero. "
                "Give two models that differ."
            )
    if name == "2d-pca":
        return _components(chat, ends)
    n_ends = AXES[name].count("difference")
    if len(ends) != n_ends:
        raise Mistake(f"plane={name} is spanned by {n_ends} other models, got {len(ends)}. Check `to`.")
    drawn = _drawn(chat, name, config, ends, config.seed if seed is None else seed)
    spanning, about = [direction for direction, _ in drawn], [notes for _, notes in drawn]
    products = measurer.products(chat, spanning)
    lengths = [math.sqrt(products[index, index]) for index in range(len(spanning))]
    if len(spanning) == 2:
        cosine = float(products[0, 1]) / (lengths[0] * lengths[1])
        about[1]["angle"] = math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
        # The second axis gets the length of the first. Only a random direction next to a difference keeps its own:
        # the difference is hundreds of times shorter, and a random step of that length would show nothing.
        if name != "2d-interpolation-random":
            lengths[1] = lengths[0]
        spanning[1] = _orthogonal(chat, name, spanning, ends, lengths[1])
    for notes, length in zip(about, lengths, strict=True):
        notes["relative_norm"] = length / chat.norm
    return Span(name, tuple(spanning), tuple(about), chat.weights, tuple(ends))


def check_fits(chat: Chat, end: End) -> None:
    """Raise Mistake for a model that is of another architecture than `chat`, or not finite."""
    try:
        Difference(end.weights).check(chat.weights)
    except ValueError as error:
        raise Mistake(f"{end.named} {end.uri!r}, which does not fit {chat.uri!r}: {error}") from error


def _drawn(
    chat: Chat, name: str, config: LineConfig, ends: Sequence[End], seed: int
) -> list[tuple[Direction, dict[str, Any]]]:
    """The directions of a plane before they are made orthogonal, each with what results keep of it."""
    unused, numbers = iter(ends), count()
    drawn: list[tuple[Direction, dict[str, Any]]] = []
    for kind in AXES[name]:
        if kind == "difference":
            end = next(unused)
            drawn.append((Difference(end.weights), {"kind": kind, "to": end.uri}))
        else:
            own = directions.seed_of(seed, next(numbers))
            random: Direction = RandomDirection(seed=own, norm=config.norm)
            kept = random if config.lean else Materialized(random, chat.weights)
            drawn.append((kept, {"kind": kind, "seed": own, "norm": config.norm}))
    return drawn


def _orthogonal(
    chat: Chat, name: str, spanning: Sequence[Direction], ends: Sequence[End], length: float
) -> Combination:
    """The second direction made orthogonal to the first, and rescaled to `length`."""
    first, second = spanning
    try:
        found = directions.orthogonal(chat.weights, second, to=first, length=length)
        rest = length / found.parts[0][0]
        if rest <= ROUNDING * chat.norm:
            raise Mistake(f"Only {rest:.3g} of the second is left, which rounding of the weights explains.")
    except ValueError as error:
        between = " and ".join(repr(end.uri) for end in ends) or "two random directions"
        raise Mistake(
            f"plane={name}: the directions from {chat.uri!r} to {between} are parallel and span only a line. Give "
            "models that differ, or use plane=1d-interpolation."
        ) from error
    return found


def _components(chat: Chat, ends: Sequence[End]) -> Span:
    """The plane of the two largest principal components of the ways to the ends."""
    if len(ends) < 3:
        raise Mistake(
            f"plane=2d-pca needs at least 3 checkpoints besides the model itself, got {len(ends)}. Name more in `to`, "
            "give more runs, or use plane=2d-interpolation or 1d-interpolation."
        )
    try:
        found = components(chat.weights, [Difference(end.weights) for end in ends])
        if found[1].spread <= math.sqrt(len(ends)) * ROUNDING * chat.norm:
            raise Mistake(
                "The models span only 1 dimensions, but for what rounding of the weights explains: they are identical "
                "or lie on one line. Use models that differ."
            )
    except ValueError as error:
        raise Mistake(f"plane=2d-pca of {', '.join(end.uri for end in ends)}: {error}") from error
    about = tuple(
        {
            "kind": "component",
            "relative_norm": relative_norm(chat, each.direction),
            "explained_variance": each.explained_variance,
            "share_from_origin": each.share_from_origin,
        }
        for each in found
    )
    return Span("2d-pca", tuple(each.direction for each in found), about, chat.weights, tuple(ends))
