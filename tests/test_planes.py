"""Planes through a model that is really aligned: orthogonal, exact where promised, and read back where they point."""

import dataclasses
import math

import pytest
import torch
from moved import on_the_way
from vectors import cosine

from visage_mlflow.config.grid import AXES, PLANES, PlaneConfig
from visage_mlflow.geometry.directions import Difference, Materialized, RandomDirection, norm
from visage_mlflow.geometry.perturb import perturbed
from visage_mlflow.language import models
from visage_mlflow.language.models import Chat
from visage_mlflow.studies import spans
from visage_mlflow.studies.spans import End

N_ENDS = {"1d-interpolation": 1, "2d-interpolation": 2, "2d-interpolation-random": 1, "2d-pca": 4}
FLAT = [name for name in PLANES if name.startswith("2d")]
CONFIG = PlaneConfig(n_points=5)


@pytest.fixture(scope="module")
def ends(chat, base):
    """The unaligned model, and three that lie off the way to it."""
    others = [on_the_way(chat, base, share, off) for share, off in ((0.4, 0.5), (0.8, 0.1), (-0.3, 0.2))]
    weights = [base.weights, *others]
    return [End(f"model-{index}", each) for index, each in enumerate(weights)]


@pytest.fixture(scope="module")
def spanned(chat, ends):
    """Each plane, by name."""
    return {name: spans.span(chat, name, CONFIG, ends[: N_ENDS.get(name, 0)]) for name in PLANES}


def copy_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def bitwise(left, right):
    return all(torch.equal(left[name].view(torch.uint8), right[name].view(torch.uint8)) for name in left)


def held_at(chat, plane, steps):
    """The weights of the model while it is held somewhere on a plane; it is left as it was."""
    before = copy_of(chat.model)
    with perturbed(chat.model, plane.directions, steps, weights=chat.weights):
        held = copy_of(chat.model)
    assert bitwise(copy_of(chat.model), before)
    return held


# Angles and lengths


@pytest.mark.parametrize("name", FLAT)
def test_the_second_direction_is_orthogonal_to_the_first_over_all_weights_together(chat, spanned, name):
    first, second = spanned[name].directions
    assert abs(cosine(chat.weights, first, second)) < 1e-6
    # The same without any of our own sums: each direction as one float64 vector.
    x, y = (
        torch.cat([each.displacement(n, w).flatten() for n, w in chat.weights.items()]) for each in (first, second)
    )
    assert abs(float(x @ y / x.norm() / y.norm())) < 1e-6


@pytest.mark.parametrize("name", ["2d-random", "2d-interpolation", "2d-pca"])
def test_both_directions_are_equally_long(chat, spanned, name):
    first, second = (norm(chat.weights, each) for each in spanned[name].directions)
    assert second == pytest.approx(first, rel=1e-9)


def test_a_random_direction_beside_a_difference_keeps_its_own_length(chat, spanned, base):
    first, second = spanned["2d-interpolation-random"].directions
    own = norm(chat.weights, RandomDirection(seed=0))
    assert norm(chat.weights, second) == pytest.approx(own, rel=1e-9)
    assert norm(chat.weights, first) == norm(chat.weights, Difference(base.weights))
    assert own > 5 * norm(chat.weights, first)


def test_components_are_as_long_as_the_longest_way(chat, spanned, ends):
    longest = max(norm(chat.weights, Difference(end.weights)) for end in ends)
    for each in spanned["2d-pca"].directions:
        assert norm(chat.weights, each) == pytest.approx(longest, rel=1e-9)


def test_what_results_keep_of_each_axis_is_what_was_measured_on_it(chat, base, ends, spanned):
    length = math.sqrt(sum(float(w.double().square().sum()) for w in chat.weights.values()))
    for name, plane in spanned.items():
        assert [about["kind"] for about in plane.about] == list(AXES[name]) and plane.name == name
        for about, direction in zip(plane.about, plane.directions, strict=True):
            assert about["relative_norm"] == pytest.approx(norm(chat.weights, direction) / length, rel=1e-9)
    assert [about["seed"] for about in spanned["2d-random"].about] == [0, 1]
    assert [about["to"] for about in spanned["2d-interpolation"].about] == ["model-0", "model-1"]
    assert spanned["2d-interpolation-random"].about[1]["seed"] == 0
    first, second = (Difference(end.weights) for end in ends[:2])
    angle = math.degrees(math.acos(cosine(chat.weights, first, second)))
    # model-1 is 0.4 along the way and 0.5 aside: its angle is atan(0.5 / 0.4).
    assert spanned["2d-interpolation"].about[1]["angle"] == pytest.approx(angle) == pytest.approx(51.34, abs=0.01)
    assert [about.get("angle") for about in spanned["2d-pca"].about] == [None, None]
    shares = [about["explained_variance"] for about in spanned["2d-pca"].about]
    assert 1 >= shares[0] > shares[1] > 0 and sum(shares) <= 1 + 1e-12


def test_a_relative_norm_of_1_is_as_long_as_the_weights(chat):
    double = Difference({name: 2 * weight for name, weight in chat.weights.items()})
    assert spans.relative_norm(chat, double) == pytest.approx(1.0)


# Places


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["1d-interpolation", "2d-interpolation", "2d-interpolation-random"])
def test_step_1_along_a_difference_is_the_other_model_bit_for_bit(aligned_folder, base_folder, ends, name, dtype):
    chat, base = (models.load(str(folder), dtype=dtype) for folder in (aligned_folder, base_folder))
    plane = spans.span(chat, name, CONFIG, [End("base", base.weights), *ends[1:]][: N_ENDS[name]])
    steps = (1.0, 0.0)[: len(plane.directions)]
    assert bitwise(held_at(chat, plane, steps), copy_of(base.model))


@pytest.mark.parametrize("name", ["1d-interpolation", "2d-interpolation", "2d-interpolation-random"])
def test_the_first_end_is_marked_at_step_1_and_no_farther_than_rounding(spanned, name):
    mark = spanned[name].marks[0]
    assert (mark.x, mark.y) == pytest.approx((1, 0), abs=1e-12) and mark.uri == "model-0"


def test_the_corner_of_the_plane_at_the_second_mark_is_the_second_model_to_rounding(chat, ends, spanned):
    plane = spanned["2d-interpolation"]
    mark = plane.marks[1]
    # 0.4 along the way and 0.5 aside, in units of the first one's length.
    assert (mark.x, mark.y) == pytest.approx((0.4, 0.5), abs=1e-6) and mark.uri == "model-1"
    held, end = held_at(chat, plane, (mark.x, mark.y)), ends[1].weights
    differing = sum(int((held[name] != end[name]).sum()) for name in end)
    assert differing <= sum(weight.numel() for weight in end.values()) / 1000
    for name, weight in end.items():
        # A float32 is half a step off at most; the sums it comes from are good to 1e-15 of what they add up.
        steps = torch.nextafter(weight.abs(), torch.tensor(math.inf)) - weight.abs()
        sizes = 1e-14 * (chat.weights[name].abs() + base_size(ends, name) + weight.abs())
        assert ((held[name] - weight).abs() <= torch.maximum(steps, sizes)).all()


def base_size(ends, name):
    return ends[0].weights[name].abs()


@pytest.mark.parametrize("steps", [(0.5, -0.25), (-1.3, 0.7), (0.0, 1.0)])
@pytest.mark.parametrize("name", PLANES)
def test_projecting_a_point_of_the_plane_gives_its_steps_and_nothing_off_it(chat, spanned, name, steps):
    plane = spanned[name]
    steps = steps[: len(plane.directions)]
    place = plane.geometry.project(held_at(chat, plane, steps))
    expected = (*steps, 0.0)[:2]
    assert (place.x, place.y) == pytest.approx(expected, abs=1e-5)
    assert place.off_plane_share < 1e-5


def test_the_model_itself_is_at_the_origin_of_every_plane(chat, spanned):
    for plane in spanned.values():
        place = plane.geometry.project(chat.weights)
        assert (place.x, place.y, place.distance, place.off_plane_share) == (0, 0, 0, 0)


def test_marks_of_components_are_the_ends_projected(chat, spanned, ends):
    plane = spanned["2d-pca"]
    shares = 0.0
    for mark, end in zip(plane.marks, ends, strict=True):
        place = plane.geometry.project(end.weights)
        assert (mark.uri, mark.x, mark.y) == (end.uri, place.x, place.y)
        shares += (mark.x**2 + mark.y**2) * norm(chat.weights, plane.directions[0]) ** 2
    # What the components explain is the squared length of the marks, as a share of that of the ways.
    ways = sum(norm(chat.weights, Difference(end.weights)) ** 2 for end in ends)
    assert sum(about["explained_variance"] for about in plane.about) == pytest.approx(shares / ways, rel=1e-9)
    assert plane.marks[-1].x >= 0 and plane.marks[-1].y >= 0


def test_random_planes_have_no_marks(spanned):
    assert spanned["1d-random"].marks == () == spanned["2d-random"].marks


@pytest.mark.parametrize("name", PLANES)
def test_saving_memory_gives_the_same_plane_to_the_last_bit(chat, ends, spanned, name):
    lean = spans.span(chat, name, dataclasses.replace(CONFIG, lean=True), ends[: N_ENDS.get(name, 0)])
    assert lean.about == spanned[name].about and lean.marks == spanned[name].marks
    steps = (0.3, -0.2)[: len(lean.directions)]
    assert bitwise(held_at(chat, lean, steps), held_at(chat, spanned[name], steps))
    kinds = {type(direction) for plane in (lean,) for direction in plane.directions}
    assert Materialized not in kinds


def test_seeds_and_norms_decide_random_directions(chat):
    by_row = spans.span(chat, "2d-random", PlaneConfig(n_points=3, norm="row", seed=7))
    assert [(about["seed"], about["norm"]) for about in by_row.about] == [(7, "row"), (8, "row")]
    line = spans.span(chat, "1d-random", PlaneConfig(n_points=3, seed=7), seed=9)
    assert line.about[0]["seed"] == 9
    name = "model.layers.0.mlp.up_proj.weight"
    weight = chat.weights[name]
    assert torch.equal(line.directions[0].delta(name, weight), RandomDirection(seed=9).delta(name, weight))


# Grids


def test_random_axes_reach_as_far_each_way_as_they_are_told(spanned):
    config = PlaneConfig(n_points=5, extent=0.8, y_n_points=3, y_extent=0.1)
    assert spanned["2d-random"].grid_axes(config) == [[-0.8, -0.4, 0.0, 0.4, 0.8], [-0.1, 0.0, 0.1]]
    assert spanned["2d-interpolation-random"].grid_axes(config) == [[-0.5, 0.0, 0.5, 1.0, 1.5], [-0.1, 0.0, 0.1]]
    assert all(type(step) is float for axis in spanned["2d-random"].grid_axes(config) for step in axis)


@pytest.mark.parametrize("name", ["1d-interpolation", "2d-interpolation", "2d-interpolation-random", "2d-pca"])
@pytest.mark.parametrize("extra", [0.1, 0.5])
def test_grids_hold_the_model_exactly_and_all_that_spans_them(spanned, name, extra):
    plane = spanned[name]
    places = [(-2.5, 0.0), (0.2, 0.9)]
    for held in ([], places):
        axes = plane.grid_axes(PlaneConfig(n_points=7, y_n_points=9, extra=extra), held)
        assert [len(axis) for axis in axes] == [7, 9][: len(axes)] and all(0.0 in axis for axis in axes)
        for index, axis in enumerate(axes):
            if AXES[name][index] != "random":
                coordinates = [(mark.x, mark.y)[index] for mark in plane.marks] + [place[index] for place in held]
                assert axis[0] <= min(coordinates) and max(coordinates) <= axis[-1]


def test_the_grid_of_an_interpolation_holds_the_other_model_exactly(spanned):
    for name in ("1d-interpolation", "2d-interpolation", "2d-interpolation-random"):
        assert 1.0 in spanned[name].grid_axes(PlaneConfig(n_points=7, extra=0.3))[0]


def test_a_line_that_ends_at_the_other_model_ends_there_exactly():
    # The other model's place is 1 but for the rounding of a quotient, on either side of 1.
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        weights, end = ({"w": torch.randn(5, generator=generator)} for _ in range(2))
        line = spans.span(Chat("a", weights, None, None), "1d-interpolation", CONFIG, [End("b", end)])
        assert line.grid_axes(PlaneConfig(n_points=5, extra=0.0)) == [[0.0, 0.25, 0.5, 0.75, 1.0]]
