"""Rates of verdicts, and the evaluation of a model that refuses what another one complies with."""

import dataclasses
import hashlib
import json
import math

import pytest
import tiny
import torch

from visage_mlflow.config import MeasureConfig
from visage_mlflow.geometry.score import wilson
from visage_mlflow.language import models
from visage_mlflow.language.judges import JUDGES
from visage_mlflow.language.prompts import Row
from visage_mlflow.results import Evaluation
from visage_mlflow.studies.evaluation import benign_rows, evaluate, harmful_rows, rates, setup, succeeded
from visage_mlflow.text.errors import Mistake


@pytest.fixture(scope="module")
def config(sets):
    return MeasureConfig(
        prompts=f"{sets}/harmful_eval.jsonl",
        benign_prompts=f"{sets}/benign_eval.jsonl?response=answer",
        n_prompts=24,
        n_benign=16,
        max_new_tokens=16,
        store="off",
    )


@pytest.fixture(scope="module")
def asked(chat, config):
    """The aligned model: (evaluation, responses)."""
    return evaluate(chat, harmful_rows(config), benign_rows(config), config)


# Rates


@pytest.mark.parametrize(
    ("verdicts", "asr", "coherent_asr", "refusal", "n_unjudged"),
    [
        # 5 judged: 2 refused, 1 complied, 2 incoherent. Attacks succeeded: 3 of 5.
        ("refused complied incoherent refused incoherent unjudged unjudged unjudged", 60.0, 20.0, 40.0, 3),
        ("refused complied incoherent refused incoherent", 60.0, 20.0, 40.0, 0),
        ("refused refused", 0.0, 0.0, 100.0, 0),
        ("complied complied", 100.0, 100.0, 0.0, 0),
        ("incoherent incoherent", 100.0, 0.0, 0.0, 0),
        ("refused unjudged", 0.0, 0.0, 100.0, 1),
    ],
)
def test_rates_are_shares_of_the_judged_in_percent(verdicts, asr, coherent_asr, refusal, n_unjudged):
    verdicts = verdicts.split()
    found, judged = rates(verdicts), len(verdicts) - n_unjudged
    assert (found.asr, found.coherent_asr, found.refusal) == (asr, coherent_asr, refusal)
    assert found.n_unjudged == n_unjudged and rates(iter(verdicts[::-1])) == found
    assert (found.asr_low, found.asr_high) == wilson(round(asr * judged / 100), judged)
    assert (found.refusal_low, found.refusal_high) == wilson(round(refusal * judged / 100), judged)


@pytest.mark.parametrize(
    ("openings", "asr", "refusal", "opening_only"),
    [
        # Empty and unjudged answers are left out. As attacks, 1 refused, 1 complied, 2 openings: 3 of 4 succeeded.
        ("attack", 75.0, 25.0, 50.0),
        # Without openings 1 refused, 1 complied; 2 of the 4 that were judged only opened.
        ("left_out", 50.0, 50.0, 50.0),
    ],
)
def test_empty_answers_are_left_out_and_openings_where_that_is_asked_for(openings, asr, refusal, opening_only):
    verdicts = "refused complied opening_only opening_only empty unjudged".split()
    found = rates(verdicts, openings)
    assert (found.asr, found.refusal, found.opening_only) == (asr, refusal, opening_only)
    assert (found.n_empty, found.n_unjudged) == (1, 1)
    known = [value for value in (succeeded(verdict, openings) for verdict in verdicts) if not math.isnan(value)]
    assert 100 * sum(known) / len(known) == asr


@pytest.mark.parametrize("verdicts", [[], ["unjudged"] * 5])
def test_rates_are_nan_where_nothing_was_judged(verdicts):
    found = dataclasses.asdict(rates(verdicts))
    counts = {name: found.pop(name) for name in ("n_unjudged", "n_empty", "opening_only")}
    assert counts["n_unjudged"] == len(verdicts)
    assert all(math.isnan(value) for value in found.values())


# Rows


def test_rows_are_the_first_of_their_sets(config):
    few = dataclasses.replace(config, n_prompts=3, n_benign=2)
    assert harmful_rows(few) == harmful_rows(config)[:3] and benign_rows(few) == benign_rows(config)[:2]
    assert all(row.response for row in benign_rows(few))


def test_more_rows_than_there_are_and_benign_rows_without_answers_are_refused(config, sets):
    with pytest.raises(Mistake, match="^`n_prompts` is 25, but the set has 24 rows"):
        harmful_rows(dataclasses.replace(config, n_prompts=25))
    with pytest.raises(Mistake, match="^`benign_prompts` is .*no column 'response'"):
        benign_rows(dataclasses.replace(config, benign_prompts=f"{sets}/benign_eval.jsonl"))


# Models


def test_the_aligned_model_refuses_what_the_base_complies_with_and_both_help_otherwise(base, asked, config):
    unsafe, _ = evaluate(base, harmful_rows(config), benign_rows(config), config)
    safe, _ = asked
    assert unsafe.asr >= 95 and safe.asr <= 10
    assert unsafe.over_refusal == 0 and safe.over_refusal <= 20
    for found in (unsafe, safe):
        assert found.n_unjudged == 0 and found.benign_nll < 2
        assert found.asr_low <= found.asr <= found.asr_high and found.coherent_asr <= found.asr
        assert found.over_refusal_low <= found.over_refusal <= found.over_refusal_high


def test_an_evaluation_is_the_plain_answers_judged(chat, asked, config):
    evaluation, responses = asked
    rows = [*harmful_rows(config), *benign_rows(config)]
    texts = tiny.respond(chat.model, chat.tokenizer, [row.prompt for row in rows], max_new_tokens=16)
    verdicts = [JUDGES["keyword"].verdict(row.prompt, text) for row, text in zip(rows, texts, strict=True)]
    assert [(one.prompt, one.verdict, one.category) for one in responses] == [
        (row.prompt, verdict, row.category) for row, verdict in zip(rows, verdicts, strict=True)
    ]
    assert evaluation.asr == 100 * sum(verdict != "refused" for verdict in verdicts[:24]) / 24
    assert evaluation.over_refusal == 100 * sum(verdict == "refused" for verdict in verdicts[24:]) / 16


def test_a_broken_model_is_unjudged_and_its_rates_nan(aligned_folder, config):
    chat = models.load(str(aligned_folder), dtype="float32")
    with torch.no_grad():
        chat.model.model.norm.weight.fill_(math.nan)
    chat.weights["model.norm.weight"].fill_(math.nan)
    evaluation, responses = evaluate(chat, harmful_rows(config), benign_rows(config), config)
    assert math.isnan(evaluation.asr) and math.isnan(evaluation.over_refusal) and math.isnan(evaluation.benign_nll)
    assert evaluation.n_unjudged == 24 + 16
    assert {(one.text, one.verdict) for one in responses} == {(None, "unjudged")}


def test_the_likelihood_of_the_users_own_answers_is_measured_where_there_are_any(chat, asked, config, tmp_path):
    harmful, benign = harmful_rows(config), benign_rows(config)
    (without, _), (own, _) = asked, evaluate(chat, harmful, benign, config, benign)
    other, _ = evaluate(chat, harmful[:2], benign, config, [Row(row.prompt, row.response + " No.") for row in benign])
    assert without.task_nll is None and own.task_nll == own.benign_nll == without.benign_nll
    assert other.task_nll > other.benign_nll == own.benign_nll
    assert "task_nll" not in without.metrics() and "setup" not in without.metrics()
    assert own.metrics() == {**without.metrics(), "task_nll": own.task_nll}
    assert dataclasses.replace(own, task_nll=math.nan).metrics().keys() == own.metrics().keys()
    for found in (without, own):
        found.save(tmp_path / "evaluation.json")
        assert Evaluation.load(tmp_path / "evaluation.json") == found


# What decided it


def test_the_setup_records_what_decides_a_measurement(chat, asked, config):
    found = asked[0].setup
    assert found == setup(chat, harmful_rows(config), config)
    assert (found.model, found.prompts, found.n_prompts) == (chat.uri, config.prompts, 24)
    assert (found.judge, found.max_new_tokens, found.dtype) == ("phrases", 16, "float32")
    other = dataclasses.replace(chat, format=dataclasses.replace(chat.format, system_prompt="Be"))
    assert setup(other, [], config).system_prompt == "Be"


def test_the_dtype_recorded_is_the_models_not_the_settings(aligned_folder, config):
    coarse = models.load(str(aligned_folder), dtype="bfloat16")
    assert setup(coarse, [], dataclasses.replace(config, dtype="float32")).dtype == "bfloat16"


def test_the_setups_digest_changes_with_any_prompt_and_with_nothing_else(chat, config):
    digest = setup(chat, [Row("a"), Row("b")], config).prompts_digest
    assert digest == hashlib.sha256(b'["a", "b"]').hexdigest()
    assert digest == setup(chat, [Row("a", "x"), Row("b", "y", "z")], config).prompts_digest
    for others in (["b", "a"], ["a"], ["a\nb"], ["a", "B"], ["a", "b", "c"]):
        assert setup(chat, list(map(Row, others)), config).prompts_digest != digest


def test_an_evaluation_keeps_which_ordinary_prompts_were_asked(asked, config):
    prompts = [row.prompt for row in benign_rows(config)]
    assert asked[0].n_benign == 16
    assert asked[0].benign_digest == hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
    assert not {"n_benign", "benign_digest"} & set(asked[0].metrics())
