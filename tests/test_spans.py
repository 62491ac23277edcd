"""Planes through a model that is really aligned: orthogonal, exact where promised, or refused."""

import dataclasses
import math

import pytest
import torch
from moved import bitwise, copy_of, on_the_way

from visage_mlflow.config import ComputeConfig, LandscapeConfig
from visage_mlflow.config.grid import AXES, PLANES, PlaneConfig
from visage_mlflow.geometry.directions import Difference, Materialized, RandomDirection, inner, norm, seed_of
from visage_mlflow.language import models
from visage_mlflow.language.models import Chat
from visage_mlflow.measuring.measure import Held, Measurer
from visage_mlflow.studies import landscape, spans
from visage_mlflow.studies.spans import End
from visage_mlflow.text.errors import Mistake

N_ENDS = {"1d-interpolation": 1, "2d-interpolation": 2, "2d-interpolation-random": 1, "2d-pca": 4}
INTERPOLATIONS = ["1d-interpolation", "2d-interpolation", "2d-interpolation-random"]
FLAT = [name for name in PLANES if name.startswith("2d")]
CONFIG = PlaneConfig(n_points=5, store="off")
OFF = Measurer(ComputeConfig(store="off"))
UP = "model.layers.1.mlp.up_proj.weight"


def cosine(weights, one, other):
    return inner(weights, one, other) / (norm(weights, one) * norm(weights, other))


@pytest.fixture(scope="module")
def ends(chat, base):
    """The unaligned model, and three that lie off the way to it."""
    others = [on_the_way(chat, base, share, off) for share, off in ((0.4, 0.5), (0.8, 0.1), (-0.3, 0.2))]
    return [End(f"end-{index}", weights) for index, weights in enumerate([base.weights, *others])]


@pytest.fixture(scope="module")
def spanned(chat, ends):
    """Each plane, by name."""
    return {name: spans.span(chat, name, CONFIG, OFF, ends[: N_ENDS.get(name, 0)]) for name in PLANES}


def held_at(chat, plane, steps):
    """The weights of the model while it is held somewhere on a plane."""
    with Held(plane.directions, steps).by(chat):
        return copy_of(chat.model)


# Angles and lengths


@pytest.mark.parametrize("name", FLAT)
def test_the_second_direction_is_orthogonal_to_the_first_over_all_weights_together(chat, spanned, name):
    # Without any of our own sums: each direction as one float64 vector.
    x, y = (
        torch.cat([each.displacement(n, w).flatten() for n, w in chat.weights.items()])
        for each in spanned[name].directions
    )
    assert abs(float(x @ y / x.norm() / y.norm())) < 1e-6
    if name != "2d-interpolation-random":
        assert float(y.norm()) == pytest.approx(float(x.norm()), rel=1e-9)


def test_a_random_direction_beside_a_difference_keeps_its_own_length_and_components_have_the_longest(
    chat, ends, spanned
):
    own = norm(chat.weights, spanned["2d-interpolation-random"].directions[1])
    assert own == pytest.approx(norm(chat.weights, RandomDirection(seed=0)), rel=1e-9)
    longest = max(norm(chat.weights, Difference(end.weights)) for end in ends)
    assert norm(chat.weights, spanned["2d-pca"].directions[0]) == pytest.approx(longest, rel=1e-9)


def test_what_results_keep_of_each_axis_is_what_was_measured_on_it(chat, ends, spanned):
    length = math.sqrt(sum(float(w.double().square().sum()) for w in chat.weights.values()))
    for name, plane in spanned.items():
        assert [about["kind"] for about in plane.about] == list(AXES[name]) and plane.name == name
        for about, direction in zip(plane.about, plane.directions, strict=True):
            assert about["relative_norm"] == pytest.approx(norm(chat.weights, direction) / length, rel=1e-9)
    assert [about["seed"] for about in spanned["2d-random"].about] == [0, seed_of(0, 1)]
    assert [about["to"] for about in spanned["2d-interpolation"].about] == ["end-0", "end-1"]
    assert spanned["2d-interpolation-random"].about[1]["seed"] == 0
    first, second = (Difference(end.weights) for end in ends[:2])
    angle = math.degrees(math.acos(cosine(chat.weights, first, second)))
    # end-1 is 0.4 along the way and 0.5 aside: its angle is atan(0.5 / 0.4).
    assert spanned["2d-interpolation"].about[1]["angle"] == pytest.approx(angle) == pytest.approx(51.34, abs=0.01)
    assert [about.get("angle") for about in spanned["2d-pca"].about] == [None, None]
    shares = [about["share_from_origin"] for about in spanned["2d-pca"].about]
    assert 1 >= shares[0] > shares[1] > 0 and sum(shares) <= 1 + 1e-12


def test_seeds_and_norms_decide_random_directions(chat):
    by_row = spans.span(chat, "2d-random", dataclasses.replace(CONFIG, norm="row", seed=7), OFF)
    assert [(about["seed"], about["norm"]) for about in by_row.about] == [(7, "row"), (seed_of(7, 1), "row")]
    line = spans.span(chat, "1d-random", dataclasses.replace(CONFIG, seed=7), OFF, seed=9)
    assert line.about[0]["seed"] == 9
    own = RandomDirection(seed=9).delta(UP, chat.weights[UP])
    assert torch.equal(line.directions[0].delta(UP, chat.weights[UP]), own)


# Places


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_step_1_along_a_difference_is_the_other_model_bit_for_bit(aligned_folder, base_folder, ends, name, dtype):
    chat, base = (models.load(str(folder), dtype=dtype) for folder in (aligned_folder, base_folder))
    plane = spans.span(chat, name, CONFIG, OFF, [End("base", base.weights), *ends[1:]][: N_ENDS[name]])
    before, steps = copy_of(chat.model), (1.0, 0.0)[: len(plane.directions)]
    assert bitwise(held_at(chat, plane, steps), copy_of(base.model)) and bitwise(copy_of(chat.model), before)
    assert plane.marks[0].uri == "base" and (plane.marks[0].x, plane.marks[0].y) == pytest.approx((1, 0), abs=1e-12)


def test_the_corner_of_the_plane_at_the_second_mark_is_the_second_model_to_rounding(chat, ends, spanned):
    plane, mark, end = spanned["2d-interpolation"], spanned["2d-interpolation"].marks[1], ends[1].weights
    # 0.4 along the way and 0.5 aside, in units of the first one's length.
    assert (mark.x, mark.y) == pytest.approx((0.4, 0.5), abs=1e-6) and mark.uri == "end-1"
    held = held_at(chat, plane, (mark.x, mark.y))
    differing = sum(int((held[name] != end[name]).sum()) for name in end)
    assert differing <= sum(weight.numel() for weight in end.values()) / 1000
    for name, weight in end.items():
        # A float32 is half a step off at most; the sums it comes from are good to 1e-15 of what they add up.
        steps = torch.nextafter(weight.abs(), torch.tensor(math.inf)) - weight.abs()
        sizes = 1e-14 * (chat.weights[name].abs() + ends[0].weights[name].abs() + weight.abs())
        assert ((held[name] - weight).abs() <= torch.maximum(steps, sizes)).all()


def test_a_bfloat16_model_is_rounded_once_from_its_float32_weights(aligned_folder):
    coarse, direction = models.load(str(aligned_folder), dtype="bfloat16"), RandomDirection(seed=3)
    held = held_at(coarse, spans.span(coarse, "1d-random", CONFIG, OFF, seed=3), (-0.25,))[UP]
    weight = coarse.weights[UP]
    ((scale, noise),) = direction.terms(UP, weight)
    assert weight.dtype == torch.float32 and not torch.equal(weight, weight.bfloat16().float())
    assert torch.equal(held, (weight.double() + (-0.25 * scale) * noise.double()).bfloat16())


@pytest.mark.parametrize("steps", [(0.5, -0.25), (-1.3, 0.7), (0.0, 0.0)])
@pytest.mark.parametrize("name", PLANES)
def test_projecting_a_point_of_the_plane_gives_its_steps_and_nothing_off_it(chat, spanned, name, steps):
    plane = spanned[name]
    steps = steps[: len(plane.directions)]
    place = plane.geometry.project(held_at(chat, plane, steps))
    assert (place.x, place.y) == pytest.approx((*steps, 0.0)[:2], abs=1e-5) and place.off_plane_share < 1e-5


def test_marks_of_components_are_the_ends_projected_and_random_planes_have_none(spanned, ends):
    plane = spanned["2d-pca"]
    places = [plane.geometry.project(end.weights) for end in ends]
    assert [(mark.x, mark.y) for mark in plane.marks] == [(place.x, place.y) for place in places]
    assert [mark.uri for mark in plane.marks] == [end.uri for end in ends]
    assert spanned["1d-random"].marks == () == spanned["2d-random"].marks


@pytest.mark.parametrize("name", PLANES)
def test_saving_memory_gives_the_same_plane_to_the_last_bit(chat, ends, spanned, name):
    lean = spans.span(chat, name, dataclasses.replace(CONFIG, lean=True), OFF, ends[: N_ENDS.get(name, 0)])
    assert lean.about == spanned[name].about and lean.marks == spanned[name].marks
    assert not any(isinstance(direction, Materialized) for direction in lean.directions)
    steps = (0.3, -0.2)[: len(lean.directions)]
    assert bitwise(held_at(chat, lean, steps), held_at(chat, spanned[name], steps))


# Grids


def test_random_axes_reach_as_far_each_way_as_they_are_told(spanned):
    config = PlaneConfig(n_points=5, extent=0.8, y_n_points=3, y_extent=0.1)
    assert spanned["2d-random"].grid_axes(config) == [[-0.8, -0.4, 0.0, 0.4, 0.8], [-0.1, 0.0, 0.1]]
    assert spanned["2d-interpolation-random"].grid_axes(config) == [[-0.5, 0.0, 0.5, 1.0, 1.5], [-0.1, 0.0, 0.1]]
    assert all(type(step) is float for axis in spanned["2d-random"].grid_axes(config) for step in axis)


@pytest.mark.parametrize("name", N_ENDS)
@pytest.mark.parametrize("extra", [0.1, 0.5])
@pytest.mark.parametrize("places", [[], [(-2.5, 0.0), (0.2, 0.9)]], ids=["ends", "places"])
def test_grids_hold_the_model_exactly_and_all_that_must_lie_on_them(spanned, name, extra, places):
    plane = spanned[name]
    axes = plane.grid_axes(PlaneConfig(n_points=7, y_n_points=9, extra=extra), places)
    assert [len(axis) for axis in axes] == [7, 9][: len(axes)] and all(0.0 in axis for axis in axes)
    assert name == "2d-pca" or 1.0 in axes[0]
    for index, axis in enumerate(axes):
        if AXES[name][index] != "random":
            coordinates = [(mark.x, mark.y)[index] for mark in plane.marks] + [place[index] for place in places]
            assert axis[0] <= min(coordinates) and max(coordinates) <= axis[-1]


def test_a_line_that_ends_at_the_other_model_ends_there_exactly():
    # The other model's place is 1 but for the rounding of a quotient, on either side of 1.
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        weights, end = ({"w": torch.randn(5, generator=generator)} for _ in range(2))
        line = spans.span(Chat("a", weights, None, None), "1d-interpolation", CONFIG, OFF, [End("b", end)])
        assert line.grid_axes(PlaneConfig(n_points=5, extra=0.0)) == [[0.0, 0.25, 0.5, 0.75, 1.0]]


# What cannot span a plane


@pytest.fixture
def refusal(chat):
    """A function that spans a plane, which must fail: the error's message, one line."""

    def span(plane, weights, start=chat, named="`to` is"):
        ends = [End(f"end-{index}", each, named) for index, each in enumerate(weights)]
        with pytest.raises(Mistake) as caught:
            spans.span(start, plane, CONFIG, OFF, ends)
        message = str(caught.value)
        assert "\n" not in message and message.endswith("."), message
        return message

    return span


def test_a_landscape_that_has_no_plane_is_refused_before_anything_is_asked(chat, base, sets):
    asked = []
    prompts = str(sets / "harmful_eval.jsonl")
    config = LandscapeConfig(plane="2d-pca", to="a,b,c", prompts=prompts, n_prompts=2, store="off")
    with pytest.raises(Mistake, match="^plane=2d-pca"):
        measurer = Measurer(config, lambda: asked.append("a token"))
        landscape.measure(chat, config, ends=[End(uri, base.weights) for uri in "abc"], measurer=measurer)
    assert asked == []


def changed(weights, **values):
    """A copy of weights, some tensors replaced, or left out if None."""
    return {name: value for name, value in {**weights, **values}.items() if value is not None}


@pytest.mark.parametrize("plane", N_ENDS)
def test_a_model_that_does_not_fit_is_refused_with_its_name_and_the_tensors(chat, ends, refusal, plane):
    *others, last = [end.weights for end in ends[: N_ENDS[plane]]]
    for spoiled, what in ((None, "1 missing from the end weights"), (last[UP] / 0, "with NaN or infinity")):
        message = refusal(plane, [*others, changed(last, **{UP: spoiled})])
        assert message.startswith(f"`to` is 'end-{len(others)}', which does not fit {chat.uri!r}: ")
        assert what in message and f"({UP})" in message
        assert message.endswith("Both sides must be sound checkpoints of the same architecture.")


@pytest.mark.parametrize("plane", N_ENDS)
def test_a_model_whose_own_weights_are_not_finite_is_refused(chat, ends, refusal, plane):
    broken = dataclasses.replace(chat, weights=changed(chat.weights, **{UP: chat.weights[UP] / 0}))
    message = refusal(plane, [end.weights for end in ends[: N_ENDS[plane]]], start=broken)
    assert f"with NaN or infinity in the start weights ({UP})" in message


@pytest.mark.parametrize("plane", N_ENDS)
def test_a_direction_from_a_model_to_itself_is_refused(chat, ends, refusal, plane):
    others = [end.weights for end in ends[: N_ENDS[plane] - 1]]
    message = refusal(plane, [*others, changed(chat.weights)], named="A checkpoint is")
    start = f"A checkpoint is 'end-{len(others)}', which has the same weights as {chat.uri!r}"
    assert message.startswith(start) and message.endswith("Give two models that differ.")


def exactly_on_the_way(chat, base, share):
    """Weights at a share of the way, in float64, so that no rounding moves them off the line."""
    way = {name: base.weights[name].double() - weight.double() for name, weight in chat.weights.items()}
    return {name: weight.double() + share * way[name] for name, weight in chat.weights.items()}


def on_one_line(chat, base, shares, size):
    """Models on one line but for float32 rounding, or without any if `size` is None.

    As finetuning does, they differ from the base by a small share of its weights.
    """
    if size is None:
        return [exactly_on_the_way(chat, base, share) for share in shares]
    return [on_the_way(chat, base, share * size) for share in shares]


@pytest.mark.parametrize("share", [1.0, 0.5, -2.0])
@pytest.mark.parametrize("size", [None, 1.0, 0.1, 0.01])
def test_two_parallel_directions_are_refused_with_both_names(chat, base, refusal, share, size):
    message = refusal("2d-interpolation", on_one_line(chat, base, (1.0, share), size))
    assert message.startswith("plane=2d-interpolation:") and "parallel" in message
    assert "'end-0' and 'end-1'" in message and repr(chat.uri) in message
    assert message.endswith("Give models that differ, or use plane=1d-interpolation.")


@pytest.mark.parametrize("size", [None, 1.0, 0.1, 0.01])
@pytest.mark.parametrize("shares", [(1.0, 0.6, 0.3), (1.0, 1.0, 1.0)])
def test_checkpoints_on_one_line_have_no_plane_of_components(chat, base, refusal, shares, size):
    message = refusal("2d-pca", on_one_line(chat, base, shares, size))
    assert message.startswith("plane=2d-pca of end-0, end-1, end-2:") and "span only 1 dimensions" in message
    assert "Use models that differ." in message


@pytest.mark.parametrize(
    ("plane", "n_ends"),
    [("1d-interpolation", 0), ("1d-interpolation", 2), ("2d-interpolation", 1), ("2d-interpolation", 3)]
    + [("2d-interpolation-random", 0), ("2d-interpolation-random", 2), ("1d-random", 1), ("2d-random", 1)]
    + [("2d-pca", 0), ("2d-pca", 2)],
)
def test_a_wrong_number_of_models_is_refused(ends, refusal, plane, n_ends):
    message = refusal(plane, [end.weights for end in ends[:n_ends]])
    wanted = "needs at least 3 checkpoints" if plane == "2d-pca" else "is spanned by "
    assert message.startswith(f"plane={plane} {wanted}") and f"got {n_ends}" in message and "`to`" in message
