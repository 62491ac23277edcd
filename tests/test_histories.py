"""What becomes a metric history: each number at its step."""

import dataclasses
import math

import made
import pytest

from visage_mlflow.tracking import histories

NAN = math.nan


def same(one, other):
    """Equal, NaN for NaN."""
    return repr(one) == repr(other)


def test_the_asr_along_a_line_stands_at_its_position_in_percent():
    found = histories.along(made.landscape((100.0, 25.0, 0.0, 50.0, 75.0)))
    assert [step for step, _ in found] == [-50, -25, 0, 25, 50]
    assert found[1] == (-25, {"asr": 25.0, "coherent_asr": 25.0})


def test_a_point_that_was_skipped_has_no_place_and_one_that_could_not_be_judged_is_nan():
    line = made.landscape((100.0, 25.0, 0.0))
    points = (made.point(-0.5, NAN), made.point(0.0, 0.0), made.skipped(0.5))
    found = histories.along(dataclasses.replace(line, points=points))
    assert same(found, [(-50, {"asr": NAN, "coherent_asr": NAN}), (0, {"asr": 0.0, "coherent_asr": 0.0})])


def test_of_a_plane_the_row_through_the_model_is_the_history():
    found = histories.along(made.plane_landscape())
    # The middle one of three rows: 50, 0, 25, not judged; x from -0.5 to 1.5.
    assert [step for step, _ in found] == [-50, 17, 83, 150]
    assert same([numbers["asr"] for _, numbers in found], [50.0, 0.0, 25.0, NAN])


def test_the_mean_of_several_directions_stands_at_their_positions():
    found = histories.mean_along(made.visage(((100.0, 20.0, 0.0, 0.0, 80.0), (100.0, 40.0, 0.0, 100.0, 100.0))))
    assert [step for step, _ in found] == [-50, -25, 0, 25, 50]
    assert [numbers for _, numbers in found] == [{"asr": asr} for asr in (100.0, 30.0, 0.0, 50.0, 90.0)]


def test_a_checkpoint_stands_at_its_training_step_with_its_own_asr_and_that_of_the_plane():
    found = histories.places(made.trajectory())
    assert [step for step, _ in found] == [4, 8, 12]
    assert found[0][1] == pytest.approx(
        {"x": 0.5, "y": 0.0, "distance": 0.002, "off_plane_distance": 0.0012, "off_plane_share": 0.6,
         "checkpoint_asr": 25.0, "plane_asr": 20.0}
    )  # fmt: skip
    assert math.isnan(found[1][1]["checkpoint_asr"])


def test_numbers_of_several_finetunings_begin_with_whose_they_are():
    found = histories.places(made.plane_trajectory())
    assert [step for step, _ in found] == [4, 8, 4, 8, 8]
    for (_, numbers), index in zip(found, (0, 0, 1, 1, 2), strict=True):
        assert all(name.startswith(f"trajectory_{index}_") for name in numbers) and len(numbers) == 7
    assert found[2][1]["trajectory_1_x"] == 0.2


def test_the_margin_of_one_finetuning_has_a_plain_name():
    assert histories.margins(made.trajectory()) == pytest.approx(
        {
            "margin": -0.4,
            "margin_low": -0.48,
            "margin_high": -0.32,
            "edge": 0.0012,
            "random_edge": 0.0004,
            "edge_starts_outside": 0,
            "edge_open": 0,
            "edge_high_open": 0,
            "edge_crossings": 0,
            "edge_asr_falls": 0,
            "random_edge_starts_outside": 0,
            "random_edge_open": 0,
            "random_edge_high_open": 0,
            "random_edge_crossings": 0,
            "random_edge_asr_falls": 0,
        }
    )


def test_a_finetuning_without_an_edge_has_no_margin_and_without_a_random_edge_there_is_none():
    several = histories.margins(made.plane_trajectory())
    names = {"margin", "margin_low", "margin_high", "edge", "edge_open", "edge_crossings", "edge_asr_falls"}
    for index in (0, 1):
        assert {f"trajectory_{index}_{name}" for name in names} <= set(several)
    assert not [name for name in several if name.startswith("trajectory_2_")]
    assert (several["trajectory_0_edge_open"], several["trajectory_1_edge_open"]) == (0.0, 1.0)
    assert several["trajectory_1_margin"] == 3.0
    bare = dataclasses.replace(made.plane_trajectory(), random_edge=None, courses=made.plane_trajectory().courses[2:])
    assert histories.margins(bare) == {}


def test_a_trajectory_of_no_finetuning_has_no_history():
    assert histories.places(dataclasses.replace(made.trajectory(), courses=())) == []


def test_a_model_that_is_outside_itself_has_no_margin_in_the_numbers():
    edge = dataclasses.replace(made.edge(0.0), distance=0.0, resolution=0.25)
    numbers = histories.margin(edge, "harmful_")
    assert numbers["harmful_edge_starts_outside"] == 1.0 and "harmful_margin" not in numbers
    assert numbers["harmful_edge_resolution"] == 0.25


@pytest.mark.parametrize(("extent", "n", "unit"), [(0.02, 21, 1000), (0.5, 401, 1000), (0.5, 21, 100)])
def test_no_two_points_share_a_step(extent, n, unit):
    asr = (50.0,) * n
    steps = made.evenly(-extent, extent, n)
    points = tuple(map(made.point, steps, asr))
    line = dataclasses.replace(made.landscape(asr), axes=(made.random_axis(steps),), points=points)
    found = [step for step, _ in histories.along(line)]
    assert len(set(found)) == n and found[-1] == round(unit * extent)


def test_a_mean_that_was_not_measured_has_no_place():
    found = histories.mean_along(made.visage())
    assert [step for step, _ in found] == [-50, -25, 0, 50]
