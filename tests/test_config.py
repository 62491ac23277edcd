"""A bad setting is refused where it is made, in one line: its name, the value it got, and a value that works."""

import dataclasses
import math

import pytest

from visage_mlflow.config import (
    DTYPES,
    NORMS,
    AttackConfig,
    EvaluateConfig,
    FinetuneConfig,
    LandscapeConfig,
    ProjectConfig,
    VisageConfig,
)
from visage_mlflow.language.judges import JUDGES

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
