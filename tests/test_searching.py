"""Settings of a search: ranges, rules, and how they come from the command line and from a recipe."""

import dataclasses
import math

import pytest

from visage_mlflow.commands.command_line import parse, read_recipe
from visage_mlflow.config import SearchConfig
from visage_mlflow.config.search import SEARCHED, Range, read_range, utility_name

WHOLE = [name for name, scale in SEARCHED.items() if scale.whole]
NOT_WHOLE = [name for name, scale in SEARCHED.items() if not scale.whole]


def one_line(caught):
    """A refusal's message: one line that names a setting first, and ends."""
    message = str(caught.value)
    assert "\n" not in message and message.startswith("`") and message.endswith("."), message
    return message


def refused_range(name, value):
    with pytest.raises(ValueError) as caught:
        read_range(name, value)
    message = one_line(caught)
    assert message.startswith(f"`{name}` ") and repr(value) in message, message
    return message


def refusal(**settings):
    with pytest.raises(ValueError) as caught:
        SearchConfig(**settings)
    return one_line(caught)


def cure_of(message):
    return message.rpartition("Try ")[2].removesuffix(".")


# Ranges


@pytest.mark.parametrize(
    ("name", "value", "low", "high"),
    [
        ("safe", "0..120", 0, 120),
        ("safe", "7", 7, 7),
        ("safe", 7, 7, 7),
        ("safe", 0, 0, 0),
        ("safe", 7.0, 7, 7),
        ("safe", "1e2", 100, 100),
        ("safe", " 3 .. 5 ", 3, 5),
        ("safe", "5..5", 5, 5),
        ("learning_rate", "1e-4..1e-3", 1e-4, 1e-3),
        ("learning_rate", 5e-4, 5e-4, 5e-4),
        ("learning_rate", "5e-4", 5e-4, 5e-4),
        ("epochs", "0.5..3", 0.5, 3.0),
        ("epochs", 2, 2.0, 2.0),
        ("lora_rank", "4..32", 4, 32),
        ("lora_rank", 0, 0, 0),
        ("lora_rank", "0", 0, 0),
    ],
)
def test_a_range_is_two_ends_or_one_value(name, value, low, high):
    found = read_range(name, value)
    scale = SEARCHED[name]
    assert found == Range(low, high, scale.whole, scale.log) and found.is_fixed is (low == high)
    assert type(found.low) is type(found.high) is (int if scale.whole else float)


@pytest.mark.parametrize("name", SEARCHED)
def test_the_example_of_a_range_and_what_a_range_shows_read_back(name):
    found = read_range(name, SEARCHED[name].example)
    assert not found.is_fixed and read_range(name, str(found)) == found
    fixed = read_range(name, 3)
    assert read_range(name, str(fixed)) == fixed and ".." not in str(fixed)


@pytest.mark.parametrize("name", SEARCHED)
@pytest.mark.parametrize(
    "value", ["", "..", "5..", "..5", "a", "1..b", "1..2..3", "1-5", "1,5", "nan", "inf", "0..inf", "nan..1", "True"]
)
def test_what_is_no_range_is_refused_with_an_example_that_works(name, value):
    message = refused_range(name, value)
    assert "must be a" in message and cure_of(message) == SEARCHED[name].example
    read_range(name, cure_of(message))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, None])
def test_a_value_that_is_no_finite_number_is_refused(value):
    assert "must be a whole number or a range of them" in refused_range("safe", value)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", ["0.5..3", "1..2.5", "2.5", 2.5])
def test_rows_and_ranks_are_whole(name, value):
    assert "must be a whole number or a range of them" in refused_range(name, value)


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [("safe", "9..3", "3..9"), ("lora_rank", "32..4", "4..32"), ("epochs", "3..1", "1.0..3.0"),
     ("learning_rate", "1e-3..1e-4", "0.0001..0.001")],
)  # fmt: skip
def test_ends_in_the_wrong_order_are_refused_with_the_right_one(name, value, cure):
    message = refused_range(name, value)
    assert "low end is above its high end" in message and cure_of(message) == cure
    read_range(name, cure)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [-1, "-1", "-3..5", "-5..-3"])
def test_fewer_than_no_rows_are_refused(name, value):
    message = refused_range(name, value)
    assert "must be 0 or more" in message and read_range(name, cure_of(message))


def test_the_cure_for_ends_in_the_wrong_order_works_where_one_is_below_0():
    read_range("safe", cure_of(refused_range("safe", "3..-5")))


@pytest.mark.parametrize("name", NOT_WHOLE)
@pytest.mark.parametrize("value", [0, "0", "0..1", "-1..1", -1e-4])
def test_a_training_of_no_length_or_rate_is_refused(name, value):
    message = refused_range(name, value)
    assert "must be above 0" in message and read_range(name, cure_of(message))


def test_full_finetuning_is_no_small_rank():
    message = refused_range("lora_rank", "0..32")
    assert "0 means full finetuning" in message and message.endswith("Try 1..32, or 0 alone.")
    read_range("lora_rank", "1..32")


# Rules


def test_the_defaults_are_allowed_and_search_all_that_can_be():
    assert not any(each.is_fixed for each in SearchConfig().space().values())
    assert list(SearchConfig().space()) == list(SEARCHED)


@pytest.mark.parametrize("setting", ["n_trials", "n_checkpoints", "heartbeat", "n_prompts", "train_batch_size"])
@pytest.mark.parametrize("value", [0, -1])
def test_counts_that_must_be_at_least_one_are_refused_below(setting, value):
    message = refusal(**{setting: value})
    assert message.startswith(f"`{setting}` must be") and f"got {value}" in message and cure_of(message) == "1"


@pytest.mark.parametrize("setting", ["patience", "harmful", "task", "n_held_out", "seed"])
def test_a_negative_count_is_refused_and_none_allowed(setting):
    message = refusal(**{setting: -1})
    assert message.startswith(f"`{setting}`") and "got -1" in message and cure_of(message) == "0"
    SearchConfig(**{setting: 0}, benign="1..9")


@pytest.mark.parametrize("setting", ["max_asr", "max_over_refusal", "outside_asr"])
@pytest.mark.parametrize("value", [-0.1, 100.1, math.nan, math.inf])
def test_a_percentage_out_of_bounds_is_refused(setting, value):
    message = refusal(**{setting: value})
    assert message.startswith(f"`{setting}` must be between 0 and 100, got {value}.")
    SearchConfig(**{setting: float(cure_of(message))})


@pytest.mark.parametrize("value", [-0.01, 1.01, 25, math.nan])
def test_a_share_out_of_bounds_is_refused(value):
    message = refusal(warmup=value)
    assert message.startswith(f"`warmup` must be between 0 and 1, got {value}.") and cure_of(message) == "0.25"
    SearchConfig(warmup=0), SearchConfig(warmup=1)


@pytest.mark.parametrize("value", [0.0, -0.01, math.nan, math.inf])
def test_a_utility_step_must_be_above_zero(value):
    message = refusal(utility_step=value)
    assert message.startswith("`utility_step`") and f"got {value}" in message and cure_of(message) == "0.01"


def test_an_unknown_objective_is_refused_with_those_there_are():
    message = refusal(objective="asr")
    assert message.startswith("`objective` must be one of utility, pareto, got 'asr'.")


@pytest.mark.parametrize("setting", ["study", "storage"])
@pytest.mark.parametrize("value", ["", "  "])
def test_a_study_and_its_place_have_names(setting, value):
    assert refusal(**{setting: value}) == f"`{setting}` is empty. Leave it out, or give one."


def test_a_bad_range_is_refused_where_the_config_is_made():
    assert refusal(safe="9..3").startswith("`safe` is '9..3'")


def test_a_space_in_which_nothing_varies_is_refused():
    message = refusal(safe=30, benign=30, learning_rate=1e-4, epochs=1, lora_rank=8)
    assert all(f"`{name}`" in message for name in SEARCHED) and "nothing to search" in message
    SearchConfig(safe=30, benign=30, learning_rate=1e-4, epochs=1, lora_rank="8..9")


def test_a_space_in_which_a_trial_could_have_nothing_to_train_on_is_refused():
    message = refusal(harmful=0)
    assert all(f"`{name}`" in message for name in ("harmful", "task", "safe", "benign"))
    for enough in ({"safe": "1..120"}, {"benign": 1}, {"task": 1, "task_data": "rows.csv"}):
        SearchConfig(harmful=0, **enough)


def test_a_checkpoint_inside_cannot_be_outside():
    message = refusal(max_asr=60.0)
    assert message.startswith("`outside_asr` is 50, below `max_asr` 60")
    SearchConfig(max_asr=50.0), SearchConfig(max_asr=60.0, outside_asr=60.0)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_margin_is_looked_for_up_to_a_finite_way_and_0_looks_for_none(value):
    message = refusal(margin_up_to=value)
    assert message.startswith("`margin_up_to`") and f"got {value}" in message and cure_of(message) == "2.0"
    SearchConfig(margin_up_to=0)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_margin_that_is_demanded_is_finite_and_0_or_more(value):
    message = refusal(margin_min=value)
    assert message.startswith("`margin_min` must be a finite number, 0 or more") and cure_of(message) == "0.3"
    SearchConfig(margin_min=0.0)


@pytest.mark.parametrize(("least", "up_to", "cure"), [(1.5, 2.0, 3.5), (0.0, 0.5, 2.0), (0.3, 0.0, 2.3), (9, 2, 11)])
def test_a_margin_beyond_what_is_looked_at_is_refused(least, up_to, cure):
    message = refusal(margin_min=least, margin_up_to=up_to)
    assert message.startswith(f"`margin_min` is {least:g}, but `margin_up_to` {up_to:g} looks no farther")
    assert message.endswith(f"Raise `margin_up_to` to {cure:g}.")
    SearchConfig(margin_min=least, margin_up_to=cure)


@pytest.mark.parametrize("least", [0.0, 0.2, 0.3, 0.9, 1.0])
def test_a_margin_may_be_all_that_is_looked_at(least):
    SearchConfig(margin_min=least, margin_up_to=float(f"{least + 1:.1f}"))


def test_task_rows_need_their_data_as_in_a_finetuning():
    assert refusal(task=3).startswith("`task` is 3, but `task_data` is empty")


@pytest.mark.parametrize(
    ("task_data", "n_held_out", "name"), [("", 40, "benign_nll"), ("r.csv", 0, "benign_nll"), ("r.csv", 1, "task_nll")]
)
def test_the_utility_is_that_of_the_users_own_answers_if_any_are_held_out(task_data, n_held_out, name):
    assert utility_name(SearchConfig(task_data=task_data, n_held_out=n_held_out)) == name


# What decides a study


def test_what_decides_a_study_is_every_setting_but_those_that_change_no_number():
    changed = {
        "batch_size": 7, "store": "off", "reuse": False, "lean": True, "output_dir": "there",
        "n_trials": 7, "study": "other", "storage": "other.db", "keep_checkpoints": True, "heartbeat": 7,
    }  # fmt: skip
    assert SearchConfig(**changed).decisive() == SearchConfig().decisive()
    fields = {field.name for field in dataclasses.fields(SearchConfig)}
    assert set(SearchConfig().decisive()) == fields - set(changed)


def test_ranges_decide_as_they_are_meant_not_as_they_are_written():
    one = SearchConfig(safe="0..120", benign=30, learning_rate="1e-4..1e-3", epochs=2)
    other = SearchConfig(safe=" 0 .. 1.2e2", benign="30", learning_rate="0.0001..0.001", epochs="2.0..2")
    assert one.decisive() == other.decisive()
    assert one.decisive()["safe"] == "0..120" and one.decisive()["benign"] == "30"
    assert one.decisive() != SearchConfig(safe="0..119", benign=30, learning_rate="1e-4..1e-3", epochs=2).decisive()


# The command line


@pytest.fixture(autouse=True)
def plain_process(monkeypatch):
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)


@pytest.mark.parametrize(
    ("flags", "name", "low", "high"),
    [
        (["--safe", "0..40"], "safe", 0, 40),
        (["--safe", "30"], "safe", 30, 30),
        (["--safe=0"], "safe", 0, 0),
        (["--learning_rate", "5e-5"], "learning_rate", 5e-5, 5e-5),
        (["--learning_rate", "1e-5..5e-4"], "learning_rate", 1e-5, 5e-4),
        (["--epochs", "1.5"], "epochs", 1.5, 1.5),
        (["--epochs", "1..2"], "epochs", 1.0, 2.0),
        (["--lora_rank", "0"], "lora_rank", 0, 0),
    ],
)
def test_a_flag_is_a_range_or_a_value(flags, name, low, high):
    found = parse(SearchConfig, flags).space()[name]
    assert (found.low, found.high) == (low, high)


def test_no_flags_are_the_defaults():
    assert parse(SearchConfig, []) == SearchConfig()


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("safe: 30", 30, 30),
        ("safe: 3.0", 3, 3),
        ("safe: 0..40", 0, 40),
        ('safe: "30"', 30, 30),
        ("safe: '0..40'", 0, 40),
    ],
)
def test_a_recipe_takes_numbers_and_strings(tmp_path, text, low, high):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    found = parse(SearchConfig, ["--config", str(path)]).space()["safe"]
    assert (found.low, found.high) == (low, high)


def test_a_small_rate_in_the_form_that_yaml_takes_for_text_is_a_rate(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("learning_rate: 5e-5\nepochs: 1e0..2\n")
    space = parse(SearchConfig, ["--config", str(path)]).space()
    assert (space["learning_rate"].low, space["learning_rate"].is_fixed) == (5e-5, True)
    assert (space["epochs"].low, space["epochs"].high) == (1.0, 2.0)


def test_a_flag_beats_the_recipe_by_value_and_by_range(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("safe: 0..40\nbenign: 7\n")
    config = parse(SearchConfig, ["--config", str(path), "--safe", "9", "--benign", "1..3"])
    assert (str(config.space()["safe"]), str(config.space()["benign"])) == ("9", "1..3")


def test_the_recipe_of_the_search_is_allowed_and_sets_what_it_says():
    config, said = parse(SearchConfig, ["--config", "search"]), read_recipe("search")
    assert said and all(getattr(config, name) == value for name, value in said.items())
    assert config.n_trials == said["n_trials"]


@pytest.mark.parametrize(
    ("flags", "begins"),
    [
        (["--safe", "9..3"], "`safe` is '9..3'"),
        (["--safe", "many"], "`safe` must be a whole number or a range of them, got 'many'"),
        (["--safe", "true"], "`safe` must be a whole number"),
        (["--safe", "null"], "`safe` must"),
        (["--n_trials", "0"], "`n_trials` must be"),
        (["--warmup", "25"], "`warmup` must be between 0 and 1"),
    ],
)
def test_a_bad_flag_is_told_in_one_line(flags, begins):
    with pytest.raises(ValueError) as caught:
        parse(SearchConfig, flags)
    assert one_line(caught).startswith(begins)
