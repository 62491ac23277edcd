"""Two models compared: what they differ in, what was not seen, and what does not compare."""

import copy
import dataclasses
import io
import json

import made
import pytest
import torch
from drawn import labels
from stand_in import StandIn, responses_of, scripted
from workplace import Workplace

from visage_mlflow.commands.compare import tell
from visage_mlflow.config import CompareConfig
from visage_mlflow.figures.comparison import comparison as figure
from visage_mlflow.language.models import computing_in
from visage_mlflow.measuring.measure import Measurer
from visage_mlflow.results import Comparison
from visage_mlflow.results.comparing import asked_differently
from visage_mlflow.studies import comparison
from visage_mlflow.studies.comparison import Side, compared
from visage_mlflow.text.errors import Mistake


@pytest.fixture(scope="module")
def config(sets):
    return CompareConfig(
        model="first",
        other="second",
        prompts=str(sets / "harmful_eval.jsonl"),
        benign_prompts=f"{sets / 'benign_eval.jsonl'}?response=answer",
        n_prompts=20,
        n_benign=10,
        n_points=5,
        n_directions=2,
        max_new_tokens=8,
        workers=1,
        store="off",
    )


def named(result):
    return {one.name: one for one in result.differences}


def refusal(call, *given):
    with pytest.raises(Mistake) as caught:
        call(*given)
    message = str(caught.value)
    assert "\n" not in message and message.endswith("."), message
    return message


def test_a_model_beside_itself_shows_no_difference(chat, config):
    result = comparison.measure(
        chat, chat, config, measurer=scripted(lambda steps: 100 * min(1, sum(map(abs, steps))))
    )
    for one in result.differences:
        assert one.difference == 0 and one.low < 0 < one.high and not one.is_seen
        assert "no difference seen; one below" in one.in_words()
    assert named(result)["asr"].p_value == named(result)["over_refusal"].p_value == 1.0
    assert [one.name for one in result.differences] == ["asr", "over_refusal", "visage", "visage_depth"]
    assert result.same_directions is True and result.about_directions.startswith("Over 2 random directions, the same")


def test_the_prompts_that_differ_make_the_test_and_scores_go_by_direction(chat, base, config):
    # Of 20 harmful prompts 10 % against 50 %: the 8 between differ, all one way; p = 2 / 2**8.
    def answer(asked, held, rows, ask):
        return responses_of(rows, (10.0 if asked is chat else 50.0) if not any(held.steps) else 100.0)

    result = comparison.measure(chat, base, config, measurer=StandIn(answer=answer))
    asr, over, visage, depth = result.differences
    assert (asr.first, asr.second, asr.difference, asr.n) == (10.0, 50.0, 40.0, 20)
    assert (asr.only_first, asr.only_second, asr.p_value) == (0, 8, 2 / 2**8) and asr.is_seen
    # Attacks that succeed on ordinary prompts are answers: 90 % and 50 % of 10 are refused.
    assert (over.first, over.second, over.difference) == (90.0, 50.0, -40.0)
    # Only the origin is below 100, so VISAGE is its depth; the mean depth a fifth of that.
    assert (visage.first, visage.second, visage.difference) == (90.0, 50.0, -40.0)
    assert (depth.first, depth.second, depth.difference) == pytest.approx((18.0, 10.0, -8.0))
    assert result.metrics()["asr_n_discordant"] == 8 and result.metrics()["asr_seen"] == 1


def test_responses_that_were_not_judged_in_both_are_left_out_of_both(config):
    rows = [dataclasses.replace(made.response(f"p{i}"), verdict="complied") for i in range(4)]
    less = [dataclasses.replace(rows[0], verdict="unjudged"), *rows[1:]]
    (asr,) = compared(Side(made.setup(), rows), Side(made.setup("org/other"), less)).differences
    assert (asr.n, asr.first, asr.second) == (3, 100.0, 100.0)
    none = [dataclasses.replace(one, verdict="unjudged") for one in rows]
    (asr,) = compared(Side(made.setup(), rows), Side(made.setup("org/other"), none)).differences
    assert asr.in_words() == "ASR: nothing was judged in both" and not asr.is_seen


def test_points_that_were_skipped_count_as_succeeded_so_that_skipping_changes_no_difference(chat, base, config):
    # The first model is at 100 from a fifth of the axis on, the other one only at its ends.
    def answer(asked, held, rows, ask):
        far = abs(sum(held.steps))
        return responses_of(rows, min(100.0, (500.0 if asked is chat else 200.0) * far))

    def differences(**settings):
        asked = dataclasses.replace(config, n_points=11, extent=0.5, **settings)
        return comparison.measure(chat, base, asked, measurer=StandIn(answer=answer)).differences

    assert differences(outside_after=1) == differences(outside_after=0)
    # ASR 0, 50, 100, 100, 100, 100 outward against 0, 20, 40, 60, 80, 100: depths of 2 (50) + 100 and 2 (200) + 100.
    depth = differences(outside_after=1)[-1]
    assert (depth.first, depth.second) == pytest.approx((200 / 11, 500 / 11))


def test_a_rate_differs_only_where_interval_and_exact_test_agree():
    # 0 against 5 of 80: two-sided p = 2 / 2**5; one prompt more: 2 / 2**6.
    def alone(n):
        sides = [[made.response(f"p{i}", "complied" if i < k else "refused") for i in range(80)] for k in (0, n)]
        return compared(Side(made.setup(), sides[0]), Side(made.setup("org/other"), sides[1])).differences[0]

    five, six = alone(5), alone(6)
    assert five.low > 0 and five.p_value == 0.0625 and not five.is_seen
    assert "no difference seen" in five.verdict and "McNemar" in five.verdict
    assert six.low > 0 and six.p_value == 0.03125 and six.is_seen and six.verdict == "a difference"


def test_what_was_not_tested_is_neither_seen_nor_unseen():
    metrics = made.comparison().metrics()
    assert (metrics["asr_seen"], metrics["over_refusal_seen"]) == (1.0, 0.0)
    assert not {"visage_seen", "visage_depth_seen"} & set(metrics)


def test_one_direction_has_no_interval_and_none_no_score(chat, base, config):
    measurer = scripted(lambda steps: 50.0)
    one = comparison.measure(chat, base, dataclasses.replace(config, n_directions=1), measurer=measurer)
    assert named(one)["visage"].verdict == "one direction: no interval over directions"
    none = comparison.measure(chat, base, dataclasses.replace(config, n_directions=0), measurer=measurer)
    assert list(named(none)) == ["asr", "over_refusal"] and none.about_directions == ""


@pytest.mark.parametrize(
    "change",
    [{"prompts_digest": "0"}, {"n_prompts": 5}, {"judge": "other"}, {"max_new_tokens": 9}, {"system_prompt": ""}],
)
def test_what_was_measured_otherwise_is_refused_by_what_differs(change):
    setup = made.setup()
    other = dataclasses.replace(setup, **change)
    (what,) = asked_differently(setup, other)
    assert f"measured differently ({what})" in refusal(compared, Side(setup, []), Side(other, []))


def test_the_model_and_where_equal_prompts_came_from_may_differ():
    other = dataclasses.replace(made.setup("org/other"), prompts="same.csv", dtype="bfloat16")
    assert asked_differently(made.setup(), other) == []


def test_other_prompts_or_grids_are_refused():
    one, other = Side(made.setup(), [made.response("a")]), Side(made.setup(), [made.response("b")])
    assert "harmful prompts" in refusal(compared, one, other)
    wide = made.visage(((100.0, 0.0, 100.0), (100.0, 0.0, 100.0)))
    message = refusal(compared, Side(made.setup(), [], visage=made.visage()), Side(made.setup(), [], visage=wide))
    assert "grid: 5 points up to 0.5 and 3 points up to 0.5" in message


def test_a_model_with_other_tensors_is_paired_on_prompts_alone():
    sides = [Side(made.setup(), [], visage=made.visage(), shapes={"w": (size,)}) for size in (1, 2)]
    result = compared(*sides)
    assert result.same_directions is False and "not paired" in result.about_directions
    unknown = compared(*(dataclasses.replace(one, shapes=None) for one in sides))
    assert unknown.same_directions is None and "if the models have the same tensors" in unknown.about_directions


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "`other` is empty"),
        ({"other": "builtin:smollm2"}, "which is `model` itself"),
        ({"run": "a"}, "must be the ids of two runs"),
        ({"run": "a,a"}, "names one run twice"),
        ({"run": "a,b", "other": "c"}, "Give one of the two"),
        ({"other": "c", "n_points": 4}, "`n_points` must be odd"),
    ],
)
def test_settings_that_name_no_two_models_are_refused(settings, said):
    assert said in refusal(lambda: CompareConfig(**settings))


def test_the_figure_shows_every_difference_and_what_it_says():
    result = made.comparison()
    drawn = figure(result)
    drawn.savefig(io.BytesIO(), dpi=40)
    left, right = drawn.axes
    said = [text.get_text() for text in right.texts]
    assert said == [
        "not measured",
        "no interval over one direction",
        "McNemar p = 1; no difference seen (of 10 points or more)",
        "McNemar p = 0.0063; difference seen",
    ]
    assert [text.get_text() for text in left.get_yticklabels()] == ["mean depth", "VISAGE", "over-refusal", "ASR"]
    assert labels(left)[:2] == ["first: model 01234567", "other: other"]


# To the end


@pytest.fixture(scope="module")
def place(tmp_path_factory, sets):
    return Workplace(tmp_path_factory.mktemp("workplace"), sets)


def test_compare_measures_two_models_and_says_what_differs(place, aligned_folder, base_folder):
    settings = {**place.measure, "n_points": 3, "n_directions": 2, "extent": 1.0}
    status, said, errors = place.here("compare", model=aligned_folder, other=base_folder, **settings)
    assert status == 0, errors[-2000:]
    run = place.finished("comparison")
    result = Comparison.load(place.artifact(run, "comparison.json"))
    asr = named(result)["asr"]
    assert asr.difference > 50 and asr.is_seen and asr.p_value < 0.001 and result.same_directions
    assert run.data.metrics["asr_difference"] == asr.difference and asr.in_words() in said
    assert {"comparison.json", "comparison.png"} <= place.artifacts(run)


def test_finished_runs_are_compared_without_asking_anything(place, aligned_folder, base_folder):
    ids = [
        place.succeed("evaluate", model=folder, **place.measure).info.run_id
        for folder in (aligned_folder, base_folder)
    ]
    status, said, errors = place.here("compare", run=",".join(ids))
    assert status == 0, errors[-2000:]
    result = Comparison.load(place.artifact(place.finished("comparison"), "comparison.json"))
    assert list(named(result)) == ["asr", "over_refusal"] and named(result)["asr"].difference > 50
    line = {**place.attack, "n_points": 3, "n_directions": 1, "extent": 1.0}
    ids = [place.succeed("visage", model=folder, **line).info.run_id for folder in (aligned_folder, base_folder)]
    status, said, errors = place.here("compare", run=",".join(ids))
    assert status == 0 and "one direction: no interval" in said, errors[-2000:]
    assert json.loads(place.artifact(place.finished("comparison"), "comparison.json").read_text())["n_directions"] == 1


def test_evaluate_prints_the_interval_of_both_rates(place, aligned_folder):
    status, said, errors = place.here("evaluate", model=aligned_folder, **place.measure)
    assert status == 0, errors[-2000:]
    metrics = place.finished("evaluate").data.metrics
    low, high = metrics["over_refusal_low"], metrics["over_refusal_high"]
    assert f"over-refusal {metrics['over_refusal']:.1f} % ({low:.1f} to {high:.1f})" in said
    assert "left out" not in said


def test_runs_that_cannot_be_compared_are_refused_in_one_line(place, aligned_folder):
    made_now = [
        place.client.create_run("0", tags={"visage.kind": kind}).info.run_id for kind in ("finetune", "evaluate")
    ]
    for run_id, status in zip(made_now, ("FINISHED", "FAILED"), strict=True):
        place.client.set_terminated(run_id, status)
    done = place.succeed("evaluate", model=aligned_folder, **{**place.measure, "n_prompts": 3}).info.run_id
    other = place.succeed("evaluate", model=aligned_folder, **{**place.measure, "n_prompts": 4}).info.run_id
    for run_id, said in (
        (made_now[0], "no evaluate or visage run but finetune"),
        (made_now[1], "not finished but FAILED"),
        ("0" * 32, "which the tracking server does not have"),
        (other, f"in run {other} and "),
        (other, "number of prompts: 4 and 3"),
        (done, "names one run twice"),
    ):
        status, _, errors = place.here("compare", run=f"{run_id},{done}")
        (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert status == 2 and said in line and "Traceback" not in errors, line


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_that_were_computed_in_two_dtypes_are_compared_with_a_line_about_it(dtype, capsys):
    result = made.comparison()
    tell(dataclasses.replace(result, first=dataclasses.replace(result.first, dtype=dtype)))
    said = "Mind that they were computed in bfloat16 and float32" in capsys.readouterr().out
    assert said == (dtype != result.second.dtype)


def test_models_that_need_two_dtypes_are_both_computed_in_the_finer_one(chat, config):
    with computing_in(chat, torch.bfloat16):
        rounded = dataclasses.replace(chat, model=copy.deepcopy(chat.model))
    result = comparison.measure(rounded, chat, dataclasses.replace(config, n_directions=0), measurer=Measurer(config))
    assert (result.first.dtype, result.second.dtype) == ("float32", "float32")
    assert rounded.model.dtype == torch.bfloat16 and all(not one.difference for one in result.differences)
    given = dataclasses.replace(config, n_directions=0, dtype="bfloat16")
    assert comparison.measure(rounded, chat, given, measurer=Measurer(given)).first.dtype == "bfloat16"
