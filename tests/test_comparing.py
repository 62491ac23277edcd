"""What keeps two results from being compared."""

from dataclasses import replace

import made
import pytest

from visage_mlflow.results import comparable


def test_results_measured_alike_compare_whatever_model_and_direction():
    one, other = made.landscape(seed=0), made.landscape(seed=5)
    assert comparable(one, replace(other, setup=replace(other.setup, model="org/other"))) == []
    assert comparable(made.visage(), made.visage()) == comparable(made.evaluation(), one) == []


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("n_prompts", 16, "number of prompts: 4 and 16"),
        ("judge", "another", "judge: keyword and another"),
        ("judge_version", 2, "version of the judge: 1 and 2"),
        ("max_new_tokens", 512, "longest answer in tokens: 16 and 512"),
        ("system_prompt", "Be kind.", "system prompt: the template's and Be kind."),
        ("prompts_digest", "cd" * 32, "other prompts"),
    ],
)
def test_each_setting_that_decides_a_number_is_told(setting, value, told):
    one = made.landscape()
    assert comparable(one, replace(one, setup=replace(one.setup, **{setting: value}))) == [told]


def test_another_grid_plane_norm_or_number_of_directions_is_told():
    one = made.landscape()
    wide = replace(one, axes=(replace(one.axes[0], steps=(-1.0, -0.5, 0.0, 0.5, 1.0)),))
    assert comparable(one, wide) == ["grid: 5 points from -0.5 to 0.5 and 5 points from -1 to 1"]
    by_row = replace(one, axes=(replace(one.axes[0], norm="row"),))
    assert comparable(one, by_row) == ["norm of random directions: layer and row"]
    assert comparable(one, made.line())[-1] == "plane: 1d-random and 1d-interpolation"
    assert comparable(made.visage(), one) == ["number of directions: 2 and 1"]


def test_the_ordinary_prompts_of_two_evaluations_are_told_where_they_are_known():
    one = replace(made.evaluation(), n_benign=40, benign_digest="a")
    fewer, others = replace(one, n_benign=20, benign_digest="b"), replace(one, benign_digest="c")
    assert comparable(one, fewer) == ["number of ordinary prompts: 40 and 20"]
    assert comparable(one, others) == ["other ordinary prompts"]
    assert comparable(one, replace(one)) == comparable(one, made.evaluation()) == comparable(one, made.visage()) == []


def test_lines_towards_different_models_do_not_compare():
    one = made.line()
    other = replace(one, axes=(replace(one.axes[0], to="org/other"),))
    assert comparable(one, other) == ["towards another model: models:/m-fedcba9876543210 and org/other"]


def test_points_skipped_on_one_side_are_told_since_mean_depth_then_is_over_other_points():
    one = made.landscape()
    less = replace(one, points=(*one.points[:3], made.skipped(0.25), made.skipped(0.5)))
    assert comparable(one, less) == ["points skipped: 0 and 2, so mean depth does not compare"]
    assert comparable(less, less) == []
