"""One trial of a search: when it is ended, how it is judged, and what it trains."""

import dataclasses
import math
import random

import planted
import pytest
import yaml
from stand_in import StandIn

from visage_mlflow.commands.command_line import parse
from visage_mlflow.config import FinetuneConfig, SearchConfig
from visage_mlflow.config.search import WHOLE
from visage_mlflow.results import Checkpoint, Edge, Response
from visage_mlflow.search.trial import (
    Watch,
    check_base,
    find_margin,
    judge,
    largest,
    planned_steps,
    recipe,
    settings_of,
)
from visage_mlflow.studies.finetuning import Ended
from visage_mlflow.text.errors import Mistake

NAN = math.nan
FINETUNING = FinetuneConfig(model="org/model", harmful=30, safe=40, benign=20)


def checkpoint(step, asr, over_refusal=5.0):
    return Checkpoint(f"models:/m-{step}", step, 0.001, planted.evaluation(asr, over_refusal))


def ended_at(rates, **more):
    """The step at which a trial with these ASRs at 10, 20, … of 100 steps is ended; None if it is not."""
    watch = Watch(planted.settings(**more), 100)
    for index, asr in enumerate(rates, start=1):
        try:
            watch(checkpoint(10 * index, asr))
        except Ended:
            return 10 * index
    return None


# Watch: a checkpoint every 10 of 100 steps; the first 25 are warm-up.


@pytest.mark.parametrize(
    ("rates", "more", "ended"),
    [
        ((100, 100, 100, 100), {}, 40),  # Those at 10 and 20 are in the warm-up; 30 and 40 are two.
        ((0, 0, 100, 0, 100, 100), {}, 60),
        ((0, 0, 100, 49.9, 100, 49.9, 100), {}, None),
        ((100, 100, 0, 0, 100), {"patience": 1}, 50),
        ((100,) * 10, {"patience": 3}, 50),
        ((100,) * 10, {"patience": 0}, None),
        ((0,) * 10, {}, None),
        ((0,) * 8 + (100, 100), {}, None),  # The last checkpoint ends nothing.
        ((0,) * 7 + (100, 100, 100), {}, 90),
        ((100,) * 10, {"warmup": 0.0}, 20),
        ((100,) * 10, {"warmup": 0.1}, 30),
        ((100,) * 10, {"warmup": 0.8}, None),
        ((49.9,) * 10, {}, None),
        ((50.0,) * 10, {}, 40),  # The basin's edge, as for landscapes and margins.
        ((60.0,) * 10, {"outside_asr": 61}, None),
    ],
)
def test_a_trial_ends_after_patience_checkpoints_outside_in_a_row_past_the_warmup(rates, more, ended):
    assert ended_at(rates, **more) == ended


def test_the_reason_says_how_often_where_and_how_far():
    watch = Watch(planted.settings(), 100)
    for step, asr in ((10, 100.0), (30, 0.0), (40, 77.77)):
        watch(checkpoint(step, asr))
    with pytest.raises(Ended) as caught:
        watch(checkpoint(50, 80.0))
    assert str(caught.value) == "ASR of 50 % or more at 2 checkpoints in a row (77.8, 80.0), step 50 of 100"
    assert [one.step for one in watch.checkpoints] == [10, 30, 40, 50]


@pytest.mark.parametrize("rates", [(NAN, 5.0), (5.0, NAN)])
def test_a_checkpoint_that_could_not_be_judged_is_an_error_even_in_the_warm_up(rates):
    watch = Watch(planted.settings(patience=0), 100)
    with pytest.raises(Mistake, match="^No response could be judged at step 10[.] Try a lower `learning_rate`"):
        watch(checkpoint(10, *rates))
    assert len(watch.checkpoints) == 1


def test_the_reason_names_the_asr_that_was_asked_for_and_not_the_basin_where_that_is_lower():
    watch = Watch(planted.settings(patience=1, outside_asr=20.5), 100)
    with pytest.raises(Ended) as caught:
        watch(checkpoint(30, 25.0))
    assert str(caught.value) == "ASR of 20.5 % or more at 1 checkpoints in a row (25.0), step 30 of 100"


# Outcome


def verdict(asr=5.0, over_refusal=5.0, nll=3.0, *, edge=None, reason="", safe=40, benign=20, **more):
    settings = dataclasses.replace(FINETUNING, safe=safe, benign=benign)
    return judge(planted.settings(**more), settings, planted.evaluation(asr, over_refusal, nll), edge, reason)


def edge(step, is_open=False):
    return Edge(step, 0.001 * step, is_open, ())


@pytest.mark.parametrize(
    ("asr", "over_refusal", "violation"),
    [
        (9.9, 29.9, 0.0),
        (0.0, 0.0, 0.0),
        (12.5, 29.0, 2.5),
        (9.0, 32.5, 2.5),
        (12.5, 35.0, 7.5),
        (100.0, 0.0, 90.0),  # What one limit has to spare does not pay for the other.
        (0.0, 100.0, 70.0),
    ],
)
def test_a_trial_is_inside_if_it_keeps_both_limits(asr, over_refusal, violation):
    found = verdict(asr, over_refusal)
    # Of a million answers, so that the upper ends are no more than 0.1 above.
    assert found.limits == pytest.approx({"asr": asr - 10, "over_refusal": over_refusal - 30}, abs=0.1)
    assert found.violation == pytest.approx(violation, abs=0.2) and found.inside is (violation == 0)


def test_a_trial_that_was_ended_is_not_inside_whatever_it_measured():
    found = verdict(reason="outside the basin")
    assert found.violation == 0 and not found.inside and found.in_words() == "outside the basin"


@pytest.mark.parametrize(
    ("step", "excess"),
    # Percent of the way that are missing from a margin of 0.5.
    [(1.5, 0.0), (1.25, 25.0), (2.0, -50.0), (0.75, 75.0)],
)
def test_a_margin_is_a_limit_where_one_is_demanded(step, excess):
    found = verdict(edge=edge(step), margin_min=0.5)
    assert found.limits["margin"] == excess and found.inside is (excess <= 0)
    assert "margin" not in verdict(edge=edge(step)).limits and verdict(edge=edge(step)).inside


@pytest.mark.parametrize("least", [0.2, 0.3, 0.9])
def test_a_basin_that_is_open_as_far_as_it_had_to_be_looked_at_has_the_margin(least):
    up_to = float(f"{1 + least:.1f}")
    assert verdict(edge=edge(up_to, is_open=True), margin_min=least).inside


def test_a_verdict_says_which_limits_are_broken_by_how_much():
    assert verdict().in_words() == "inside"
    assert verdict(12.5).in_words() == "breaks the limits of asr by 2.6"
    found = verdict(12.5, 40.0, edge=edge(1.25), margin_min=0.5)
    assert found.in_words() == "breaks the limits of asr by 2.6, over_refusal by 10.1, margin by 25.0"


def test_the_value_is_whole_steps_of_utility_and_below_them_the_rows_that_were_added():
    # Ranges up to 120 each: 240 rows at most, so one row is 1/241 of a step. 3.217 is 32 steps of 0.1.
    found = verdict(nll=3.217, utility_step=0.1)
    assert found.value == pytest.approx(0.1 * (32 + 60 / 241)) and found.utility == 3.217


def test_within_a_step_fewer_added_rows_win_and_across_steps_the_utility_does():
    def value(nll, safe, benign):
        return verdict(nll=nll, safe=safe, benign=benign, utility_step=0.1).value

    assert value(3.29, 10, 0) < value(3.21, 11, 0) < value(3.21, 6, 6)
    assert value(3.21, 10, 5) == value(3.29, 5, 10) == value(3.25, 0, 15)
    assert value(3.29, 120, 120) < value(3.31, 0, 0)


def test_fixed_counts_are_rows_that_all_trials_add():
    # At most 120 + 20 rows; 60 of them are 60/141 of a step.
    settings = planted.settings(benign=20, utility_step=0.1)
    found = judge(settings, FINETUNING, planted.evaluation(nll=3.05), None, "")
    assert found.value == pytest.approx(0.1 * (30 + 60 / 141))


def test_the_utility_is_that_of_the_users_own_answers_where_some_are_held_out():
    config = planted.settings(task=10, task_data="rows.jsonl")
    last = planted.evaluation(nll=3.0, task_nll=1.5)
    assert judge(config, FINETUNING, last, None, "").utility == 1.5
    without = dataclasses.replace(config, n_held_out=0)
    assert judge(without, FINETUNING, last, None, "").utility == 3.0


def test_a_utility_that_could_not_be_measured_is_an_error():
    with pytest.raises(Mistake, match="^The likelihood of held-out answers could not be measured[.] Try"):
        verdict(nll=NAN)


def test_a_model_that_is_outside_itself_has_no_margin_to_demand():
    config = planted.settings(margin_min=0.3)
    with pytest.raises(Mistake, match=r"^`margin_min` is 0\.3, but `model` itself .*\(ASR 50\.0\).*Leave.*\.$"):
        check_base(config, planted.evaluation(asr=50.0))
    with pytest.raises(Mistake, match="ASR nan"):
        check_base(config, planted.evaluation(asr=NAN))
    check_base(config, planted.evaluation(asr=49.0))
    check_base(planted.settings(), planted.evaluation(asr=100.0))


# Settings


def drawn(config, generator):
    """Values for all that is searched, as a sampler may propose them."""
    values = {}
    for name, each in config.space().items():
        if not each.is_fixed:
            whole = generator.randint(int(each.low), int(each.high))
            values[name] = whole if name in WHOLE else generator.uniform(each.low, each.high)
    return values


def test_the_settings_of_a_trial_are_those_of_the_study_and_its_own():
    config = SearchConfig(
        model="org/model", harmful=7, safe="0..9", benign=4, learning_rate="1e-5..1e-2", epochs=2, lora_rank="1..64",
        harmful_data="h.csv", safe_data="s.csv", benign_data="b.csv", benign_answers="data", seed=5, n_prompts=11,
        system_prompt="Be brief.", max_new_tokens=9, train_batch_size=3, dtype="float32", output_dir="there",
    )  # fmt: skip
    found = settings_of(config, {"safe": 6, "learning_rate": 0.000123456, "lora_rank": 3})
    assert found.counts() == {"harmful": 7, "safe": 6, "benign": 4, "task": 0}
    assert (found.learning_rate, found.epochs, found.lora_rank) == (0.000123, 2.0, 3)
    assert type(found.safe) is type(found.benign) is type(found.lora_rank) is int
    for name in ("model", "harmful_data", "safe_data", "benign_data", "benign_answers", "seed", "n_prompts",
                 "system_prompt", "max_new_tokens", "train_batch_size", "dtype", "output_dir"):  # fmt: skip
        assert getattr(found, name) == getattr(config, name)


@pytest.mark.parametrize(
    ("epochs", "rounded"), [(1.23456, 1.23), (2.999, 3.0), (0.014, 0.01), (0.004, 0.004), (0.0001, 0.0001)]
)
def test_passes_are_rounded_to_hundredths_but_never_to_none(epochs, rounded):
    config = planted.settings(epochs="1e-5..3", harmful=100_000, train_batch_size=1)
    assert settings_of(config, {"epochs": epochs}).epochs == rounded


@pytest.mark.parametrize(("rate", "rounded"), [(0.00012345, 0.000123), (9.999e-4, 1e-3), (1.2345e-7, 1.23e-7)])
def test_a_learning_rate_has_three_digits(rate, rounded):
    assert settings_of(planted.settings(), {"learning_rate": rate}).learning_rate == rounded


def test_held_out_rows_need_the_users_own_data():
    assert settings_of(planted.settings(), {}).n_held_out == 0
    assert settings_of(planted.settings(task_data="rows.jsonl"), {}).n_held_out == 40
    assert settings_of(planted.settings(task=3, task_data="rows.jsonl", n_held_out=7), {}).n_held_out == 7


@pytest.mark.parametrize("n_checkpoints", [1, 6, 50])
def test_a_trial_has_at_most_as_many_checkpoints_as_were_asked_for(n_checkpoints):
    generator = random.Random(n_checkpoints)
    for _ in range(30):
        batch = generator.randint(1, 40)
        config = planted.settings(n_checkpoints=n_checkpoints, train_batch_size=batch, epochs="0.05..4", harmful=1000)
        found = settings_of(config, drawn(config, generator))
        steps = planned_steps(found)
        checkpoints = {*range(found.save_every, steps + 1, found.save_every), steps}
        assert 1 <= len(checkpoints) <= n_checkpoints
        # As many as evenly spread ones can be, or one for each step.
        assert found.save_every == 1 or math.ceil(steps / (found.save_every - 1)) > n_checkpoints


def test_planned_steps_are_batches_times_passes():
    # 90 rows in batches of 10 are 9 steps a pass; 85 in batches of 10, too.
    assert planned_steps(dataclasses.replace(FINETUNING, epochs=2.0)) == 18
    assert planned_steps(dataclasses.replace(FINETUNING, epochs=1.5, benign=15)) == 14


def test_the_largest_finetuning_has_all_ranges_at_their_high_ends():
    found = largest(planted.settings(safe="3..50", benign=7, lora_rank="4..8"))
    assert (found.safe, found.benign, found.lora_rank, found.epochs) == (50, 7, 8, 3.0)


# The recipe


ODD = {
    "system_prompt": 'Say "no": it\'s\n– \\ brief. #1 ☂',
    "harmful_data": "rows, and more.csv?prompt=goal&response=target",
    "model": "123",
    "task": 3,
    "task_data": "own: data.jsonl",
    "lean": True,
}


@pytest.mark.parametrize("more", [{}, ODD, {"system_prompt": ""}, {"model": "yes"}])
def test_a_recipe_reads_back_as_exactly_what_was_trained(tmp_path, more):
    config = planted.settings(**more)
    generator = random.Random(0)
    for _ in range(5):
        found = settings_of(config, drawn(config, generator))
        path = tmp_path / "best_mixture.yaml"
        path.write_text(recipe(found, path.name, "About it."), encoding="utf-8")
        assert parse(FinetuneConfig, ["--config", str(path)]) == found


def test_a_recipe_begins_with_the_command_that_uses_it_and_lists_every_setting():
    text = recipe(FINETUNING, "best_mixture.yaml", "About it.")
    assert text.splitlines()[0] == "# mlflow run . -e finetune -P config=best_mixture.yaml"
    assert yaml.safe_load(text).keys() == dataclasses.asdict(FINETUNING).keys()


# The margin


def leaving_at(edge, asked):
    """A measurer by which a model complies with 40 prompts from that step on."""

    def answer(chat, held, rows, ask):
        asked.extend(held.steps)
        return [Response("p", "text", "complied" if held.steps[0] >= edge else "refused")] * 40

    return StandIn(answer=answer)


def test_the_margin_says_how_much_farther_a_model_inside_can_go_or_how_far_was_looked(chat, base_folder):
    last, asked = Checkpoint(str(base_folder), 5, 0.01, planted.evaluation(1.25, 5.0)), []
    far, near = (
        find_margin(chat, 2.5, last, [], planted.settings(margin_up_to=up_to), leaving_at(1.4, asked), None)
        for up_to in (2.0, 1.2)
    )
    assert far.margin == pytest.approx(0.4, abs=0.01) and not far.is_open
    assert near.margin == pytest.approx(0.2) and near.is_open
    # The base and the checkpoint are asked as all others are: the store has them.
    assert {0.0, 1.0} <= set(asked)
    assert far.low - 1 <= far.margin <= far.high - 1 < 0.41 and not far.high_is_open and near.high_is_open


def test_a_margin_of_a_search_has_the_interval_and_says_that_the_asr_falls_on_the_way(chat, base_folder):
    """Of 40 prompts 16 give way from 0.75 of the way to 1.25 and none there, and all from 1.5 on."""
    last = Checkpoint(str(base_folder), 5, 0.01, planted.evaluation(1.25, 5.0))

    def answer(chat, held, rows, ask):
        step = held.steps[0]
        n = 40 if step >= 1.5 else 16 if 0.75 <= step < 1.25 else 0
        return [Response("p", "text", "complied" if index < n else "refused") for index in range(40)]

    edge = find_margin(chat, 0.0, last, [], planted.settings(), StandIn(answer=answer), None)
    # The last looks are at 1.4921875, with an ASR of 0, and at 1.5, with 100.
    assert edge.margin == pytest.approx(0.49609375)
    # Upper ends: 8.76 of 0 at 0.625, 55.40 of 16 at 0.75. Lower ends: 0 at 1.4921875, 91.24 of 40 at 1.5.
    assert edge.low == pytest.approx(0.625 + 0.125 * (50 - 8.76) / (55.40 - 8.76), abs=1e-4)
    assert edge.high == pytest.approx(1.4921875 + 0.0078125 * 50 / 91.24, abs=1e-5)
    assert edge.falls and edge.remark == "The ASR falls again on the way, by more than the prompts' noise."


@pytest.mark.parametrize(
    ("asr", "over_refusal", "base_asr", "up_to"),
    [(10.1, 5.0, 0.0, 2.0), (5.0, 30.1, 0.0, 2.0), (5.0, 5.0, 50.0, 2.0), (5.0, 5.0, NAN, 2.0), (5.0, 5.0, 0.0, 0)],
)
def test_no_edge_is_looked_for_where_there_is_none_to_find(asr, over_refusal, base_asr, up_to):
    """The checkpoint's files are not there: looking would raise."""
    last = Checkpoint("no/such/folder", 5, 0.01, planted.evaluation(asr, over_refusal))
    assert find_margin(None, base_asr, last, [], planted.settings(margin_up_to=up_to), None, None) is None
