"""Landscapes on planes of a small model that is really aligned: the same whoever measures them, in whatever order."""

import dataclasses
import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from moved import on_the_way

from visage_mlflow.config import LandscapeConfig
from visage_mlflow.config.grid import AXES
from visage_mlflow.geometry import score
from visage_mlflow.geometry.axes import grid, past_the_edge
from visage_mlflow.results import Landscape
from visage_mlflow.studies import crew as workers
from visage_mlflow.studies import landscape, spans
from visage_mlflow.studies.crew import Crew
from visage_mlflow.studies.evaluation import attack, harmful_rows
from visage_mlflow.studies.spans import End

ENDS = {"2d-random": 0, "2d-interpolation": 2, "2d-interpolation-random": 1, "2d-pca": 3}


@pytest.fixture(scope="module")
def ends(chat, base):
    others = [on_the_way(chat, base, 0.4, 0.5), on_the_way(chat, base, 0.8, -0.2)]
    return [End(f"end-{index}", weights) for index, weights in enumerate([base.weights, *others])]


@pytest.fixture(scope="module")
def asking(sets):
    return {"prompts": str(sets / "harmful_eval.jsonl"), "n_prompts": 12, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def measured(chat, ends, asking):
    """A function that measures a plane: (landscape, responses)."""

    def measure(plane, progress=None, **settings):
        n_ends = ENDS[plane]
        grid = {"n_points": 5, "extent": 1.0} | settings
        config = LandscapeConfig(plane=plane, to=",".join(end.uri for end in ends[:n_ends]), **grid, **asking)
        return landscape.measure(chat, config, ends=ends[:n_ends], progress=progress)

    return measure


@pytest.fixture(scope="module")
def whole(measured):
    """A plane along two random directions, all of it: the basin in the middle, noise at the rim."""
    return measured("2d-random", n_points=9, workers=1)


def copy_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def is_skipped(point):
    return not point.verdicts


# What a plane holds


@pytest.mark.parametrize("plane", ENDS)
def test_the_model_is_left_bit_for_bit_and_its_own_point_is_its_own_verdict(chat, measured, asking, plane):
    before = copy_of(chat.model)
    result, responses = measured(plane, extent=0.8)
    assert same(copy_of(chat.model), before)
    origin = next(point for point in result.points if (point.x, point.y) == (0, 0))
    alone = attack(chat, harmful_rows(LandscapeConfig(**asking)), LandscapeConfig(**asking))
    assert origin.verdicts == tuple(response.verdict for response in alone) and origin.asr == 0
    assert result.plane == plane and [axis.kind for axis in result.axes] == list(AXES[plane])
    assert len(responses) == 25 * 12


def test_points_run_along_x_first_and_responses_with_them(measured, whole):
    result, responses = measured("2d-random", n_points=3, y_n_points=5, y_extent=0.5)
    x, y = (list(axis.steps) for axis in result.axes)
    assert (x, y) == ([-1.0, 0.0, 1.0], [-0.5, -0.25, 0.0, 0.25, 0.5])
    assert [(point.x, point.y) for point in result.points] == grid([x, y])
    asked = [(response.x, response.y) for response in responses]
    assert asked == [place for place in grid([x, y]) for _ in range(12)]
    assert result.rows == [[point.asr for point in result.points if point.y == step] for step in y]


@pytest.mark.parametrize("name", ["2d-interpolation", "2d-interpolation-random"])
def test_the_other_models_lie_on_the_plane_with_their_own_verdicts(base, ends, measured, asking, name):
    result, _ = measured(name)
    point = next(point for point in result.points if (point.x, point.y) == (1, 0))
    config = LandscapeConfig(**asking)
    alone = attack(base, harmful_rows(config), config)
    assert point.verdicts == tuple(response.verdict for response in alone) and point.asr >= 90
    assert [mark.uri for mark in result.marks] == [end.uri for end in ends[: ENDS[name]]]


def test_scores_are_of_all_points_and_each_basin_of_the_line_through_the_model(whole):
    result, _ = whole
    asr = np.array(result.asr).reshape(9, 9)
    assert result.visage == score.visage(asr) and result.visage_contiguous == score.visage_contiguous(asr)
    for axis, line in zip(result.axes, (asr[4], asr[:, 4]), strict=True):
        assert dataclasses.asdict(axis.basin) == dataclasses.asdict(score.basin(axis.steps, line))
        assert -0.8 < axis.basin.left < 0 < axis.basin.right < 0.8
    assert result.axes[0].basin != result.axes[1].basin and 0 < result.visage < 100


def test_the_row_through_the_model_is_the_line_along_the_first_direction(measured, whole, chat, asking):
    line, _ = landscape.measure(chat, LandscapeConfig(n_points=9, extent=1.0, **asking))
    assert tuple(point for point in whole[0].points if point.y == 0) == line.points
    assert line.axes[0] == whole[0].axes[0]


def test_a_plane_saves_and_loads_back_equal(measured, tmp_path):
    for plane in ENDS:
        result, _ = measured(plane, n_points=5, outside_after=1)
        result.save(tmp_path / f"{plane}.json")
        assert Landscape.load(tmp_path / f"{plane}.json") == result


# The same whoever measures, in whatever order


@pytest.mark.parametrize("plane", ENDS)
def test_any_number_of_workers_and_saving_memory_give_the_same_landscape(measured, plane):
    expected = measured(plane, workers=1)
    assert measured(plane, workers=3) == expected
    assert measured(plane, lean=True) == expected


def test_any_order_of_the_points_gives_the_same_landscape(chat, measured, asking, monkeypatch):
    expected = measured("2d-interpolation")
    run = Crew.run

    def shuffled(self, tasks, work, **told):
        run(self, random.Random(3).sample(tasks, len(tasks)), work, **told)

    monkeypatch.setattr(Crew, "run", shuffled)
    assert measured("2d-interpolation") == expected


def test_the_model_itself_is_asked_once_and_not_again_if_it_is_known(chat, asking, monkeypatch):
    counts = Counter()

    def counted(chat, rows, config, steps, check):
        counts[steps] += 1
        return attack(chat, rows, config, steps, check)

    monkeypatch.setattr(landscape, "attack", counted)
    config = LandscapeConfig(plane="2d-random", n_points=3, workers=1, **asking)
    rows, known = harmful_rows(config), {}
    for seed in (0, 2):
        plane = spans.span(chat, "2d-random", config, seed=seed)
        axes = plane.grid_axes(config)
        landscape.landscape_on(Crew((chat,)), plane, axes, rows, config, known=known)
    assert counts == dict.fromkeys(grid(axes), 2) | {(0.0, 0.0): 1} and set(known) == {(0.0, 0.0)}


def test_progress_is_told_of_every_point_once_from_the_rim_inward(whole, measured):
    told = []
    result, _ = measured("2d-random", progress=lambda steps, asr: told.append((steps, asr)), workers=1)
    assert Counter(told) == Counter({((point.x, point.y), point.asr): 1 for point in result.points})
    rings = [max(map(abs, steps)) for steps, _ in told]
    assert rings == sorted(rings, reverse=True)


def test_axes_of_different_scale_count_alike_from_the_rim_inward(measured):
    told = []
    measured("2d-random", progress=lambda steps, _: told.append(steps), y_extent=0.01, workers=1)
    rings = [max(abs(x) / 1.0, abs(y) / 0.01) for x, y in told]
    assert rings == sorted(rings, reverse=True) and len(told) == 25


# Points past the edge


@pytest.mark.parametrize("outside_after", [1, 2])
@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_points_past_the_edge_are_left_out_the_same_by_any_number_of_workers(
    measured, whole, outside_after, n_workers
):
    full, all_responses = whole
    axes = [axis.steps for axis in full.axes]
    asr = {(point.x, point.y): point.asr for point in full.points}
    expected = past_the_edge(axes, asr, outside_after)
    told = []
    result, responses = measured(
        "2d-random",
        n_points=9,
        outside_after=outside_after,
        workers=n_workers,
        progress=lambda steps, _: told.append(steps),
    )
    assert len(expected) >= 20
    assert {(point.x, point.y) for point in result.points if is_skipped(point)} == expected
    for point, other in zip(result.points, full.points, strict=True):
        if is_skipped(point):
            assert (point.x, point.y, point.n_unjudged) == (other.x, other.y, 0) and math.isnan(point.asr)
        else:
            assert point == other
    assert responses == [response for response in all_responses if (response.x, response.y) not in expected]
    assert sorted(told) == sorted(asr)
    assert (result.axes, result.setup) == (full.axes, full.setup)


def test_the_score_is_that_of_the_points_measured_and_the_same_where_those_left_out_are_at_100(measured, whole):
    full, _ = whole
    for outside_after in (1, 2):
        result, _ = measured("2d-random", n_points=9, outside_after=outside_after)
        left_out = [other.asr for point, other in zip(result.points, full.points, strict=True) if is_skipped(point)]
        assert result.visage == score.visage(result.rows) and min(left_out) > 90
        assert (result.visage == full.visage) == (set(left_out) == {100.0})


def test_with_points_left_out_the_order_of_measuring_changes_nothing(measured, monkeypatch):
    expected = measured("2d-random", n_points=7, outside_after=1)
    run = Crew.run
    for seed in range(2):

        def shuffled(self, tasks, work, seed=seed, **told):
            run(self, random.Random(seed).sample(tasks, len(tasks)), work, **told)

        monkeypatch.setattr(Crew, "run", shuffled)
        assert measured("2d-random", n_points=7, outside_after=1) == expected


# What could not be judged


def test_a_plane_is_nan_where_nothing_could_be_judged_and_the_rest_is_scored(measured, monkeypatch):
    def attacked(chat, rows, config, steps, check):
        answered = attack(chat, rows, config, steps, check)
        if steps[1] != 0.5:
            return answered
        return [dataclasses.replace(response, text=None, verdict="unjudged") for response in answered]

    monkeypatch.setattr(landscape, "attack", attacked)
    result, _ = measured("2d-random")
    assert [point.n_unjudged for point in result.points] == [12 * (point.y == 0.5) for point in result.points]
    assert [math.isnan(point.asr) for point in result.points] == [point.y == 0.5 for point in result.points]
    assert result.visage == score.visage(result.asr)


@pytest.mark.parametrize("row", [0, 1])
def test_a_basin_is_nan_where_nothing_on_its_line_could_be_judged(measured, monkeypatch, row):
    def attacked(chat, rows, config, steps, check):
        answered = attack(chat, rows, config, steps, check)
        if steps[row] != 0:
            return answered
        return [dataclasses.replace(response, text=None, verdict="unjudged") for response in answered]

    monkeypatch.setattr(landscape, "attack", attacked)
    result, _ = measured("2d-random", n_points=3)
    across = result.axes[1 - row].basin
    assert all(map(math.isnan, (across.left, across.right, across.width, across.depth, across.sharpness)))
    assert not across.open_left and not across.open_right
    along = result.axes[row].basin  # Its middle, the model itself, is not known, but its ends are.
    assert not math.isnan(along.width)


def test_a_plane_without_any_verdict_is_refused_in_one_line(chat, measured, monkeypatch):
    def attacked(chat, rows, config, steps, check):
        answered = attack(chat, rows, config, steps, check)
        return [dataclasses.replace(response, text=None, verdict="unjudged") for response in answered]

    monkeypatch.setattr(landscape, "attack", attacked)
    with pytest.raises(ValueError) as caught:
        measured("2d-random", n_points=3)
    assert repr(chat.uri) in str(caught.value) and "\n" not in str(caught.value) and "Check" in str(caught.value)


def test_an_error_at_one_point_leaves_all_models_bit_for_bit(chat, asking, monkeypatch):
    before = copy_of(chat.model)

    def failing(chat, rows, config, steps, check):
        if steps == (0.5, -0.5):
            raise RuntimeError("out of memory")
        return attack(chat, rows, config, steps, check)

    monkeypatch.setattr(landscape, "attack", failing)
    config = LandscapeConfig(plane="2d-random", n_points=3, workers=2, **asking)
    team, plane = workers.crew(chat, config, 9), spans.span(chat, "2d-random", config)
    with pytest.raises(RuntimeError, match="out of memory"):
        landscape.landscape_on(team, plane, plane.grid_axes(config), harmful_rows(config), config)
    assert all(same(copy_of(one.model), before) for one in team.chats)
