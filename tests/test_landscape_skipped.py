"""`outside_after`: the far points of a line are left out once it is known that nothing but noise is there."""

import dataclasses
import math
import threading

import pytest
import torch

from visage_mlflow.config import LandscapeConfig, VisageConfig
from visage_mlflow.geometry.directions import Materialized, RandomDirection
from visage_mlflow.language import models
from visage_mlflow.language.prompts import Row
from visage_mlflow.results import Landscape, Response, Visage
from visage_mlflow.studies import crew as workers
from visage_mlflow.studies import landscape, summary

NAN = math.nan
ROWS = [Row(f"prompt {index}") for index in range(100)]  # One prompt is one percent.


@pytest.fixture(scope="module")
def chat(aligned_folder):
    return models.load(str(aligned_folder), dtype="float32")


@pytest.fixture(scope="module")
def asking(sets):
    return {"prompts": str(sets / "harmful_eval.jsonl"), "n_prompts": 24, "max_new_tokens": 16}


@pytest.fixture
def scripted(chat, monkeypatch):
    """A function that measures a line of the given ASR by step: (points, responses, steps asked, progress told)."""

    def measure(asr, outside_after, n_workers=1, wait=lambda step: None):
        asked, told = [], []

        def attacked(chat, rows, config, steps, check):
            (step,) = steps
            asked.append(step)
            wait(step)
            n = 0 if math.isnan(asr[step]) else round(asr[step])
            verdicts = ["unjudged"] * 100 if math.isnan(asr[step]) else ["complied"] * n + ["refused"] * (100 - n)
            return [Response(row.prompt, "", verdict, x=step) for row, verdict in zip(rows, verdicts, strict=True)]

        monkeypatch.setattr(landscape, "attack", attacked)
        config = LandscapeConfig(outside_after=outside_after, workers=n_workers)
        direction = Materialized(RandomDirection(), chat.weights)
        points, responses = landscape.measure_grid(
            workers.crew(chat, config, len(asr)),
            [direction],
            [sorted(asr)],
            ROWS,
            config,
            progress=lambda steps, asr: told.append((steps[0], asr)),
        )
        return points, responses, asked, told

    return measure


def line(left, right, middle=0.0):
    """ASR by step: `left` is at -1, -2, … and `right` at 1, 2, …"""
    far = {-1.0 - index: value for index, value in enumerate(left)}
    return {0.0: middle, **far, **{1.0 + index: value for index, value in enumerate(right)}}


def skipped(points):
    return [point.x for point in points if not point.verdicts]


BOTH = line(left=[0, 100, 100, 100], right=[100, 100, 100, 100])


@pytest.mark.parametrize(("outside_after", "left_out"), [(1, [-4, -3, 2, 3, 4]), (2, [-4, 3, 4]), (3, [4]), (4, [])])
def test_points_past_k_in_a_row_at_100_are_never_asked_and_hold_nothing(scripted, outside_after, left_out):
    points, responses, asked, _ = scripted(BOTH, outside_after)
    assert [point.x for point in points] == sorted(BOTH) and skipped(points) == left_out
    for point in points:
        if point.x in left_out:
            numbers = (point.asr, point.asr_low, point.asr_high, point.coherent_asr)
            assert all(map(math.isnan, numbers)) and (point.n_unjudged, point.verdicts) == (0, ())
        else:
            assert point.asr == BOTH[point.x] and len(point.verdicts) == 100
    measured = [step for step in sorted(BOTH) if step not in left_out]
    assert sorted(asked) == measured
    assert [response.x for response in responses] == [step for step in measured for _ in ROWS]


def test_points_are_measured_from_the_model_outward_so_that_the_near_ones_can_tell(scripted):
    _, _, asked, _ = scripted(BOTH, 2)
    assert asked == [0, -1, 1, -2, 2, -3]


def test_without_outside_after_every_point_is_measured_from_the_far_ends_inward(scripted):
    points, _, asked, _ = scripted(BOTH, 0)
    assert skipped(points) == [] and asked == [-4, 4, -3, 3, -2, 2, -1, 1, 0]


@pytest.mark.parametrize("between", [99, NAN])
def test_a_point_at_99_or_one_that_could_not_be_judged_starts_the_count_anew(scripted, between):
    # Outward on the right: one at 100, then the other, then two at 100, after which the fifth is left out.
    points, _, asked, _ = scripted(line(left=[0], right=[100, between, 100, 100, 100]), 2)
    assert skipped(points) == [5] and 5 not in asked


def test_the_sides_do_not_count_for_each_other_nor_does_the_model(scripted):
    # The model itself is at 100, and one point on each side: no side has two in a row.
    points, *_ = scripted(line(left=[100, 0, 0], right=[100, 0, 0], middle=100), 2)
    assert skipped(points) == []
    points, *_ = scripted(line(left=[99, 99, 99], right=[100, 100, 0], middle=100), 2)
    assert skipped(points) == [3]


def test_progress_is_told_of_each_point_once_and_of_skipped_ones_with_nan(scripted):
    _, _, _, told = scripted(BOTH, 2)
    assert sorted(step for step, _ in told) == sorted(BOTH)
    assert {step for step, asr in told if math.isnan(asr)} == {-4, 3, 4}
    assert all(asr == BOTH[step] for step, asr in told if not math.isnan(asr))


def test_workers_that_ran_past_the_edge_leave_no_trace_in_the_result(chat, scripted):
    before = {name: parameter.detach().clone() for name, parameter in chat.model.named_parameters()}
    alone = scripted(BOTH, 1)
    second_asked = threading.Event()

    def wait(step):
        if step == 1:  # At 100, so 2 is to be skipped; but it is asked before that is known.
            assert second_asked.wait(30)
        if step == 2:
            second_asked.set()

    points, responses, asked, told = scripted(BOTH, 1, n_workers=3, wait=wait)
    assert 2 in asked and 2 not in alone[2]
    # As text, since NaN is not equal to itself.
    assert repr(points) == repr(alone[0]) and responses == alone[1]
    assert sorted(step for step, _ in told) == sorted(BOTH)
    assert all(torch.equal(parameter, before[name]) for name, parameter in chat.model.named_parameters())


# Of a real model


@pytest.fixture(scope="module")
def whole(chat, asking):
    """VISAGE of the aligned model with every point measured."""
    return landscape.measure_visage(chat, VisageConfig(n_directions=3, n_points=21, extent=1.0, **asking))


@pytest.mark.parametrize("outside_after", [1, 2])
@pytest.mark.parametrize("n_workers", [1, 3])
def test_every_score_is_the_same_as_without_where_skipped_points_would_be_at_100(
    chat, asking, whole, outside_after, n_workers
):
    config = VisageConfig(
        n_directions=3, n_points=21, extent=1.0, outside_after=outside_after, workers=n_workers, **asking
    )
    result, responses = landscape.measure_visage(chat, config)
    expected, all_responses = whole
    for one, full in zip(result.landscapes, expected.landscapes, strict=True):
        left_out = skipped(one.points)
        # By 0.6 of their norm each direction has left the basin, so at least four points a side are left out.
        assert len([step for step in left_out if step < 0]) >= 4 <= len([step for step in left_out if step > 0])
        assert {point.asr for point in full.points if point.x in left_out} == {100.0}
        assert (one.visage, one.visage_contiguous, one.basin) == (full.visage, full.visage_contiguous, full.basin)
        measured = [(a, b) for a, b in zip(one.points, full.points, strict=True) if a.verdicts]
        assert all(a == b for a, b in measured)
    names = ("visage", "visage_low", "visage_high", "visage_contiguous")
    assert [getattr(result, name) for name in names] == [getattr(expected, name) for name in names]
    for one, kept, full in zip(result.landscapes, responses, all_responses, strict=True):
        assert kept == [response for response in full if response.x not in skipped(one.points)]


def test_the_mean_over_directions_ends_where_one_of_them_was_skipped(chat, asking, whole):
    config = VisageConfig(n_directions=3, n_points=21, extent=1.0, outside_after=1, **asking)
    result, _ = landscape.measure_visage(chat, config)
    left_out = {step for one in result.landscapes for step in skipped(one.points)}
    for step, mean, full in zip(result.landscapes[0].axis, result.mean_asr, whole[0].mean_asr, strict=True):
        assert math.isnan(mean) if step in left_out else mean == full
    for low, mean, high in zip(result.mean_asr_low, result.mean_asr, result.mean_asr_high, strict=True):
        assert math.isnan(low) == math.isnan(mean) == math.isnan(high)


def test_a_landscape_with_skipped_points_saves_and_loads_back_equal(chat, asking, tmp_path):
    config = VisageConfig(n_directions=2, n_points=9, extent=1.0, outside_after=1, **asking)
    result, _ = landscape.measure_visage(chat, config)
    one = result.landscapes[0]
    assert skipped(one.points)
    one.save(tmp_path / "landscape.json")
    result.save(tmp_path / "visage.json")
    loaded = Landscape.load(tmp_path / "landscape.json")
    assert loaded == one and skipped(loaded.points) == skipped(one.points)
    assert Visage.load(tmp_path / "visage.json") == result


def test_skipped_points_are_unjudged_on_every_prompt_for_the_bootstrap(whole):
    one = whole[0].landscapes[0]
    point = dataclasses.replace(one.points[0], asr=NAN, verdicts=())
    values = summary.jailbroken([dataclasses.replace(one, points=(point, *one.points[1:]))])
    assert values.shape == (1, 21, 24) and all(map(math.isnan, values[0, 0])) and set(values[0, 1]) == {1.0}
