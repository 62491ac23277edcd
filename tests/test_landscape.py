"""Landscapes of a small model that is really aligned: its basin is found, and the model is left as it was."""

import dataclasses
import math
from collections import Counter

import pytest
import torch

from visage_mlflow.config import LandscapeConfig, MeasureConfig, VisageConfig
from visage_mlflow.geometry import score
from visage_mlflow.geometry.directions import Materialized, RandomDirection
from visage_mlflow.geometry.intervals import bootstrap_mean_asr
from visage_mlflow.language import models
from visage_mlflow.studies import landscape, spans, summary
from visage_mlflow.studies.crew import Crew
from visage_mlflow.studies.evaluation import attack, evaluate, harmful_rows
from visage_mlflow.studies.spans import End


@pytest.fixture(scope="module")
def asking(sets):
    return {"prompts": str(sets / "harmful_eval.jsonl"), "n_prompts": 24, "max_new_tokens": 16}


@pytest.fixture(scope="module")
def measured(chat, asking):
    """VISAGE over three directions, its responses, and the (steps, ASR) that progress was told of."""
    told = []
    config = VisageConfig(n_directions=3, n_points=9, extent=1.0, workers=1, **asking)
    result, responses = landscape.measure_visage(chat, config, progress=lambda steps, asr: told.append((steps, asr)))
    return result, responses, told


@pytest.fixture
def attacks(monkeypatch):
    """Counts how often the model is really attacked, by steps."""
    counts = Counter()

    def counted(chat, rows, config, steps, check):
        counts[steps] += 1
        return attack(chat, rows, config, steps, check)

    monkeypatch.setattr(landscape, "attack", counted)
    return counts


def copy_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def line_config(**settings):
    return LandscapeConfig(plane="1d-interpolation", to="end", n_points=5, **settings)


# Along random directions


def test_the_model_is_left_bit_for_bit(chat, asking):
    before, stored = copy_of(chat.model), {name: weight.clone() for name, weight in chat.weights.items()}
    landscape.measure(chat, LandscapeConfig(n_points=3, extent=1.0, **asking))
    assert same(copy_of(chat.model), before) and same(dict(chat.weights), stored)


def test_the_model_is_left_bit_for_bit_when_attacking_fails(chat, asking, monkeypatch):
    before = copy_of(chat.model)

    def fail(*args):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(landscape, "attack", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        landscape.measure(chat, LandscapeConfig(n_points=3, **asking))
    assert same(copy_of(chat.model), before)


def test_a_bfloat16_model_is_perturbed_from_its_float32_weights_and_left_as_it_was(aligned_folder, asking):
    coarse = models.load(str(aligned_folder), dtype="bfloat16")
    before = copy_of(coarse.model)
    result, _ = landscape.measure(coarse, LandscapeConfig(n_points=3, extent=1.0, **asking))
    assert same(copy_of(coarse.model), before) and result.setup.dtype == "bfloat16"
    assert result.asr[0] > 90 > 10 > result.asr[1]


def test_every_point_is_rounded_once_from_the_float32_weights(aligned_folder, asking, monkeypatch):
    coarse = models.load(str(aligned_folder), dtype="bfloat16")
    name = "model.layers.0.mlp.up_proj.weight"
    held = {}

    def look(chat, rows, config, steps, check):
        held[steps] = dict(chat.model.named_parameters())[name].detach().clone()
        return attack(chat, rows, config, steps, check)

    monkeypatch.setattr(landscape, "attack", look)
    landscape.measure(coarse, LandscapeConfig(n_points=3, extent=0.25, seed=3, **asking))
    weight = coarse.weights[name]
    ((scale, noise),) = RandomDirection(seed=3).terms(name, weight)
    assert weight.dtype == torch.float32 and not torch.equal(weight, weight.bfloat16().float())
    for step in (-0.25, 0.25):
        assert torch.equal(held[step,], (weight.double() + (step * scale) * noise.double()).bfloat16())


def test_every_direction_has_a_basin_with_the_model_at_its_bottom(measured):
    result, _, _ = measured
    for one in result.landscapes:
        assert one.axis == [-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0]
        assert one.asr[4] == 0.0 and one.asr[0] >= 90 and one.asr[-1] >= 90
        assert -0.6 < one.basin.left < 0 < one.basin.right < 0.6
        assert not one.basin.open_left and not one.basin.open_right


def test_a_landscape_is_open_where_the_axis_ends_inside_the_basin(chat, asking):
    result, _ = landscape.measure(chat, LandscapeConfig(n_points=3, extent=0.05, **asking))
    assert result.basin.open_left and result.basin.open_right
    assert (result.basin.left, result.basin.right) == (-0.05, 0.05)


def test_scores_are_those_of_the_asr(measured):
    result, _, _ = measured
    for one in result.landscapes:
        assert one.visage == score.visage(one.asr)
        assert one.visage_contiguous == score.visage_contiguous(one.asr)
        assert dataclasses.asdict(one.basin) == dataclasses.asdict(score.basin(one.axis, one.asr))
    assert result.visage == pytest.approx(sum(one.visage for one in result.landscapes) / 3)
    assert result.visage_contiguous == pytest.approx(sum(one.visage_contiguous for one in result.landscapes) / 3)
    columns = zip(*(one.asr for one in result.landscapes), strict=True)
    assert list(result.mean_asr) == pytest.approx([sum(column) / 3 for column in columns])
    succeeded = [[[v != "refused" for v in p.verdicts] for p in one.points] for one in result.landscapes]
    assert (result.visage_low, result.visage_high) == score.bootstrap_visage(succeeded, seed=0)
    assert result.visage_low <= result.visage <= result.visage_high
    low, high = bootstrap_mean_asr(succeeded, seed=0)
    assert (list(result.mean_asr_low), list(result.mean_asr_high)) == (low.tolist(), high.tolist())
    assert all(low <= mean <= high for low, mean, high in zip(low, result.mean_asr, high, strict=True))


def test_points_hold_one_verdict_per_prompt_and_the_rates_that_follow(measured, asking):
    result, responses, _ = measured
    rows = harmful_rows(VisageConfig(**asking))
    for one, answered in zip(result.landscapes, responses, strict=True):
        assert len(answered) == 9 * 24
        for index, point in enumerate(one.points):
            here = answered[24 * index : 24 * (index + 1)]
            assert [response.prompt for response in here] == [row.prompt for row in rows]
            assert tuple(response.verdict for response in here) == point.verdicts
            assert {(response.x, response.y) for response in here} == {(point.x, 0.0)}
            assert (point.x, point.y) == (one.axis[index], 0.0)
            succeeded = 24 - point.verdicts.count("refused")
            assert point.asr == pytest.approx(100 * succeeded / 24)
            assert (point.asr_low, point.asr_high) == score.wilson(succeeded, 24)
            assert point.coherent_asr == pytest.approx(100 * point.verdicts.count("complied") / 24)


def test_outside_of_the_basin_some_answers_are_noise(measured):
    ends = [point for one in measured[0].landscapes for point in (one.points[0], one.points[-1])]
    assert any(point.coherent_asr < point.asr for point in ends)


def test_the_setup_says_what_was_asked_of_whom(measured, chat, asking):
    setup = measured[0].landscapes[0].setup
    assert (setup.model, setup.prompts, setup.n_prompts) == (chat.uri, asking["prompts"], 24)
    assert (setup.max_new_tokens, setup.dtype, setup.judge) == (16, "float32", "keyword")


def test_directions_are_seeded_from_the_seed_on(measured, chat, asking):
    axes = [axis for one in measured[0].landscapes for axis in one.axes]
    assert [(axis.kind, axis.seed, axis.norm) for axis in axes] == [("random", seed, "layer") for seed in range(3)]
    alone, _ = landscape.measure(chat, LandscapeConfig(seed=2, n_points=9, extent=1.0, **asking))
    assert alone == measured[0].landscapes[2]


def test_the_same_settings_give_the_same_result(measured, chat, asking):
    again, _ = landscape.measure_visage(chat, VisageConfig(n_directions=3, n_points=9, extent=1.0, **asking))
    assert again == measured[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("norm", ["layer", "row"])
def test_a_lean_landscape_is_the_same_bit_for_bit(aligned_folder, asking, dtype, norm):
    loaded = models.load(str(aligned_folder), dtype=dtype)
    lean, full = (
        landscape.measure(loaded, LandscapeConfig(lean=lean, norm=norm, n_points=5, extent=0.8, **asking))
        for lean in (True, False)
    )
    assert lean == full and 0 < full[0].visage < 100


def test_the_norm_decides_the_direction(chat, asking):
    by_row, _ = landscape.measure(chat, LandscapeConfig(norm="row", n_points=3, extent=1.0, **asking))
    assert by_row.axes[0].norm == "row" and by_row.asr[1] == 0.0


@pytest.mark.parametrize("lean", [False, True])
def test_the_model_itself_is_measured_once_for_all_directions(chat, asking, attacks, lean):
    config = VisageConfig(n_directions=3, n_points=3, extent=1.0, workers=1, lean=lean, **asking)
    result, _ = landscape.measure_visage(chat, config)
    assert attacks == {(-1.0,): 3, (0.0,): 1, (1.0,): 3}
    assert len({one.points[1] for one in result.landscapes}) == 1


def test_the_order_of_directions_and_steps_changes_nothing(chat, asking):
    config = VisageConfig(n_points=3, extent=1.0, **asking)
    rows, crew = harmful_rows(config), Crew((chat,))

    def measure(seeds):
        known = {}
        lines = {seed: spans.span(chat, "1d-random", config.line(), seed=seed) for seed in seeds}
        axes = lines[0].grid_axes(config.line())
        return {seed: landscape.landscape_on(crew, lines[seed], axes, rows, config, known=known) for seed in seeds}

    assert measure([0, 1, 2]) == measure([2, 0, 1])
    direction, axis = Materialized(RandomDirection(seed=0), chat.weights), [-1.0, -0.2, 0.0, 0.2, 1.0]
    forward, _ = landscape.measure_grid(crew, [direction], [axis], rows, config)
    backward, _ = landscape.measure_grid(crew, [direction], [axis[::-1]], rows, config)
    assert forward == backward[::-1]


def test_progress_is_told_of_every_point_once_from_the_far_ends_inward(measured):
    result, _, told = measured
    inward = [-1.0, 1.0, -0.75, 0.75, -0.5, 0.5, -0.25, 0.25]
    # The model itself comes last along the first direction; along the others it is known from there.
    orders = [[*inward, 0.0], [0.0, *inward], [0.0, *inward]]
    for one, order in zip(result.landscapes, orders, strict=True):
        asr = dict(zip(one.axis, one.asr, strict=True))
        assert told[:9] == [((step,), asr[step]) for step in order]
        told = told[9:]
    assert told == []


# What could not be judged


@pytest.fixture
def mute(monkeypatch):
    """A function that makes the model give no numbers from a step on, in either direction."""

    def from_step(least):
        def attacked(chat, rows, config, steps, check):
            answered = attack(chat, rows, config, steps, check)
            if abs(steps[0]) < least:
                return answered
            return [dataclasses.replace(response, text=None, verdict="unjudged") for response in answered]

        monkeypatch.setattr(landscape, "attack", attacked)

    return from_step


def test_points_that_could_not_be_judged_are_nan_and_counted_and_left_out_of_the_score(chat, asking, mute):
    mute(0.9)
    result, _ = landscape.measure_visage(chat, VisageConfig(n_directions=2, n_points=5, extent=1.0, **asking))
    for one in result.landscapes:
        assert math.isnan(one.asr[0]) and math.isnan(one.asr[4])
        assert [point.n_unjudged for point in one.points] == [24, 0, 0, 0, 24]
        assert one.visage == score.visage(one.asr[1:4])
    assert math.isnan(result.mean_asr[0]) and result.visage_low <= result.visage <= result.visage_high
    ends = [values[place] for values in (result.mean_asr_low, result.mean_asr_high) for place in (0, 4)]
    assert all(map(math.isnan, ends)) and result.mean_asr_low[1] <= result.mean_asr[1] <= result.mean_asr_high[1]


def test_a_line_without_any_verdict_is_refused_in_one_line(chat, asking, mute):
    mute(0.0)
    with pytest.raises(ValueError) as caught:
        landscape.measure(chat, LandscapeConfig(n_points=3, **asking))
    assert repr(chat.uri) in one_line(caught)


def test_verdicts_become_ones_zeros_and_nan(measured):
    one = measured[0].landscapes[0]
    point = dataclasses.replace(one.points[0], verdicts=("refused", "complied", "incoherent", "unjudged"))
    short = dataclasses.replace(one, points=(point,))
    values = summary.jailbroken([short, short])
    assert values.shape == (2, 1, 4) and values[0, 0, :3].tolist() == [0, 1, 1] and math.isnan(values[0, 0, 3])


# From one model to another


def test_a_line_between_models_holds_both_at_0_and_1(chat, base, base_folder, sets, asking):
    config = line_config(**asking)
    result, _ = landscape.measure(chat, config, ends=[End("end", base.weights)])
    assert result.axis == [-0.5, 0.0, 0.5, 1.0, 1.5] and result.plane == "1d-interpolation"
    judged = MeasureConfig(benign_prompts=f"{sets / 'benign_eval.jsonl'}?response=answer", n_benign=2, **asking)
    rows = harmful_rows(config)
    for point, model in ((result.points[1], chat), (result.points[3], base)):
        alone, responses = evaluate(model, rows, [dataclasses.replace(rows[0], response="No.")], judged)
        assert (point.asr, point.asr_low, point.asr_high) == (alone.asr, alone.asr_low, alone.asr_high)
        assert point.verdicts == tuple(response.verdict for response in responses[:24])
    assert result.asr[1] == 0.0 and result.asr[3] >= 90


def test_the_length_of_a_line_is_relative_to_the_weights(chat, base, asking):
    result, _ = landscape.measure(chat, line_config(**asking), ends=[End("end", base.weights)])
    moved = math.sqrt(sum(float((base.weights[n] - w).double().square().sum()) for n, w in chat.weights.items()))
    length = math.sqrt(sum(float(w.double().square().sum()) for w in chat.weights.values()))
    (axis,) = result.axes
    assert (axis.kind, axis.to, axis.seed, axis.norm) == ("difference", "end", None, None)
    assert axis.relative_norm == pytest.approx(moved / length, rel=1e-6)
    (mark,) = result.marks
    assert mark.uri == "end" and (mark.x, mark.y) == pytest.approx((1, 0), abs=1e-12)
