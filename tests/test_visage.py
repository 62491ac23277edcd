"""VISAGE: several random directions of one model, their means and intervals, and the model itself measured once."""

import dataclasses
import math

import pytest
from stand_in import StandIn, responses_of

from visage_mlflow.config import LandscapeConfig, VisageConfig
from visage_mlflow.geometry import score
from visage_mlflow.geometry.directions import seed_of
from visage_mlflow.geometry.intervals import mean_asr_interval
from visage_mlflow.language.prompts import Row
from visage_mlflow.results import Visage
from visage_mlflow.studies import landscape, visage

NAN = math.nan
ROWS = [Row(f"prompt {index}") for index in range(20)]
# By the distance from the model; of each direction what it is multiplied by.
DEPTHS, SHARES = {0.0: 0.0, 0.25: 30.0, 0.5: 100.0}, (1.0, 0.5, 1.0)
NUMBERS = {seed_of(0, number): number for number in range(3)}


@pytest.fixture(scope="module")
def asking(sets):
    return {"prompts": str(sets / "harmful_eval.jsonl"), "n_prompts": 12, "max_new_tokens": 8, "store": "off"}


@pytest.fixture
def scripted(chat):
    """A function that measures directions on which `asr(number, step)` is given: (result, steps asked)."""

    def measure(asr, n_directions=3, **settings):
        told = {name: settings.pop(name) for name in ("keep", "salvage") if name in settings}
        asked = []

        def answer(chat, held, rows, ask):
            (direction,), (step,) = held.directions, held.steps
            number = NUMBERS[direction.direction.seed]
            asked.append((number, step))
            return responses_of(rows, asr(number, step))

        config = VisageConfig(n_directions=n_directions, n_points=5, workers=1, store="off", **settings)
        return visage.measure(chat, config, rows=ROWS, measurer=StandIn(answer=answer), **told), asked

    return measure


def basin(number, step):
    return SHARES[number] * DEPTHS[abs(step)]


def test_each_direction_is_the_landscape_of_its_own_seed_and_kept_as_they_are_measured(chat, asking):
    kept, told = [], []
    config = VisageConfig(n_directions=3, n_points=5, workers=1, seed=4, **asking)
    result = visage.measure(
        chat, config, progress=lambda *point: told.append(point), keep=lambda *one: kept.append(one)
    )
    assert [number for number, *_ in kept] == [0, 1, 2] and kept[0][2] != kept[1][2] != kept[2][2]
    assert [one for _, one, _ in kept] == list(result.landscapes)
    for number, *one in kept:
        assert tuple(one) == landscape.measure(chat, LandscapeConfig(seed=seed_of(4, number), n_points=5, **asking))
    assert sorted(told) == sorted(((point.x,), point.asr) for one in result.landscapes for point in one.points)


def test_the_model_itself_is_asked_once_for_all_directions(scripted):
    _, asked = scripted(basin)
    away = {(number, step) for number in range(3) for step in (-0.5, -0.25, 0.25, 0.5)}
    assert len(asked) == len(set(asked)) == 13 and set(asked) == away | {(0, 0.0)}


def test_scores_are_means_over_the_directions_with_intervals_over_them(scripted):
    result, _ = scripted(basin, seed=0)
    # ASR of 100, 30, 0, 30 and 100, of which those below 100 count; half as much along the second direction.
    assert [one.visage for one in result.landscapes] == [(70 + 100 + 70) / 3, (50 + 85 + 100 + 85 + 50) / 5, 80.0]
    assert result.visage == pytest.approx((80 + 74 + 80) / 3)
    assert result.visage_contiguous == pytest.approx(sum(one.visage_contiguous for one in result.landscapes) / 3)
    assert result.mean_asr == pytest.approx([250 / 3, 25, 0, 25, 250 / 3])
    succeeded = visage.jailbroken(result.landscapes)
    assert (result.visage_low, result.visage_high) == score.visage_interval(succeeded, seed=0)
    low, high = mean_asr_interval(succeeded)
    assert (result.mean_asr_low, result.mean_asr_high) == (tuple(low), tuple(high))
    assert result.visage_low <= result.visage <= result.visage_high


def test_points_left_out_at_100_do_not_change_visage_and_end_the_mean(scripted, tmp_path):
    def cliff(number, step):
        return 0.0 if step == 0 or (number == 1 and step == -0.25) else 100.0

    whole, _ = scripted(cliff)
    result, asked = scripted(cliff, outside_after=1)
    left_out = [[point.x for point in one.points if not point.verdicts] for one in result.landscapes]
    assert left_out == [[-0.5, 0.5], [0.5], [-0.5, 0.5]] and len(asked) == 13 - 5
    for name in ("visage", "visage_low", "visage_high"):
        assert getattr(result, name) == getattr(whole, name)
    for name in ("mean_asr", "mean_asr_low", "mean_asr_high"):
        found, full = getattr(result, name), getattr(whole, name)
        assert [math.isnan(value) for value in found] == [True, False, False, False, True] and found[1:4] == full[1:4]
    result.save(tmp_path / "visage.json")
    assert Visage.load(tmp_path / "visage.json") == result


def test_points_that_could_not_be_judged_are_left_out_of_score_and_mean(scripted):
    result, _ = scripted(lambda number, step: NAN if step == 0.5 else basin(number, step))
    assert [point.n_unjudged for point in result.landscapes[0].points] == [0, 0, 0, 0, 20]
    assert [one.visage for one in result.landscapes] == [80.0, (50 + 85 + 100 + 85) / 4, 80.0]
    for values in (result.mean_asr, result.mean_asr_low, result.mean_asr_high):
        assert [math.isnan(value) for value in values] == [False] * 4 + [True]
    assert result.visage_low <= result.visage <= result.visage_high


def test_verdicts_become_ones_and_zeros_and_nan_where_nothing_was_judged(scripted):
    one = scripted(basin)[0].landscapes[0]
    setup = dataclasses.replace(one.setup, n_prompts=4)
    judged = dataclasses.replace(one.points[0], verdicts=("refused", "complied", "incoherent", "unjudged"))
    skipped = dataclasses.replace(one.points[0], verdicts=())
    axis = dataclasses.replace(one.axes[0], steps=one.axes[0].steps[:2])
    values = visage.jailbroken([dataclasses.replace(one, setup=setup, axes=(axis,), points=(judged, skipped))] * 2)
    assert values.shape == (2, 2, 4) and values[1, 0, :3].tolist() == [0, 1, 1]
    assert math.isnan(values[1, 0, 3]) and all(map(math.isnan, values[1, 1]))


def test_cut_off_the_directions_that_are_done_are_kept_and_the_last_one_is_handed_over_in_part(scripted):
    def interrupted(number, step):
        if (number, step) == (1, -0.25):
            raise KeyboardInterrupt
        return basin(number, step)

    kept, parts = [], []
    with pytest.raises(KeyboardInterrupt):
        scripted(interrupted, keep=lambda *one: kept.append(one), salvage=lambda *part: parts.append(part))
    ((number, whole, _),) = kept
    assert number == 0 and whole == scripted(basin)[0].landscapes[0]
    ((number, part, responses),) = parts
    assert number == 1 and [point.x for point in part.points if point.verdicts] == [-0.5, 0.0, 0.5]
    assert [response.x for response in responses] == [x for x in (-0.5, 0.0, 0.5) for _ in ROWS]


def test_runs_of_neighbouring_seeds_share_no_direction():
    seeds = [seed_of(seed, number) for seed in range(50) for number in range(8)]
    assert len(set(seeds)) == 400 and [seed_of(seed, 0) for seed in range(50)] == list(range(50))


def test_one_direction_has_no_interval_and_says_so(scripted):
    result, _ = scripted(basin, n_directions=1)
    assert math.isnan(result.visage_low) and math.isnan(result.visage_high) and math.isnan(result.visage_depth_low)
    assert all(map(math.isnan, result.mean_asr_low)) and not any(map(math.isnan, result.mean_asr))
    assert result.interval == "one direction: no interval over directions"
    assert not {"visage_low", "visage_high", "visage_depth_low"} & set(result.metrics())


def test_landscapes_that_do_not_compare_have_no_mean(scripted):
    one = scripted(basin)[0].landscapes[0]
    other = dataclasses.replace(one, setup=dataclasses.replace(one.setup, n_prompts=16))
    with pytest.raises(ValueError, match="number of prompts: 20 and 16"):
        visage.combined([one, other], 0)
