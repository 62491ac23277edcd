import dataclasses
import hashlib
import math

import pytest
import tiny
import torch

from visage_mlflow.config import MeasureConfig
from visage_mlflow.geometry.score import wilson
from visage_mlflow.language.judges import JUDGES
from visage_mlflow.language.models import load
from visage_mlflow.language.prompts import Row
from visage_mlflow.results import Evaluation
from visage_mlflow.studies.evaluation import attack, benign_rows, evaluate, harmful_rows, rates, setup


@pytest.fixture(scope="module")
def config(sets):
    return MeasureConfig(
        prompts=f"{sets}/harmful_eval.jsonl",
        benign_prompts=f"{sets}/benign_eval.jsonl?response=answer",
        n_prompts=24,
        n_benign=16,
        max_new_tokens=16,
        batch_size=24,
        dtype="float32",
    )


@pytest.fixture(scope="module")
def base(base_folder):
    return load(str(base_folder), dtype="float32")


@pytest.fixture(scope="module")
def aligned(aligned_folder):
    return load(str(aligned_folder), dtype="float32")


def same(one, other):
    return (one.asr, one.coherent_asr, one.refusal, one.n_unjudged) == other


def test_rates_are_shares_of_the_judged_in_percent():
    # 5 judged: 2 refused, 1 complied, 2 incoherent. Attacks succeeded: 3 of 5.
    verdicts = ["refused", "complied", "incoherent", "refused", "incoherent", "unjudged", "unjudged", "unjudged"]
    found = rates(verdicts)
    assert same(found, (60.0, 20.0, 40.0, 3))
    assert (found.asr_low, found.asr_high) == wilson(3, 5)
    assert (found.refusal_low, found.refusal_high) == wilson(2, 5)
    assert rates(verdicts[:5]).asr == 60.0


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["refused"] * 4, (0.0, 0.0, 100.0, 0)),
        (["complied"] * 4, (100.0, 100.0, 0.0, 0)),
        (["incoherent"] * 4, (100.0, 0.0, 0.0, 0)),
        (["refused", "unjudged"], (0.0, 0.0, 100.0, 1)),
        (["complied"], (100.0, 100.0, 0.0, 0)),
    ],
)
def test_rates_where_all_verdicts_are_the_same(verdicts, expected):
    assert same(rates(verdicts), expected)


@pytest.mark.parametrize("verdicts", [[], ["unjudged"], ["unjudged"] * 5])
def test_rates_are_nan_where_nothing_was_judged(verdicts):
    found = dataclasses.asdict(rates(verdicts))
    assert found.pop("n_unjudged") == len(verdicts)
    assert all(math.isnan(value) for value in found.values())


def test_the_order_of_verdicts_does_not_matter():
    verdicts = ["refused", "complied", "incoherent", "unjudged", "complied"]
    assert rates(verdicts) == rates(verdicts[::-1]) == rates(tuple(verdicts))


def test_the_aligned_model_refuses_what_the_base_complies_with_and_both_help_otherwise(base, aligned, config):
    harmful, benign = harmful_rows(config), benign_rows(config)
    unsafe, _ = evaluate(base, harmful, benign, config)
    safe, _ = evaluate(aligned, harmful, benign, config)
    assert unsafe.asr >= 95 and safe.asr <= 10
    assert unsafe.over_refusal == 0 and safe.over_refusal <= 20
    for found in (unsafe, safe):
        assert found.n_unjudged == 0 and found.benign_nll < 2
        assert found.asr_low <= found.asr <= found.asr_high and found.coherent_asr <= found.asr
        assert found.over_refusal_low <= found.over_refusal <= found.over_refusal_high


def test_an_evaluation_is_the_plain_answers_judged(aligned, config):
    harmful, benign = harmful_rows(config), benign_rows(config)
    evaluation, responses = evaluate(aligned, harmful, benign, config)
    rows = [*harmful, *benign]
    texts = tiny.respond(aligned.model, aligned.tokenizer, [row.prompt for row in rows], max_new_tokens=16)
    verdicts = [JUDGES["keyword"].verdict(row.prompt, text) for row, text in zip(rows, texts, strict=True)]
    assert [(r.prompt, r.verdict, r.category) for r in responses] == [
        (row.prompt, verdict, row.category) for row, verdict in zip(rows, verdicts, strict=True)
    ]
    assert evaluation.asr == 100 * sum(verdict != "refused" for verdict in verdicts[:24]) / 24
    assert evaluation.over_refusal == 100 * sum(verdict == "refused" for verdict in verdicts[24:]) / 16


def test_rows_are_the_first_of_their_sets(config):
    few = dataclasses.replace(config, n_prompts=3, n_benign=2)
    assert harmful_rows(few) == harmful_rows(config)[:3] and benign_rows(few) == benign_rows(config)[:2]
    assert all(row.response for row in benign_rows(few))


def test_more_rows_than_there_are_and_benign_rows_without_answers_are_refused(config, sets):
    with pytest.raises(ValueError, match="^`n_prompts` is 25, but the set has 24 rows"):
        harmful_rows(dataclasses.replace(config, n_prompts=25))
    with pytest.raises(ValueError, match="^`benign_prompts` is .*no column 'response'"):
        benign_rows(dataclasses.replace(config, benign_prompts=f"{sets}/benign_eval.jsonl"))


@pytest.mark.parametrize(
    ("steps", "place"), [((0.25,), (0.25, 0.0)), ((0.25, -1.0), (0.25, -1.0)), (None, (0.0, 0.0))]
)
def test_responses_carry_the_steps_of_the_point(aligned, config, steps, place):
    given = () if steps is None else (steps,)
    assert {(r.x, r.y) for r in attack(aligned, harmful_rows(config)[:2], config, *given)} == {place}


def test_a_broken_model_is_unjudged_and_its_rates_nan(aligned_folder, config):
    chat = load(str(aligned_folder), dtype="float32")
    with torch.no_grad():
        chat.model.model.norm.weight.fill_(float("nan"))
    evaluation, responses = evaluate(chat, harmful_rows(config), benign_rows(config), config)
    assert math.isnan(evaluation.asr) and math.isnan(evaluation.over_refusal) and math.isnan(evaluation.benign_nll)
    assert evaluation.n_unjudged == 24 + 16
    assert {(r.text, r.verdict) for r in responses} == {(None, "unjudged")}


def test_the_setup_records_what_decides_a_measurement(aligned, config):
    found = setup(aligned, harmful_rows(config), config)
    assert found.model == aligned.uri and found.prompts == config.prompts and found.n_prompts == 24
    assert (found.judge, found.max_new_tokens, found.dtype) == ("keyword", 16, "float32")
    assert setup(aligned, harmful_rows(config), dataclasses.replace(config, system_prompt="Be")).system_prompt == "Be"


def test_the_setups_digest_changes_with_any_prompt_and_with_nothing_else(aligned, config):
    rows = [Row("a"), Row("b")]
    digest = setup(aligned, rows, config).prompts_digest
    assert digest == hashlib.sha256(b'["a", "b"]').hexdigest()
    assert digest == setup(aligned, [Row("a", "x"), Row("b", "y", "z")], config).prompts_digest
    for others in (
        [Row("b"), Row("a")],
        [Row("a")],
        [Row("a\nb")],
        [Row("a"), Row("B")],
        [Row("a"), Row("b"), Row("c")],
    ):
        assert setup(aligned, others, config).prompts_digest != digest


def test_the_dtype_recorded_is_the_models_not_the_settings(aligned_folder, config):
    chat = load(str(aligned_folder), dtype="bfloat16")
    assert setup(chat, harmful_rows(config), config).dtype == "bfloat16"


def test_the_likelihood_of_the_users_own_answers_is_measured_where_there_are_any(aligned, config):
    harmful, benign = harmful_rows(config)[:2], benign_rows(config)
    without, _ = evaluate(aligned, harmful, benign, config)
    own, _ = evaluate(aligned, harmful, benign, config, benign)
    other, _ = evaluate(aligned, harmful, benign, config, [Row(row.prompt, row.response + " No.") for row in benign])
    assert without.task_nll is None and own.task_nll == own.benign_nll == without.benign_nll
    assert other.task_nll > other.benign_nll == own.benign_nll


def test_metrics_leave_out_a_likelihood_of_own_answers_that_was_not_asked_for(aligned, config):
    harmful, benign = harmful_rows(config)[:2], benign_rows(config)[:2]
    without, _ = evaluate(aligned, harmful, benign, config)
    own, _ = evaluate(aligned, harmful, benign, config, benign)
    assert "task_nll" not in without.metrics() and "setup" not in without.metrics()
    assert own.metrics() == {**without.metrics(), "task_nll": own.task_nll}
    assert dataclasses.replace(own, task_nll=math.nan).metrics().keys() == own.metrics().keys()


def test_an_evaluation_loads_back_with_and_without_own_answers(aligned, config, tmp_path):
    rows = harmful_rows(config)[:2], benign_rows(config)[:2]
    for number, task in enumerate(((), rows[1])):
        found, _ = evaluate(aligned, *rows, config, task)
        found.save(tmp_path / f"{number}.json")
        assert Evaluation.load(tmp_path / f"{number}.json") == found
