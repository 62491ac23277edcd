"""Checkpoints become places on the line from their base to the last of them. Planes are in test_trajectories.py."""

import dataclasses
import math

import pytest
import torch
from moved import on_the_way

from visage_mlflow.config import ProjectConfig
from visage_mlflow.geometry.directions import Difference, norm
from visage_mlflow.language import models
from visage_mlflow.results import Trajectory
from visage_mlflow.studies import landscape, trajectory
from visage_mlflow.studies.evaluation import attack, harmful_rows, rates
from visage_mlflow.studies.trajectory import CheckpointWeights, Finetuned


@pytest.fixture(scope="module")
def base(aligned_folder):
    """Where the finetuning starts: the aligned model."""
    return models.load(str(aligned_folder), dtype="float32")


@pytest.fixture(scope="module")
def last(base_folder):
    """Where it ends: the model that helps with everything."""
    return models.load(str(base_folder), dtype="float32")


@pytest.fixture(scope="module")
def config(sets):
    asked = {"prompts": str(sets / "harmful_eval.jsonl"), "n_prompts": 24, "max_new_tokens": 16}
    return ProjectConfig(run="abc", n_points=5, workers=1, margin_up_to=0, **asked)


def checkpoint(step, weights):
    return CheckpointWeights(f"models:/m-{step}", step, weights)


def three_of(base, last):
    """A checkpoint half way on the line, one that strays from it, and the last one."""
    return [
        checkpoint(4, on_the_way(base, last, 0.5)),
        checkpoint(8, on_the_way(base, last, 0.8, off=0.6)),
        checkpoint(12, last.weights),
    ]


def measure(base, checkpoints, config, **settings):
    return trajectory.measure(base, [Finetuned("tiny data", tuple(checkpoints))], config, **settings)


@pytest.fixture(scope="module")
def measured(base, last, config):
    checkpoints = three_of(base, last)
    before = {name: parameter.detach().clone() for name, parameter in base.model.named_parameters()}
    told = []
    result, responses = measure(base, checkpoints, config, progress=lambda *point: told.append(point))
    unchanged = all(torch.equal(parameter, before[name]) for name, parameter in base.model.named_parameters())
    return result, responses, told, unchanged


def test_the_base_is_left_bit_for_bit(measured):
    assert measured[3]


@pytest.mark.parametrize("settings", [{"workers": 2}, {"workers": 3}, {"lean": True}])
def test_neither_the_number_of_workers_nor_lean_changes_a_trajectory(measured, base, last, config, settings):
    again = measure(base, three_of(base, last), dataclasses.replace(config, **settings))
    assert again == measured[:2]


def test_a_checkpoint_past_the_edge_of_the_line_is_measured_all_the_same(measured, base, last, config, monkeypatch):
    # Half way the attacks are said to succeed, so the last checkpoint itself lies past the edge of the line.
    checkpoints = three_of(base, last)

    def half_way_at_100(chat, rows, config, steps, check):
        verdict = "complied" if steps == (0.5,) else "refused"
        return [dataclasses.replace(response, verdict=verdict) for response in attack(chat, rows, config, steps)]

    monkeypatch.setattr(landscape, "attack", half_way_at_100)
    result, _ = measure(base, checkpoints, dataclasses.replace(config, outside_after=1))
    assert [point.verdicts == () for point in result.landscape.points] == [False, False, False, True, True]
    assert result.places == measured[0].places


def test_places_come_in_the_order_of_the_checkpoints(measured):
    assert [(place.uri, place.training_step) for place in measured[0].places] == [
        ("models:/m-4", 4),
        ("models:/m-8", 8),
        ("models:/m-12", 12),
    ]


def test_the_last_checkpoint_is_at_1_with_nothing_off_the_line(measured):
    place = measured[0].places[-1]
    assert place.x == pytest.approx(1.0, abs=1e-12) and place.off_plane_share == pytest.approx(0.0, abs=1e-9)


def test_a_checkpoint_half_way_on_the_line_is_at_one_half(measured):
    place = measured[0].places[0]
    assert place.x == pytest.approx(0.5, abs=1e-6) and place.off_plane_share < 1e-5


def test_a_checkpoint_beside_the_line_has_the_share_that_pythagoras_gives(measured):
    # 0.8 along and 0.6 across, in lengths of the line: 1 from the base in all, of which 0.6 is off the line.
    place, end = measured[0].places[1], measured[0].places[2]
    assert place.x == pytest.approx(0.8, abs=1e-5) and place.off_plane_share == pytest.approx(0.6, abs=1e-5)
    assert place.distance == pytest.approx(end.distance, rel=1e-5)
    assert place.off_plane_distance == pytest.approx(0.6 * end.distance, rel=1e-5)


def test_distances_are_relative_to_the_norm_of_the_base(measured, base, last):
    moved = norm(base.weights, Difference(last.weights))
    length = math.sqrt(sum(float(weight.double().square().sum()) for weight in base.weights.values()))
    half, _, end = measured[0].places
    assert end.distance == pytest.approx(moved / length, rel=1e-9)
    assert half.distance == pytest.approx(0.5 * moved / length, rel=1e-5)
    assert end.distance == measured[0].landscape.axes[0].relative_norm


def test_the_rates_of_a_checkpoint_are_those_of_its_own_weights(measured, last, config):
    result = measured[0]
    alone = rates([response.verdict for response in attack(last, harmful_rows(config), config)])
    place = result.places[-1]
    assert (place.asr, place.asr_low, place.asr_high) == (alone.asr, alone.asr_low, alone.asr_high)
    assert place.asr == result.landscape.asr[3] >= 90
    assert result.places[0].asr == result.landscape.asr[2]


def test_the_line_goes_past_both_models(measured, config):
    result, responses, told, _ = measured
    assert result.landscape.axis == [-0.5, 0.0, 0.5, 1.0, 1.5]
    assert result.landscape.asr[1] == 0.0 and result.landscape.axes[0].to == "models:/m-12"
    assert [response.x for response in responses] == [step for step in result.landscape.axis for _ in range(24)]


def test_progress_is_told_of_every_point_of_the_line_from_the_far_ends_inward(measured):
    result, _, told, _ = measured
    asr = dict(zip(result.landscape.axis, result.landscape.asr, strict=True))
    assert told == [((step,), asr[step]) for step in (1.5, 1.0, -0.5, 0.5, 0.0)]


def test_a_measured_trajectory_saves_and_loads(measured, tmp_path):
    measured[0].save(tmp_path / "trajectory.json")
    assert Trajectory.load(tmp_path / "trajectory.json") == measured[0]


def test_the_plane_at_a_checkpoint_beside_the_line_is_another_model(measured):
    # 0.6 of the way off the line in a random direction does nothing to a checkpoint at 0.8, so both are broken here;
    # on the line itself the two are the same.
    half, beside, end = measured[0].places
    assert (half.plane_asr, end.plane_asr) == (half.asr, end.asr)
    assert beside.plane_asr_low <= beside.plane_asr <= beside.plane_asr_high


def test_one_checkpoint_is_a_trajectory(base, last, config):
    result, _ = measure(base, [checkpoint(3, last.weights)], config)
    assert len(result.places) == 1 and result.places[0].x == pytest.approx(1.0)


def test_a_checkpoint_that_has_not_moved_is_at_the_base(base, last, config):
    still = {name: weight.clone() for name, weight in base.weights.items()}
    result, _ = measure(base, [checkpoint(1, still), checkpoint(2, last.weights)], config)
    place = result.places[0]
    assert (place.x, place.distance, place.off_plane_distance, place.off_plane_share) == (0.0, 0.0, 0.0, 0.0)
    assert place.asr == 0.0


def refusal(base, checkpoints, config):
    with pytest.raises(ValueError) as caught:
        measure(base, checkpoints, config)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_no_checkpoints_are_refused(base, config):
    message = refusal(base, [], config)
    assert message.startswith("`run` is 'abc'") and "no checkpoints" in message


def test_a_last_checkpoint_that_has_not_moved_is_refused(base, config):
    still = {name: weight.clone() for name, weight in base.weights.items()}
    message = refusal(base, [checkpoint(1, still)], config)
    assert "same weights" in message and "'models:/m-1'" in message


def test_a_checkpoint_of_another_shape_is_refused_before_anything_is_measured(base, last, config, monkeypatch):
    monkeypatch.setattr(trajectory, "landscape_on", lambda *args, **kwargs: pytest.fail("measured"))
    fewer = {name: weight for name, weight in last.weights.items() if "embed" not in name}
    message = refusal(base, [checkpoint(1, fewer), checkpoint(2, last.weights)], config)
    assert "missing from the end weights (model.embed_tokens.weight)" in message
