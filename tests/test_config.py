"""A bad setting is refused where it is made, in one line: its name, the value it got, and a value that works."""

import dataclasses
import datetime
import math
import re

import pytest

from visage_mlflow.config import (
    AttackConfig,
    EvaluateConfig,
    FinetuneConfig,
    LandscapeConfig,
    ProjectConfig,
    VisageConfig,
)
from visage_mlflow.config.attack import DTYPES
from visage_mlflow.config.grid import AXES, NORMS, PLANES
from visage_mlflow.language.judges import JUDGES
from visage_mlflow.text.errors import Mistake

MEASURING = (EvaluateConfig, FinetuneConfig)
ON_A_LINE = (LandscapeConfig, VisageConfig, ProjectConfig)
ATTACKING = (*MEASURING, *ON_A_LINE)
LINE = {"plane": "1d-interpolation", "to": "b"}


def refusal(config_class, **settings):
    """The message with which a config is refused, as one line that offers a cure."""
    with pytest.raises(ValueError) as caught:
        config_class(**settings)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("`") and message.endswith(".")
    assert any(cure in message for cure in ("Try ", "Give ", "Name ")), message
    return message


def refused(config_class, setting, value, **others):
    """The same for one bad value: the message begins with the setting's name and shows the value."""
    message = refusal(config_class, **{setting: value}, **others)
    assert message.startswith(f"`{setting}`") and f"got {value!r}" in message, message
    return message


def cured(config_class, setting, message, **others):
    """The value that a message says to try, after it has been seen to work."""
    text = message.rpartition("Try ")[2].removesuffix(".")
    field = next(field for field in dataclasses.fields(config_class) if field.name == setting)
    value = type(field.default)(text)
    config_class(**{setting: value}, **others)
    return value


@pytest.mark.parametrize("config_class", ATTACKING)
def test_defaults_are_allowed(config_class):
    config_class()


@pytest.mark.parametrize("config_class", ATTACKING)
@pytest.mark.parametrize("setting", ["n_prompts", "max_new_tokens", "batch_size"])
@pytest.mark.parametrize("value", [0, -1])
def test_how_a_model_is_attacked_needs_counts_above_zero(config_class, setting, value):
    assert cured(config_class, setting, refused(config_class, setting, value)) == 1


@pytest.mark.parametrize("config_class", MEASURING)
@pytest.mark.parametrize("value", [0, -5])
def test_over_refusal_needs_ordinary_prompts(config_class, value):
    assert cured(config_class, "n_benign", refused(config_class, "n_benign", value)) == 1


@pytest.mark.parametrize("config_class", ATTACKING)
def test_a_negative_seed_is_refused(config_class):
    assert cured(config_class, "seed", refused(config_class, "seed", -1)) == 0


@pytest.mark.parametrize("config_class", ATTACKING)
@pytest.mark.parametrize(("setting", "allowed"), [("judge", tuple(JUDGES)), ("dtype", DTYPES)])
@pytest.mark.parametrize("value", ["gpt", "", "Float32"])
def test_a_word_that_is_not_on_the_list_is_refused_with_the_list(config_class, setting, allowed, value):
    message = refused(config_class, setting, value)
    assert all(word in message for word in allowed)
    assert cured(config_class, setting, message) == allowed[0]


@pytest.mark.parametrize("config_class", [LandscapeConfig, VisageConfig])
def test_an_unknown_norm_is_refused(config_class):
    message = refused(config_class, "norm", "filter")
    assert all(word in message for word in NORMS) and cured(config_class, "norm", message) == "layer"


def test_an_unknown_plane_is_refused():
    message = refused(LandscapeConfig, "plane", "3d")
    assert cured(LandscapeConfig, "plane", message) == "1d-random"


def test_unknown_benign_answers_are_refused():
    assert cured(FinetuneConfig, "benign_answers", refused(FinetuneConfig, "benign_answers", "mine")) == "own"


# Finetuning


@pytest.mark.parametrize("setting", ["harmful", "safe", "benign", "task", "lora_rank", "save_every"])
def test_a_negative_number_of_rows_ranks_or_steps_is_refused(setting):
    message = refused(FinetuneConfig, setting, -1, task_data="rows.csv")
    assert cured(FinetuneConfig, setting, message, task_data="rows.csv") == 0


@pytest.mark.parametrize("setting", ["train_batch_size", "own_answer_tokens"])
@pytest.mark.parametrize("value", [0, -3])
def test_training_needs_batches_and_answers_of_at_least_one(setting, value):
    assert cured(FinetuneConfig, setting, refused(FinetuneConfig, setting, value)) == 1


def test_chats_too_short_to_hold_an_answer_are_refused():
    assert cured(FinetuneConfig, "max_length", refused(FinetuneConfig, "max_length", 15)) == 16


@pytest.mark.parametrize("setting", ["learning_rate", "epochs"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_training_rate_and_length_must_be_finite_and_above_zero(setting, value):
    default = getattr(FinetuneConfig(), setting)
    assert cured(FinetuneConfig, setting, refused(FinetuneConfig, setting, value)) == default


def test_a_mixture_of_nothing_is_refused():
    message = refusal(FinetuneConfig, harmful=0, safe=0, benign=0, task=0)
    assert all(f"`{kind}`" in message for kind in ("harmful", "safe", "benign", "task")) and "all 0" in message
    FinetuneConfig(harmful=0, safe=80, benign=0, task=0)


def test_task_rows_without_their_data_are_refused():
    message = refusal(FinetuneConfig, task=5)
    assert message.startswith("`task` is 5") and "`task_data` is empty" in message
    FinetuneConfig(task=5, task_data="rows.csv")


def test_task_data_without_task_rows_is_allowed():
    FinetuneConfig(task=0, task_data="rows.csv")


def test_counts_list_every_kind_in_the_order_of_mixtures():
    counts = FinetuneConfig(harmful=1, safe=2, benign=3, task=4, task_data="rows.csv").counts()
    assert list(counts.items()) == [("harmful", 1), ("safe", 2), ("benign", 3), ("task", 4)]


# Grids


@pytest.mark.parametrize("config_class", [LandscapeConfig, VisageConfig])
@pytest.mark.parametrize(("value", "cure"), [(20, 21), (4, 5), (2, 3), (1, 3), (0, 3), (-7, 3)])
def test_a_random_line_that_skips_the_model_is_refused(config_class, value, cure):
    assert cured(config_class, "n_points", refused(config_class, "n_points", value)) == cure


@pytest.mark.parametrize(("config_class", "others"), [(LandscapeConfig, LINE), (ProjectConfig, {})])
@pytest.mark.parametrize(("value", "cure"), [(20, 21), (4, 5), (3, 5), (0, 5), (-7, 5)])
def test_a_line_between_models_that_could_not_hold_both_is_refused(config_class, others, value, cure):
    message = refused(config_class, "n_points", value, **others)
    assert cured(config_class, "n_points", message, **others) == cure


@pytest.mark.parametrize("config_class", [LandscapeConfig, VisageConfig])
@pytest.mark.parametrize("value", [0.0, -0.5, math.nan, math.inf])
def test_a_line_without_a_finite_extent_is_refused(config_class, value):
    assert cured(config_class, "extent", refused(config_class, "extent", value)) == 0.5


@pytest.mark.parametrize(("config_class", "others"), [(LandscapeConfig, LINE), (ProjectConfig, {})])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_line_that_ends_before_its_models_is_refused(config_class, others, value):
    assert cured(config_class, "extra", refused(config_class, "extra", value, **others), **others) == 0.5
    config_class(extra=0.0, **others)


@pytest.mark.parametrize("config_class", ON_A_LINE)
@pytest.mark.parametrize("setting", ["workers", "outside_after"])
@pytest.mark.parametrize("value", [-1, -4])
def test_a_negative_number_of_workers_or_of_points_outside_is_refused_with_the_rule(config_class, setting, value):
    message = refused(config_class, setting, value)
    assert "at least 0" in message and cured(config_class, setting, message) == 0


@pytest.mark.parametrize("config_class", ON_A_LINE)
def test_nothing_is_skipped_and_the_machine_decides_on_workers_unless_told_otherwise(config_class):
    assert (config_class().outside_after, config_class().workers) == (0, 0)
    config_class(outside_after=2, workers=3)


@pytest.mark.parametrize("config_class", ATTACKING)
def test_memory_is_saved_only_where_it_is_asked_for(config_class):
    assert config_class().lean is False and config_class(lean=True).lean is True


def test_visage_needs_a_direction():
    assert cured(VisageConfig, "n_directions", refused(VisageConfig, "n_directions", 0)) == 1


def test_an_interpolation_needs_its_other_end():
    message = refusal(LandscapeConfig, plane="1d-interpolation")
    assert message.startswith("`to` is empty") and "plane=1d-interpolation" in message
    LandscapeConfig(plane="1d-interpolation", to="b")


def test_a_random_line_has_no_other_end():
    message = refusal(LandscapeConfig, plane="1d-random", to="builtin:smollm2")
    assert message.startswith("`to` is 'builtin:smollm2'") and message.endswith("Try plane=1d-interpolation.")


def test_a_config_cannot_be_changed_after_it_was_checked():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AttackConfig().n_prompts = 0  # type: ignore[misc]


# Planes

SPANNED_BY = {"1d-interpolation": "b", "2d-interpolation": "b,c", "2d-interpolation-random": "b", "2d-pca": "b,c,d"}
FLAT = [plane for plane in PLANES if plane.startswith("2d")]


def spanned(plane):
    return {"plane": plane, "to": SPANNED_BY.get(plane, "")}


@pytest.mark.parametrize("plane", PLANES)
def test_every_plane_is_allowed_with_as_many_models_as_it_needs(plane):
    config = LandscapeConfig(**spanned(plane))
    assert config.count_points(plane) == 21 ** len(AXES[plane])
    assert config.axis_settings() == ((21, 0.5, 0.5), (21, 0.5, 0.5))
    ProjectConfig(**spanned(plane))


def test_the_second_axis_is_as_the_first_unless_it_is_told_otherwise():
    config = LandscapeConfig(**spanned("2d-random"), n_points=5, extent=0.2, y_n_points=7, y_extent=0.9)
    assert config.axis_settings() == ((5, 0.2, 0.5), (7, 0.9, 0.5)) and config.count_points("2d-random") == 35
    config = LandscapeConfig(**spanned("2d-pca"), n_points=5, extra=0.0, y_extra=0.1)
    assert config.axis_settings() == ((5, 0.5, 0.0), (5, 0.5, 0.1))


@pytest.mark.parametrize("plane", ["1d-random", "1d-interpolation"])
@pytest.mark.parametrize(("setting", "value"), [("y_n_points", 5), ("y_extent", 0.5), ("y_extra", 0.0)])
def test_a_line_has_no_second_axis(plane, setting, value):
    with pytest.raises(ValueError) as caught:
        LandscapeConfig(**spanned(plane), **{setting: value})
    message = str(caught.value)
    assert message.startswith(f"`{setting}` is {value}") and f"plane={plane} has no second axis" in message
    assert "\n" not in message and any(cure in message for cure in ("Try ", "Leave ", "Give "))


@pytest.mark.parametrize("config_class", [LandscapeConfig, ProjectConfig])
@pytest.mark.parametrize("plane", FLAT)
@pytest.mark.parametrize("value", [20, 4, 2, 1, 0, -7])
@pytest.mark.parametrize("setting", ["n_points", "y_n_points"])
def test_an_axis_of_a_plane_that_skips_the_model_is_refused_by_name(config_class, plane, value, setting):
    message = refused(config_class, setting, value, **spanned(plane))
    cure = int(message.rpartition("Try ")[2].removesuffix("."))
    assert config_class(**spanned(plane), **{setting: cure})


@pytest.mark.parametrize(("plane", "value", "refuses"), [("2d-random", 3, False), ("2d-interpolation", 3, True)])
def test_three_points_do_for_a_random_axis_only(plane, value, refuses):
    if refuses:
        refused(LandscapeConfig, "y_n_points", value, **spanned(plane))
    else:
        LandscapeConfig(**spanned(plane), y_n_points=value)
    LandscapeConfig(**spanned("2d-interpolation-random"), y_n_points=3)


@pytest.mark.parametrize("plane", ["2d-random", "2d-interpolation-random"])
@pytest.mark.parametrize("value", [0.0, -0.5, math.nan, math.inf])
def test_a_random_second_axis_without_a_finite_extent_is_refused_by_name(plane, value):
    message = refused(LandscapeConfig, "y_extent", value, **spanned(plane))
    assert message.endswith("Try 0.5.") and LandscapeConfig(**spanned(plane), y_extent=0.5)


@pytest.mark.parametrize("plane", ["2d-interpolation", "2d-pca"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_second_axis_that_ends_before_its_models_is_refused_by_name(plane, value):
    message = refused(LandscapeConfig, "y_extra", value, **spanned(plane))
    assert message.endswith("Try 0.5.") and LandscapeConfig(**spanned(plane), y_extra=0.0)


@pytest.mark.parametrize(
    ("plane", "to"),
    [
        ("1d-interpolation", "b,c"),
        ("2d-interpolation", ""),
        ("2d-interpolation", "b"),
        ("2d-interpolation", "b,c,d"),
        ("2d-interpolation-random", ""),
        ("2d-interpolation-random", "b,c"),
        ("2d-pca", ""),
        ("2d-pca", "b,c"),
    ],
)
def test_a_wrong_number_of_other_models_is_refused_with_the_right_one(plane, to):
    message = refusal(LandscapeConfig, plane=plane, to=to)
    assert message.startswith("`to` is") and f"plane={plane} is spanned by" in message and "Give " in message
    if to:
        assert repr(", ".join(to.split(","))) in message and f"{len(to.split(','))} of them" in message
        refusal(ProjectConfig, plane=plane, to=to)


@pytest.mark.parametrize("to", [" b , c ,", "b,c", ",b,,c"])
def test_other_models_are_separated_by_commas(to):
    assert LandscapeConfig(plane="2d-interpolation", to=to).ends == ["b", "c"]


@pytest.mark.parametrize("plane", ["2d-interpolation", "2d-pca"])
def test_all_checkpoints_of_a_run_are_counted_when_they_are_looked_up(plane):
    assert LandscapeConfig(plane=plane, to="runs:/abc").ends == ["runs:/abc"]


def test_a_random_plane_has_no_other_end():
    message = refusal(LandscapeConfig, plane="2d-random", to="b")
    assert message.startswith("`to` is 'b'") and message.endswith("Try plane=2d-interpolation.")


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_margin_that_is_not_finite_is_refused_and_0_looks_for_none(value):
    assert cured(ProjectConfig, "margin_up_to", refused(ProjectConfig, "margin_up_to", value)) == 4.0
    ProjectConfig(margin_up_to=0)


def test_a_finetuning_is_named_by_its_run_or_by_its_checkpoints():
    assert ProjectConfig(run="a, b").runs == ["a", "b"]
    with pytest.raises(ValueError, match="^`run` is 'a' and `checkpoints` 'b': give one of the two[.]$"):
        ProjectConfig(run="a", checkpoints="b", model="c")
    assert refusal(ProjectConfig, checkpoints="b").startswith("`model` is empty")
    with pytest.raises(ValueError, match="^`model` is 'c', but a run knows its own"):
        ProjectConfig(run="a", model="c")
    ProjectConfig(checkpoints="b, c", model="a")


def test_the_plane_of_a_projection_follows_the_number_of_finetunings_unless_it_is_named():
    auto, named = ProjectConfig(), ProjectConfig(plane="2d-random")
    assert [auto.plane_for(n) for n in (1, 2, 5)] == ["1d-interpolation", "2d-interpolation", "2d-interpolation"]
    assert [named.plane_for(n) for n in (1, 2)] == ["2d-random", "2d-random"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({1: 2}, "the name 1, which must be a text"),
        ({"a": {2: 3}}, "the name 2, which must be a text"),
        ({"a": math.inf}, "'a' the value inf"),
        ({"a": [b"x"]}, "'a' the value b'x'"),
        ({"enable_thinking": "False"}, "the text 'False', which templates take for true"),
    ],
)
def test_arguments_of_a_template_that_no_file_could_keep_are_refused(given, said):
    with pytest.raises(Mistake, match=f"^`template` .*{re.escape(said)}"):
        EvaluateConfig(template=given)


def test_a_date_among_them_is_its_text():
    assert EvaluateConfig(template={"day": datetime.date(2026, 1, 2)}).template == {"day": "2026-01-02"}
