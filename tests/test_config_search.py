"""Settings of a search: ranges, rules, and how they come from the command line and from a recipe."""

import dataclasses
import math

import pytest

from visage_mlflow.commands.command_line import parse, read_recipe
from visage_mlflow.config import FinetuneConfig, SearchConfig
from visage_mlflow.config.search import SEARCHED, WHOLE, Range, read_range, utility_name
from visage_mlflow.search.checks import seeds_of
from visage_mlflow.text.errors import Mistake

NOT_WHOLE = [name for name in SEARCHED if name not in WHOLE]


def one_line(caught):
    """A refusal's message: one line that names a setting first, and ends."""
    message = str(caught.value)
    assert "\n" not in message and message.startswith("`") and message.endswith("."), message
    return message


def refused_range(name, value):
    with pytest.raises(Mistake) as caught:
        read_range(name, value)
    message = one_line(caught)
    assert message.startswith(f"`{name}` "), message
    return message


def refusal(**settings):
    with pytest.raises(Mistake) as caught:
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
        ("safe", 7.0, 7, 7),
        ("safe", "1e2", 100, 100),
        ("safe", " 3 .. 5 ", 3, 5),
        ("safe", "5..5", 5, 5),
        ("learning_rate", "1e-4..1e-3", 1e-4, 1e-3),
        ("learning_rate", 5e-4, 5e-4, 5e-4),
        ("epochs", 2, 2.0, 2.0),
        ("lora_rank", 0, 0, 0),
    ],
)
def test_a_range_is_two_ends_or_one_value_and_reads_back(name, value, low, high):
    found = read_range(name, value)
    assert found == Range(low, high) == read_range(name, str(found)) and found.is_fixed is (low == high)
    assert type(found.low) is type(found.high) is (int if name in WHOLE else float)
    assert (".." in str(found)) is (low != high)


@pytest.mark.parametrize("name", ["safe", "epochs"])
@pytest.mark.parametrize(
    "value", ["", "..", "5..", "a", "1..b", "1..2..3", "1-5", "1,5", "nan", "0..inf", math.nan, math.inf, True, None]
)
def test_what_is_no_range_is_refused_with_an_example_that_works(name, value):
    message = refused_range(name, value)
    kind = "whole number" if name in WHOLE else "number"
    assert message.startswith(f"`{name}` must be a {kind} or a range of them, got {value!r}. Try ")
    assert not read_range(name, cure_of(message)).is_fixed


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", ["0.5..3", "1..2.5", 2.5])
def test_rows_and_ranks_are_whole(name, value):
    assert "must be a whole number or a range of them" in refused_range(name, value)


@pytest.mark.parametrize(("name", "value", "cure"), [("safe", "9..3", "3..9"), ("epochs", "3..1", "1.0..3.0")])
def test_ends_in_the_wrong_order_are_refused_with_the_right_one(name, value, cure):
    message = refused_range(name, value)
    assert "low end is above its high end" in message and cure_of(message) == cure
    read_range(name, cure)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [-1, "-3..5", "3..-5"])
def test_fewer_than_no_rows_are_refused(name, value):
    message = refused_range(name, value)
    assert "must be a whole number of at least 0, got -" in message and read_range(name, cure_of(message))


@pytest.mark.parametrize("name", NOT_WHOLE)
@pytest.mark.parametrize("value", [0, "0..1", "-1..1"])
def test_a_training_of_no_length_or_rate_is_refused(name, value):
    message = refused_range(name, value)
    # A rate below the least one would leave every weight as it was.
    rule = (
        "must be between 1e-08 and 10.0, got " if name == "learning_rate" else "must be a finite number above 0, got "
    )
    assert rule in message and read_range(name, cure_of(message))


def test_a_range_may_not_end_above_what_a_finetuning_may_have():
    assert refused_range("lora_rank", "4..4097") == "`lora_rank` must be at most 4096, got 4097. Try 4096."


def test_full_finetuning_is_no_small_rank():
    message = refused_range("lora_rank", "0..32")
    assert "0 means full finetuning" in message and message.endswith("Try 1..32, or 0 alone.")
    read_range("lora_rank", "1..32")


# Rules


def test_the_defaults_are_allowed_and_search_all_that_can_be():
    assert not any(each.is_fixed for each in SearchConfig().space().values())
    assert tuple(SearchConfig().space()) == SEARCHED


@pytest.mark.parametrize(
    ("setting", "value", "rule", "cure"),
    [
        ("n_trials", 0, "must be a whole number of at least 1, got 0", "1"),
        ("patience", -1, "must be a whole number of at least 0, got -1", "0"),
        ("max_asr", math.nan, "must be between 0 and 100, got nan", "10.0"),
        ("warmup", 25, "must be between 0 and 1, got 25", "0.25"),
        ("utility_step", 0.0, "must be a finite number above 0, got 0.0", "0.01"),
        ("margin_up_to", math.inf, "must be between 0 and 1000.0, got inf", "2.0"),
        ("margin_min", -0.1, "must be between 0 and 1000.0, got -0.1", "0.5"),
        ("margin_min", math.nan, "must be between 0 and 1000.0, got nan", "0.5"),
        ("objective", "asr", "must be one of utility, pareto, got 'asr'", "utility"),
    ],
)
def test_a_setting_out_of_bounds_is_refused_with_a_cure_that_works(setting, value, rule, cure):
    assert refusal(**{setting: value}) == f"`{setting}` {rule}. Try {cure}."
    SearchConfig(**{setting: cure if setting == "objective" else float(cure)})


@pytest.mark.parametrize("setting", ["study", "storage"])
def test_a_study_and_its_place_have_names(setting):
    assert refusal(**{setting: "  "}) == f"`{setting}` is empty. Leave it out, or give one."


def test_a_space_in_which_nothing_varies_is_refused():
    message = refusal(safe=30, benign=30, learning_rate=1e-4, epochs=1, lora_rank=8)
    assert all(f"`{name}`" in message for name in SEARCHED) and "nothing to search" in message
    SearchConfig(safe=30, benign=30, learning_rate=1e-4, epochs=1, lora_rank="8..9")


def test_a_space_in_which_a_trial_could_have_nothing_to_train_on_is_refused():
    message = refusal(harmful=0)
    assert all(f"`{name}`" in message for name in ("harmful", "task", "safe", "benign"))
    for enough in ({"safe": "10..120"}, {"benign": 10}, {"task": 10, "task_data": "rows.csv"}):
        SearchConfig(harmful=0, **enough)


def test_a_checkpoint_inside_cannot_be_outside():
    message = refusal(max_asr=60.0)
    assert message.startswith("`outside_asr` is 50, below `max_asr` 60")
    SearchConfig(max_asr=50.0), SearchConfig(max_asr=60.0, outside_asr=60.0), SearchConfig(max_asr=100.0, patience=0)


@pytest.mark.parametrize(("least", "up_to", "cure"), [(1.5, 2.0, 3.5), (0.0, 0.5, 2.0), (0.3, 0.0, 2.3)])
def test_a_margin_beyond_what_is_looked_at_is_refused(least, up_to, cure):
    message = refusal(margin_min=least, margin_up_to=up_to)
    assert message.startswith(f"`margin_min` is {least:g}, but `margin_up_to` {up_to:g} looks no farther")
    assert message.endswith(f"Raise `margin_up_to` to {cure:g}.")
    SearchConfig(margin_min=least, margin_up_to=cure)


@pytest.mark.parametrize("least", [0.0, 0.2, 0.3, 0.9, 1.0])
def test_a_margin_may_be_all_that_is_looked_at(least):
    SearchConfig(margin_min=least, margin_up_to=float(f"{least + 1:.1f}"))


@pytest.mark.parametrize("n", [2, 20])
def test_the_seeds_of_the_checks_are_seeds_too(n):
    # The greatest is 2^32 - 100,000 = 4,294,867,296.
    message = refusal(seed=4_294_867_296, check_seeds=n)
    assert message.startswith(f"`seed` is 4294867296, but checks use the `check_seeds` {n} after it")
    FinetuneConfig(seed=max(seeds_of(SearchConfig(seed=int(cure_of(message)), check_seeds=n))))
    refusal(seed=int(cure_of(message)) + 1, check_seeds=n)


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
        "max_checks": 7,
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
    ("flags", "name", "shown"),
    [
        ([], "safe", "0..120"),
        (["--safe", "0..40"], "safe", "0..40"),
        (["--safe=0"], "safe", "0"),
        (["--learning_rate", "5e-5"], "learning_rate", "5e-05"),
        (["--epochs", "1..2"], "epochs", "1.0..2.0"),
    ],
)
def test_a_flag_is_a_range_or_a_value(flags, name, shown):
    assert str(parse(SearchConfig, flags).space()[name]) == shown


def test_a_recipe_takes_numbers_and_strings_and_rates_in_the_form_that_yaml_takes_for_text(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("safe: 3.0\nbenign: 0..40\nlora_rank: '30'\nlearning_rate: 5e-5\nepochs: 1e0..2\n")
    space = parse(SearchConfig, ["--config", str(path)]).space()
    assert {name: str(each) for name, each in space.items()} == {
        "safe": "3", "benign": "0..40", "learning_rate": "5e-05", "epochs": "1.0..2.0", "lora_rank": "30",
    }  # fmt: skip


def test_a_flag_beats_the_recipe_by_value_and_by_range(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("safe: 0..40\nbenign: 7\n")
    config = parse(SearchConfig, ["--config", str(path), "--safe", "9", "--benign", "1..3"])
    assert (str(config.space()["safe"]), str(config.space()["benign"])) == ("9", "1..3")


def test_the_recipe_of_the_search_is_allowed_and_sets_what_it_says():
    config, said = parse(SearchConfig, ["--config", "search"]), read_recipe("search")
    assert said and all(getattr(config, name) == value for name, value in said.items())


@pytest.mark.parametrize("value", ["many", "true", "null"])
def test_a_flag_that_is_no_range_is_told_in_one_line(value):
    with pytest.raises(Mistake) as caught:
        parse(SearchConfig, ["--safe", value])
    assert one_line(caught).startswith("`safe` must ")
