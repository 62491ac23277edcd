"""One trial of a search: when it is ended, how it is judged, and what it trains."""

import dataclasses
import math
import random
from functools import cache

import moved
import planted
import pytest
import tiny
import yaml

from visage_mlflow.commands.command_line import parse
from visage_mlflow.config import FinetuneConfig, SearchConfig
from visage_mlflow.language import models, prompts
from visage_mlflow.results import Checkpoint, Edge
from visage_mlflow.search.trial import (
    Outside,
    Watch,
    check_base,
    find_margin,
    judge,
    largest,
    planned_steps,
    recipe,
    settings_of,
)
from visage_mlflow.studies.evaluation import evaluate

NAN = math.nan
FINETUNING = FinetuneConfig(model="org/model", harmful=30, safe=40, benign=20)


def checkpoint(step, asr, over_refusal=5.0):
    return Checkpoint(f"models:/m-{step}", step, 0.001, planted.evaluation(asr, over_refusal))


def ended_at(rates, *, planned=100, every=10, **more):
    """The step at which a trial with these ASRs is ended, and its watch; None if it is not."""
    watch = Watch(planted.settings(**more), planned)
    for index, asr in enumerate(rates, start=1):
        try:
            watch(checkpoint(every * index, asr))
        except Outside:
            return every * index, watch
    return None, watch


# Watch: a checkpoint every 10 of 100 steps; the first 25 are warm-up.


@pytest.mark.parametrize(
    ("rates", "patience", "ended"),
    [
        ((100, 100, 100, 100), 2, 40),  # Those at 10 and 20 are in the warm-up; 30 and 40 are two.
        ((0, 0, 100, 100), 2, 40),
        ((0, 0, 100, 0, 100, 100), 2, 60),
        ((0, 0, 100, 50, 100, 50, 100), 2, None),
        ((0, 0, 100), 1, 30),
        ((100, 100, 0, 0, 100), 1, 50),
        ((100,) * 10, 3, 50),
        ((100,) * 10, 0, None),
        ((0,) * 10, 2, None),
        ((0,) * 8 + (100, 100), 2, None),
        ((0,) * 7 + (100, 100, 100), 2, 90),
    ],
)
def test_a_trial_ends_after_patience_checkpoints_outside_in_a_row(rates, patience, ended):
    assert ended_at(rates, patience=patience)[0] == ended


@pytest.mark.parametrize(("warmup", "ended"), [(0.0, 20), (0.09, 20), (0.1, 30), (0.5, 70), (0.8, None), (1.0, None)])
def test_checkpoints_may_be_outside_in_a_share_of_the_steps(warmup, ended):
    assert ended_at((100,) * 10, warmup=warmup)[0] == ended


def test_the_limit_itself_is_not_outside():
    assert ended_at((50.0,) * 10)[0] is None and ended_at((50.1,) * 10)[0] == 40
    assert ended_at((60.0,) * 10, outside_asr=60)[0] is None


@pytest.mark.parametrize("patience", [1, 2, 5])
def test_the_last_checkpoint_ends_nothing(patience):
    assert ended_at((0,) * (10 - patience) + (100,) * patience, patience=patience)[0] is None
    assert ended_at((100,), planned=10, warmup=0, patience=1)[0] is None


def test_the_reason_says_how_often_where_and_how_far():
    watch = Watch(planted.settings(), 100)
    for step, asr in ((10, 100.0), (30, 0.0), (40, 77.77)):
        watch(checkpoint(step, asr))
    with pytest.raises(Outside) as caught:
        watch(checkpoint(50, 80.0))
    assert str(caught.value) == "outside the basin at 2 checkpoints in a row (ASR 77.8, 80.0), step 50 of 100"
    assert [one.step for one in watch.checkpoints] == [10, 30, 40, 50]


@pytest.mark.parametrize("rates", [(NAN, 5.0), (5.0, NAN), (NAN, NAN)])
def test_a_checkpoint_that_could_not_be_judged_is_an_error_even_in_the_warm_up(rates):
    watch = Watch(planted.settings(patience=0), 100)
    with pytest.raises(ValueError, match="^No response could be judged at step 10[.] Try a lower `learning_rate`"):
        watch(checkpoint(10, *rates))
    assert len(watch.checkpoints) == 1


# Verdict


def verdict(asr=5.0, over_refusal=5.0, nll=3.0, *, edge=None, reason="", safe=40, benign=20, **more):
    settings = dataclasses.replace(FINETUNING, safe=safe, benign=benign)
    return judge(planted.settings(**more), settings, planted.evaluation(asr, over_refusal, nll), edge, reason)


def edge(step, is_open=False):
    return Edge(step, 0.001 * step, is_open, ())


@pytest.mark.parametrize(
    ("asr", "over_refusal", "violation"),
    [
        (10.0, 20.0, 0.0),
        (0.0, 0.0, 0.0),
        (12.5, 20.0, 2.5),
        (10.0, 22.5, 2.5),
        (12.5, 25.0, 7.5),
        (100.0, 0.0, 90.0),  # What one limit has to spare does not pay for the other.
        (0.0, 100.0, 80.0),
    ],
)
def test_a_trial_is_inside_if_it_keeps_both_limits(asr, over_refusal, violation):
    found = verdict(asr, over_refusal)
    assert found.limits == {"asr": asr - 10, "over_refusal": over_refusal - 20}
    assert found.violation == violation and found.inside is (violation == 0)


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


def test_where_no_edge_was_looked_for_the_margin_is_no_limit():
    assert "margin" not in verdict(asr=50.0, margin_min=0.5).limits


def test_a_verdict_says_which_limits_are_broken_by_how_much():
    assert verdict().in_words() == "inside"
    assert verdict(12.5).in_words() == "breaks the limits of asr by 2.5"
    found = verdict(12.5, 30.0, edge=edge(1.25), margin_min=0.5)
    assert found.in_words() == "breaks the limits of asr by 2.5, over_refusal by 10.0, margin by 25.0"


def test_what_is_logged_has_the_edge_where_there_is_one():
    assert verdict(12.5, nll=3.25).metrics() == {"inside": 0.0, "violation": 2.5, "utility": 3.25}
    assert verdict(edge=edge(1.5)).metrics() == {
        "inside": 1.0, "violation": 0.0, "utility": 3.0, "margin": 0.5, "edge": 0.0015,
    }  # fmt: skip


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
    with pytest.raises(ValueError, match="^The likelihood of held-out answers could not be measured[.] Try"):
        verdict(nll=NAN)


def test_a_model_that_is_outside_itself_has_no_margin_to_demand():
    config = planted.settings(margin_min=0.3)
    with pytest.raises(ValueError, match=r"^`margin_min` is 0\.3, but `model` itself .*\(ASR 50\.0\).*Leave.*\.$"):
        check_base(config, planted.evaluation(asr=50.0))
    with pytest.raises(ValueError, match="ASR nan"):
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
            values[name] = whole if each.whole else generator.uniform(each.low, each.high)
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
    config = planted.settings(epochs="1e-5..3")
    assert settings_of(config, {"epochs": epochs}).epochs == rounded


@pytest.mark.parametrize(("rate", "rounded"), [(0.00012345, 0.000123), (9.999e-4, 1e-3), (1.2345e-7, 1.23e-7)])
def test_a_learning_rate_has_three_digits(rate, rounded):
    assert settings_of(planted.settings(), {"learning_rate": rate}).learning_rate == rounded


def test_held_out_rows_need_the_users_own_data():
    assert settings_of(planted.settings(), {}).n_held_out == 0
    assert settings_of(planted.settings(task_data="rows.jsonl"), {}).n_held_out == 40
    assert settings_of(planted.settings(task=3, task_data="rows.jsonl", n_held_out=7), {}).n_held_out == 7


@pytest.mark.parametrize("n_checkpoints", [1, 2, 6, 50])
def test_a_trial_has_at_most_as_many_checkpoints_as_were_asked_for(n_checkpoints):
    generator = random.Random(n_checkpoints)
    for _ in range(100):
        batch = generator.randint(1, 40)
        config = planted.settings(n_checkpoints=n_checkpoints, train_batch_size=batch, epochs="0.05..4")
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
        path.write_text(recipe(found, path.name), encoding="utf-8")
        assert parse(FinetuneConfig, ["--config", str(path)]) == found


def test_a_recipe_begins_with_the_command_that_uses_it_and_lists_every_setting():
    text = recipe(FINETUNING, "best_mixture.yaml")
    assert text.splitlines()[0] == "# mlflow run . -e finetune -P config=best_mixture.yaml"
    assert yaml.safe_load(text).keys() == dataclasses.asdict(FINETUNING).keys()


# The margin, on weights


@pytest.fixture(scope="module")
def rows(sets):
    return prompts.read(str(sets / "harmful_eval.jsonl"), setting="prompts")


@pytest.fixture(scope="module")
def config(sets):
    return planted.settings(
        prompts=str(sets / "harmful_eval.jsonl"),
        n_prompts=24,
        max_new_tokens=16,
        dtype="float32",
        benign_prompts=f"{sets / 'benign_eval.jsonl'}?response=answer",
        n_benign=16,
        max_over_refusal=50,
    )


@pytest.fixture(scope="module")
def way(chat, base, rows, config, tmp_path_factory):
    """A function that saves the model some share of the way from the aligned to the unaligned one, and measures it."""
    benign = prompts.read(config.benign_prompts, setting="benign_prompts", needs_response=True)

    @cache
    def at(share):
        folder = tmp_path_factory.mktemp("way") / f"{share:g}"
        model = models.load_weights(chat.uri)
        weights = moved.on_the_way(chat, base, share)
        for name, parameter in model.named_parameters():
            parameter.data.copy_(weights[name])
        model.save_pretrained(folder)
        tiny.build_tokenizer().save_pretrained(folder)
        there = models.load(str(folder), dtype="float32")
        return Checkpoint(str(folder), 5, 0.01, evaluate(there, rows, benign, config)[0])

    return at


def test_the_margin_says_how_much_farther_a_model_inside_can_go_or_how_far_was_looked(chat, way, rows, config):
    near, half = way(0.1), way(0.2)
    assert near.evaluation.asr <= 10 and half.evaluation.asr <= 10
    far = dataclasses.replace(config, margin_up_to=12.0)
    edges = [find_margin(chat, 0.0, one, rows, far, None) for one in (near, half)]
    assert all(not one.is_open and one.margin > 0 for one in edges)
    # The same edge: at twice the way, half as many of its steps.
    assert edges[0].step == pytest.approx(2 * edges[1].step, rel=0.1)
    assert edges[0].distance == pytest.approx(edges[1].distance, rel=0.1)
    short = find_margin(chat, 0.0, near, rows, dataclasses.replace(config, margin_up_to=1.5), None)
    assert short.is_open and short.margin == 0.5


def test_what_was_measured_is_not_measured_again(chat, way, rows, config):
    there = way(0.1)
    told = dataclasses.replace(there, evaluation=dataclasses.replace(there.evaluation, asr=1.25))
    found = find_margin(chat, 2.5, told, rows, dataclasses.replace(config, margin_up_to=1.0), None)
    assert found.measured[0] == (0.0, 2.5) and found.measured[-1] == (1.0, 1.25)


def test_no_edge_is_looked_for_where_there_is_none_to_find(chat, config, rows):
    """The checkpoint's files are not there: looking would raise."""
    inside = Checkpoint("no/such/folder", 5, 0.01, planted.evaluation(5.0, 5.0))

    def found(one, base_asr=0.0, **more):
        return find_margin(chat, base_asr, one, rows, dataclasses.replace(config, **more), None)

    outside = dataclasses.replace(inside, evaluation=planted.evaluation(10.1, 5.0))
    useless = dataclasses.replace(inside, evaluation=planted.evaluation(5.0, 50.1))
    assert found(outside) is found(useless) is None
    assert found(inside, base_asr=50.0) is None and found(inside, margin_up_to=0) is None
    with pytest.raises(ValueError):
        found(inside)
