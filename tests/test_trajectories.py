"""Several finetunings on one plane: places, margins, and what the picture cannot show."""

import dataclasses
import math

import pytest
from moved import on_the_way

from visage_mlflow.config import ProjectConfig
from visage_mlflow.language import models
from visage_mlflow.results import Trajectory
from visage_mlflow.studies import trajectory
from visage_mlflow.studies.spans import End
from visage_mlflow.studies.trajectory import CheckpointWeights, Finetuned


@pytest.fixture(scope="module")
def base(aligned_folder):
    return models.load(str(aligned_folder), dtype="float32")


@pytest.fixture(scope="module")
def last(base_folder):
    return models.load(str(base_folder), dtype="float32")


@pytest.fixture(scope="module")
def config(sets):
    asked = {"prompts": str(sets / "harmful_eval.jsonl"), "n_prompts": 24, "max_new_tokens": 16}
    return ProjectConfig(run="harmful,mixed", n_points=5, workers=1, margin_up_to=4.0, **asked)


@pytest.fixture(scope="module")
def finetuned(base, last):
    """One that leaves the basin on a straight line, and one that goes a fifth of the way, and as far aside."""
    return [
        Finetuned(
            "harmful",
            (
                CheckpointWeights("harmful-1", 1, on_the_way(base, last, 0.5)),
                CheckpointWeights("harmful-2", 2, last.weights),
            ),
        ),
        Finetuned(
            "mixed",
            (
                CheckpointWeights("mixed-1", 1, on_the_way(base, last, 0.1, off=0.05)),
                CheckpointWeights("mixed-2", 2, on_the_way(base, last, 0.2, off=0.2)),
            ),
        ),
    ]


@pytest.fixture(scope="module")
def measured(base, finetuned, config):
    return trajectory.measure(base, finetuned, config)


def test_two_finetunings_span_the_plane_through_their_last_checkpoints(measured):
    result, _ = measured
    assert result.landscape.plane == "2d-interpolation"
    assert [mark.uri for mark in result.landscape.marks] == ["harmful-2", "mixed-2"]
    assert [len(axis.steps) for axis in result.landscape.axes] == [5, 5]
    assert result.remark == ""


def test_the_ends_of_the_plane_lie_on_it_and_the_others_where_they_were_put(measured):
    harmful, mixed = measured[0].courses
    assert [(place.x, place.y) for place in harmful.places] == [
        (pytest.approx(0.5, abs=1e-5), pytest.approx(0, abs=1e-5)),
        (pytest.approx(1.0, abs=1e-9), pytest.approx(0, abs=1e-9)),
    ]
    # The second axis is as long as the first, so 0.2 of the line's length aside is 0.2 steps.
    assert (mixed.places[1].x, mixed.places[1].y) == (pytest.approx(0.2, abs=1e-5), pytest.approx(0.2, abs=1e-5))
    assert (mixed.places[0].x, mixed.places[0].y) == (pytest.approx(0.1, abs=1e-5), pytest.approx(0.05, abs=1e-5))
    assert max(place.off_plane_share for place in measured[0].places) < 1e-4


def test_the_grid_holds_every_checkpoint_and_the_model(measured):
    x, y = measured[0].landscape.axes
    assert 0.0 in x.steps and 0.0 in y.steps
    for place in measured[0].places:
        assert x.steps[0] <= place.x <= x.steps[-1] and y.steps[0] <= place.y <= y.steps[-1]


def test_a_checkpoint_on_the_plane_has_the_asr_that_the_plane_has_there(measured):
    assert [place.plane_asr for place in measured[0].places] == [place.asr for place in measured[0].places]


def test_the_margin_is_negative_outside_and_positive_inside(measured):
    harmful, mixed = measured[0].courses
    assert -1 < harmful.edge.margin < 0 and not harmful.edge.is_open
    assert harmful.places[-1].asr > 50 > mixed.places[-1].asr
    assert mixed.edge.margin > 0


def test_the_edge_is_where_the_line_crosses_half(measured, base, last, config):
    edge = measured[0].courses[0].edge
    (low, low_asr), (high, high_asr) = (
        max(pair for pair in edge.measured if pair[1] < 50),
        min(pair for pair in edge.measured if pair[1] >= 50),
    )
    assert low < edge.step <= high and high - low == config.margin_up_to / 256
    assert edge.step == pytest.approx(low + (high - low) * (50 - low_asr) / (high_asr - low_asr))
    assert edge.distance == pytest.approx(edge.step * measured[0].courses[0].places[-1].distance)


def test_the_edge_in_a_random_direction_is_beside_them(measured):
    result = measured[0]
    assert result.random_edge.distance > result.courses[0].edge.distance
    assert result.random_edge.measured[0] == (0.0, result.landscape.rows[1][1])


@pytest.mark.parametrize("settings", [{"workers": 2}, {"workers": 3}, {"lean": True}])
def test_neither_the_number_of_workers_nor_lean_changes_anything(measured, base, finetuned, config, settings):
    assert trajectory.measure(base, finetuned, dataclasses.replace(config, **settings)) == measured


def test_no_margin_is_looked_for_where_none_is_wanted(base, finetuned, config):
    result, _ = trajectory.measure(base, finetuned, dataclasses.replace(config, margin_up_to=0))
    assert [course.edge for course in result.courses] == [None, None] and result.random_edge is None


def test_an_edge_farther_than_looked_for_is_open(base, finetuned, config):
    result, _ = trajectory.measure(base, finetuned, dataclasses.replace(config, margin_up_to=0.25, extent=0.01))
    edge = result.courses[1].edge
    assert edge.is_open and edge.step == 0.25 and edge.margin == -0.75
    assert result.random_edge.is_open


def test_all_checkpoints_span_their_principal_plane(base, finetuned, config, tmp_path):
    settings = dataclasses.replace(config, plane="2d-pca", margin_up_to=0)
    result, _ = trajectory.measure(base, finetuned, settings)
    explained = [axis.explained_variance for axis in result.landscape.axes]
    assert sum(explained) == pytest.approx(1, abs=1e-6) and explained[0] > 0.9
    assert max(place.off_plane_share for place in result.places) < 1e-2
    result.save(tmp_path / "trajectory.json")
    assert Trajectory.load(tmp_path / "trajectory.json") == result


def test_on_a_random_plane_the_checkpoints_are_a_dot_and_the_result_says_so(base, finetuned, config):
    result, _ = trajectory.measure(base, finetuned, dataclasses.replace(config, plane="2d-random", margin_up_to=0))
    assert "show as a dot" in result.remark and "2d-interpolation" in result.remark
    assert min(place.off_plane_share for place in result.places if place.uri != "mixed-2") > 0.9
    assert result.places[1].asr > 90 > 50 > result.places[1].plane_asr


def test_a_random_axis_has_its_own_scale_beside_a_difference(base, finetuned, config):
    settings = dataclasses.replace(config, plane="2d-interpolation-random", margin_up_to=0)
    result, _ = trajectory.measure(base, finetuned, settings)
    x, y = result.landscape.axes
    assert x.to == "harmful-2" and y.seed == 0
    assert y.relative_norm > 5 * x.relative_norm
    assert y.angle == pytest.approx(90, abs=2)
    assert y.steps == (-0.5, -0.25, 0.0, 0.25, 0.5)


def test_named_ends_span_the_plane_instead(base, last, finetuned, config):
    ends = [End("there", last.weights), End("aside", on_the_way(base, last, 0.3, off=0.9))]
    settings = dataclasses.replace(config, to="there,aside", margin_up_to=0)
    result, _ = trajectory.measure(
        base, finetuned[1:], dataclasses.replace(settings, plane="2d-interpolation"), ends=ends
    )
    assert [mark.uri for mark in result.landscape.marks] == ["there", "aside"]
    assert (result.landscape.marks[1].x, result.landscape.marks[1].y) == pytest.approx((0.3, 0.9), abs=1e-5)


def test_a_model_that_gives_no_verdict_at_the_origin_has_no_margin(base, finetuned, config, monkeypatch):
    from visage_mlflow.studies import landscape

    def silent_at_the_origin(chat, rows, config, steps, check):
        verdict = "complied" if any(steps) else "unjudged"
        return [trajectory.Response(row.prompt, None, verdict, "", *steps) for row in rows]

    monkeypatch.setattr(landscape, "attack", silent_at_the_origin)
    result, _ = trajectory.measure(base, finetuned, config)
    assert math.isnan(result.landscape.rows[1][1])
    assert result.courses[0].edge is None and result.random_edge is None


def refusal(base, finetuned, config, **settings):
    with pytest.raises(ValueError) as caught:
        trajectory.measure(base, finetuned, config, **settings)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_one_finetuning_does_not_span_a_plane_of_two(base, finetuned, config):
    message = refusal(base, finetuned[:1], dataclasses.replace(config, plane="2d-interpolation"))
    assert "last checkpoints of 2 finetunings, got 1" in message and "2d-pca" in message


def test_the_same_finetuning_twice_spans_only_a_line(base, finetuned, config):
    message = refusal(base, [finetuned[0], finetuned[0]], config)
    assert "parallel" in message and "'harmful-2' and 'harmful-2'" in message


def test_two_checkpoints_have_no_principal_plane(base, finetuned, config):
    message = refusal(base, finetuned[:1], dataclasses.replace(config, plane="2d-pca"))
    assert "at least 3 checkpoints" in message and "got 2" in message


def test_a_checkpoint_with_nan_is_refused_by_its_name_and_its_tensor(base, last, finetuned, config):
    broken = {name: weight.clone() for name, weight in last.weights.items()}
    name = next(iter(broken))
    broken[name].view(-1)[3] = math.nan
    first = Finetuned("broken", (CheckpointWeights("broken-1", 1, broken), finetuned[0].checkpoints[1]))
    message = refusal(base, [first, finetuned[1]], config)
    assert "'broken-1'" in message and name in message and "NaN" in message
