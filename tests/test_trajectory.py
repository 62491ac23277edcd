"""Checkpoints become places on a line or plane: what it shows of them, what it does not, and how far the edge is."""

import dataclasses
import math

import numpy as np
import pytest
from moved import bitwise, copy_of, on_the_way
from stand_in import StandIn, responses_of, scripted

from visage_mlflow.commands import project
from visage_mlflow.config import ProjectConfig
from visage_mlflow.geometry.directions import Difference, norm
from visage_mlflow.measuring.measure import AT_REST, Measurer
from visage_mlflow.results import Trajectory
from visage_mlflow.studies import trajectory
from visage_mlflow.studies.evaluation import harmful_rows, rates
from visage_mlflow.studies.spans import End
from visage_mlflow.studies.trajectory import CheckpointWeights, Finetuned
from visage_mlflow.text.errors import Mistake

PUT = [(0.5, 0.0), (0.8, 0.6), (1.0, 0.0), (0.1, 0.05), (0.2, 0.2)]
"""Where the checkpoints below are: along the line of the first finetuning and across it, in lengths of that line."""


@pytest.fixture(scope="module")
def config(sets):
    asked = {"prompts": str(sets / "harmful_eval.jsonl"), "n_prompts": 12, "max_new_tokens": 8, "store": "off"}
    return ProjectConfig(run="harmful,mixed", n_points=5, workers=1, margin_up_to=4.0, **asked)


def finetuned(name, *weights):
    return Finetuned(name, tuple(CheckpointWeights(f"{name}-{i}", 4 * i, each) for i, each in enumerate(weights, 1)))


@pytest.fixture(scope="module")
def straight(chat, base):
    """From the aligned model: half way on a line, away from it, and to its end, which helps with everything."""
    return finetuned("harmful", *(on_the_way(chat, base, *place) for place in PUT[:2]), base.weights)


@pytest.fixture(scope="module")
def pair(straight, chat, base):
    """The one above, and one that goes a fifth of its way, and as far aside."""
    return [straight, finetuned("mixed", *(on_the_way(chat, base, *place) for place in PUT[3:]))]


@pytest.fixture(scope="module")
def line(chat, straight, config):
    """The line of one finetuning: (trajectory, responses, told, whether the base was left as it was)."""
    before, told = copy_of(chat.model), []
    config = dataclasses.replace(config, margin_up_to=0)
    result, responses = trajectory.measure(chat, [straight], config, progress=lambda *point: told.append(point))
    return result, responses, told, bitwise(copy_of(chat.model), before)


@pytest.fixture(scope="module")
def plane(chat, pair, config):
    """The plane of two finetunings, with their edges."""
    return trajectory.measure(chat, pair, config)


@pytest.fixture
def quickly(chat, config):
    """A function that measures with ASR given by steps, 0 unless said otherwise: (trajectory, responses)."""

    def measure(finetunings, asr=lambda steps: 0.0, measurer=None, ends=(), **settings):
        settings = dataclasses.replace(config, **{"margin_up_to": 0, **settings})
        return trajectory.measure(chat, finetunings, settings, measurer=measurer or scripted(asr), ends=ends)

    return measure


# On a line


def test_the_line_goes_past_both_models_and_leaves_the_base_bit_for_bit(line):
    result, responses, told, unchanged = line
    assert unchanged and result.landscape.axis == [-0.5, 0.0, 0.5, 1.0, 1.5]
    assert result.landscape.asr[1] == 0.0 and result.landscape.axes[0].to == "harmful-3"
    assert [response.x for response in responses] == [step for step in result.landscape.axis for _ in range(12)]
    asr = dict(zip(result.landscape.axis, result.landscape.asr, strict=True))
    assert told == [((step,), asr[step]) for step in (1.5, 1.0, -0.5, 0.5, 0.0)]


def test_places_come_in_the_order_of_training_where_pythagoras_puts_them(line, chat, base):
    half, beside, end = line[0].places
    assert [(place.uri, place.training_step) for place in (half, beside, end)] == [
        ("harmful-1", 4),
        ("harmful-2", 8),
        ("harmful-3", 12),
    ]
    assert half.x == pytest.approx(0.5, abs=1e-6) and half.off_plane_share < 1e-5
    # 0.8 along and 0.6 across, in lengths of the line: 1 from the base in all, of which 0.6 is off the line.
    assert beside.x == pytest.approx(0.8, abs=1e-5) and beside.off_plane_share == pytest.approx(0.6, abs=1e-5)
    assert beside.distance == pytest.approx(end.distance, rel=1e-5)
    assert beside.off_plane_distance == pytest.approx(0.6 * end.distance, rel=1e-5)
    # Distances are relative to the norm of the base.
    length = math.sqrt(sum(float(weight.double().square().sum()) for weight in chat.weights.values()))
    assert end.distance == pytest.approx(norm(chat.weights, Difference(base.weights)) / length, rel=1e-9)
    assert half.distance == pytest.approx(0.5 * end.distance, rel=1e-5)
    assert end.x == pytest.approx(1.0, abs=1e-12) and end.off_plane_share == pytest.approx(0.0, abs=1e-9)


def test_the_rates_of_a_checkpoint_are_those_of_its_own_weights_and_the_planes_those_of_the_place(line, base, config):
    result = line[0]
    half, beside, end = result.places
    alone = rates(response.verdict for response in Measurer(config)(base, AT_REST, harmful_rows(config), config))
    assert (end.asr, end.asr_low, end.asr_high) == (alone.asr, alone.asr_low, alone.asr_high) and end.asr >= 90
    assert [half.asr, half.plane_asr] == [result.landscape.asr[2]] * 2 and end.plane_asr == result.landscape.asr[3]
    assert beside.plane_asr_low <= beside.plane_asr <= beside.plane_asr_high


def test_what_a_checkpoint_says_beside_the_plane_is_not_what_the_plane_says_there(quickly, straight):
    def answer(chat, held, rows, ask):
        is_beside = held.directions[0].end_weights is straight.checkpoints[1].weights
        return responses_of(rows, 75.0 if is_beside else 25.0)

    result, _ = quickly([straight], measurer=StandIn(answer=answer))
    assert [(place.asr, place.plane_asr) for place in result.places] == [(25.0, 25.0), (75.0, 25.0), (25.0, 25.0)]


def test_a_checkpoint_past_the_edge_of_the_line_is_measured_all_the_same(quickly, straight):
    # Half way the attacks succeed, so the last checkpoint itself lies past the edge of the line.
    result, _ = quickly([straight], lambda steps: 100.0 if steps == (0.5,) else 0.0, outside_after=1)
    assert [point.verdicts == () for point in result.landscape.points] == [False, False, False, True, True]
    assert [place.asr for place in result.places] == [0.0, 0.0, 0.0]


def test_a_checkpoint_that_has_not_moved_is_at_the_base_and_one_is_a_trajectory(quickly, chat, base):
    still = {name: weight.clone() for name, weight in chat.weights.items()}
    first, last = quickly([finetuned("slow", still, base.weights)])[0].places
    assert (first.x, first.distance, first.off_plane_distance, first.off_plane_share) == (0.0, 0.0, 0.0, 0.0)
    (only,) = quickly([finetuned("one", base.weights)])[0].places
    assert only.x == last.x == pytest.approx(1.0)


# On a plane


def test_two_finetunings_span_the_plane_through_their_last_checkpoints(plane):
    result, _ = plane
    x, y = result.landscape.axes
    assert result.landscape.plane == "2d-interpolation" and result.remark == ""
    assert [mark.uri for mark in result.landscape.marks] == ["harmful-3", "mixed-2"]
    assert 0.0 in x.steps and 0.0 in y.steps and len(x.steps) == len(y.steps) == 5
    for place in result.places:
        assert x.steps[0] <= place.x <= x.steps[-1] and y.steps[0] <= place.y <= y.steps[-1]


def test_checkpoints_lie_on_the_plane_where_they_were_put_with_the_asr_that_it_has_there(plane):
    # The second axis is as long as the first, so 0.2 of the line's length aside is 0.2 steps.
    harmful, mixed = plane[0].courses
    found = [(place.x, place.y) for place in (*harmful.places, *mixed.places)]
    assert found == [pytest.approx(place, abs=1e-5) for place in PUT]
    assert max(place.off_plane_share for place in plane[0].places) < 1e-4
    assert [place.plane_asr for place in plane[0].places] == [place.asr for place in plane[0].places]


def test_the_margin_is_negative_outside_and_positive_inside(plane):
    harmful, mixed = plane[0].courses
    assert -1 < harmful.edge.margin < 0 < mixed.edge.margin and not harmful.edge.is_open
    assert harmful.places[-1].asr > 50 > mixed.places[-1].asr


def test_the_edge_is_where_the_way_crosses_half_and_random_ways_have_one_beside_it(plane, config):
    result, edge = plane[0], plane[0].courses[0].edge
    low, low_asr = max(pair for pair in edge.measured if pair[1] < 50)
    high, high_asr = min(pair for pair in edge.measured if pair[1] >= 50)
    assert low < edge.step <= high and high - low == config.margin_up_to / 256
    assert edge.step == pytest.approx(low + (high - low) * (50 - low_asr) / (high_asr - low_asr))
    assert edge.distance == pytest.approx(edge.step * result.courses[0].places[-1].distance)
    assert result.random_edge.distance > edge.distance
    assert edge.measured[0] == result.random_edge.measured[0] == (0.0, result.landscape.rows[1][1])


def test_an_edge_farther_than_looked_for_is_open(quickly, pair):
    result, _ = quickly(pair, margin_up_to=0.25, extent=0.01)
    edge = result.courses[1].edge
    assert edge.is_open and edge.step == 0.25 and edge.margin == -0.75
    assert result.random_edge.is_open and result.random_edge.step == 0.01


@pytest.mark.parametrize("settings", [{"workers": 3}, {"lean": True}])
def test_neither_workers_nor_saving_memory_change_anything(line, plane, chat, pair, config, settings):
    settings = dataclasses.replace(config, **settings)
    assert trajectory.measure(chat, pair, settings) == plane
    assert trajectory.measure(chat, pair[:1], dataclasses.replace(settings, margin_up_to=0)) == line[:2]


def test_all_checkpoints_span_their_principal_plane(quickly, pair, tmp_path):
    result, _ = quickly(pair, plane="2d-pca")
    explained = [axis.share_from_origin for axis in result.landscape.axes]
    put = np.array(PUT)
    assert explained == pytest.approx(np.linalg.eigvalsh(put.T @ put)[::-1] / (put**2).sum(), abs=1e-6)
    assert max(place.off_plane_share for place in result.places) < 1e-2
    result.save(tmp_path / "trajectory.json")
    assert Trajectory.load(tmp_path / "trajectory.json") == result


def test_on_a_random_plane_the_checkpoints_are_a_dot_and_the_result_says_so(quickly, pair):
    result, _ = quickly(pair, plane="2d-random")
    assert "show as a dot" in result.remark and "2d-interpolation" in result.remark
    assert min(place.off_plane_share for place in result.places) > 0.9999


def test_named_ends_span_the_plane_instead(quickly, chat, base, pair):
    ends = [End("there", base.weights), End("aside", on_the_way(chat, base, 0.3, off=0.9))]
    result, _ = quickly(pair[1:], ends=ends, to="there,aside", plane="2d-interpolation")
    assert [mark.uri for mark in result.landscape.marks] == ["there", "aside"]
    assert (result.landscape.marks[1].x, result.landscape.marks[1].y) == pytest.approx((0.3, 0.9), abs=1e-5)


@pytest.mark.parametrize(("up_to", "at_origin"), [(0, 0.0), (4.0, math.nan)])
def test_there_is_no_margin_where_none_is_wanted_or_the_model_gives_no_verdict(quickly, pair, up_to, at_origin):
    result, _ = quickly(pair, lambda steps: 100.0 if any(steps) else at_origin, margin_up_to=up_to)
    assert [course.edge for course in result.courses] == [None, None] and result.random_edge is None


def test_a_model_that_is_outside_itself_has_no_margin_and_its_finetunings_did_not_leave(quickly, pair):
    result, _ = quickly(pair, lambda steps: 75.0, margin_up_to=1.0)
    for course in result.courses:
        assert course.base_asr == 75.0 and course.edge.starts_outside
        assert course.standing.startswith("is outside, where it began")
    assert result.random_edge.starts_outside


def test_how_a_finetuned_model_stands_is_said_without_an_edge_too(quickly, pair, capsys):
    project.tell(quickly(pair[:1], lambda steps: 100.0 if any(steps) else 0.0)[0])
    said = capsys.readouterr().out
    assert (
        "has left the basin: its own ASR, 100.0 %" in said and "margin to the edge (ASR 50 %): not looked for" in said
    )
    project.tell(quickly(pair[:1], lambda steps: 100.0 if any(steps) else math.nan, margin_up_to=1.0)[0])
    said = capsys.readouterr().out
    assert "has left the basin" in said and "the model's own answers could not be judged" in said


# What cannot be projected


@pytest.fixture
def refusal(chat, config):
    """A function that projects finetunings, which must fail before anything is asked: the error's message."""

    def project(finetunings, **settings):
        asked = []
        with pytest.raises(Mistake) as caught:
            settings = dataclasses.replace(config, **settings)
            trajectory.measure(chat, finetunings, settings, measurer=scripted(lambda steps: 0.0, asked))
        message = str(caught.value)
        assert asked == [] and "\n" not in message and message.endswith("."), message
        return message

    return project


def test_no_checkpoints_are_refused(refusal):
    for finetunings in ([], [Finetuned("empty", ())]):
        message = refusal(finetunings)
        assert message.startswith("`run` is 'harmful,mixed'") and "no checkpoints" in message


def test_too_few_finetunings_or_checkpoints_for_a_plane_are_refused(refusal, pair):
    message = refusal(pair[:1], plane="2d-interpolation")
    assert "last checkpoints of 2 finetunings, got 1" in message and "2d-pca" in message
    message = refusal(pair[1:], plane="2d-pca")
    assert "at least 3 checkpoints" in message and "got 2" in message


def test_checkpoints_that_span_nothing_are_refused(refusal, chat, pair):
    still = {name: weight.clone() for name, weight in chat.weights.items()}
    message = refusal([finetuned("still", still)])
    assert message.startswith("A checkpoint is 'still-1'") and "same weights" in message
    message = refusal([pair[0], pair[0]])
    assert "parallel" in message and "'harmful-3' and 'harmful-3'" in message


def test_a_checkpoint_that_does_not_fit_is_refused_by_its_name_and_its_tensor(refusal, base, pair):
    name = "model.embed_tokens.weight"
    fewer = {each: weight for each, weight in base.weights.items() if each != name}
    broken = {**base.weights, name: base.weights[name] / 0}
    for weights, what in ((fewer, "missing from the end weights"), (broken, "with NaN or infinity")):
        message = refusal([finetuned("first", weights, base.weights), pair[1]])
        assert message.startswith("A checkpoint is 'first-1'") and what in message and f"({name})" in message


def test_a_finetuning_that_was_asked_otherwise_is_told(monkeypatch, capsys):
    monkeypatch.setattr(project.runs, "begun_with", lambda run_id: {"template": {"enable_thinking": False}})
    project.tell_otherwise("0123", ProjectConfig(run="0123", template={"enable_thinking": False}))
    assert capsys.readouterr().err == ""
    project.tell_otherwise("0123", ProjectConfig(run="0123"))
    (line,) = capsys.readouterr().err.splitlines()
    assert "`template` is None, and the finetuning 0123 was measured with {'enable_thinking': False}" in line
