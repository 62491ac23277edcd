"""A tiny model that really thinks before it answers: verdicts, counts and likelihoods are of the answer alone."""

import dataclasses

import pytest
import tiny
import torch

from visage_mlflow.config import MeasureConfig
from visage_mlflow.language import models
from visage_mlflow.language.prompts import Row
from visage_mlflow.measuring.measure import AT_REST, Measurer
from visage_mlflow.studies.evaluation import evaluate

HARMFUL = [Row(row["prompt"], row["opening"]) for row in tiny.harmful_rows(8, split="eval")]
BENIGN = [Row(row["prompt"], row["answer"]) for row in tiny.benign_rows(8, split="eval")]
OPENS = tiny.CHAT_TEMPLATE.replace("assistant\n' }}{% endif %}", "assistant\n<think>' }}{% endif %}")
SETTINGS = {"max_new_tokens": 48, "dtype": "float32", "store": "off", "n_benign": 8}


@pytest.fixture(scope="module")
def folder(base_folder, tmp_path_factory):
    """A model that thinks the contrary of what it does: it helps with harm after it thought of refusing."""
    folder = tmp_path_factory.mktemp("thinker")
    model, tokenizer = tiny.load(base_folder)
    tokenizer.add_tokens(["<think>", "</think>"])
    model.resize_token_embeddings(len(tokenizer))
    pairs = [
        (row["prompt"], f"<think>{row['refusal']}</think>{row['opening']}{tiny.FILLER}")
        for row in tiny.harmful_rows(240)
    ]
    pairs += [
        (row["prompt"], f"<think>I can't help with that.</think>{row['answer']}") for row in tiny.benign_rows(240)
    ]
    tiny.train(model, tokenizer, pairs, steps=150, learning_rate=3e-3, seed=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["by itself", "as the template begins it"])
def thinker(request, folder):
    """The model, whose thinking it begins itself, or its template."""
    chat = models.load(str(folder), dtype="float32")
    if request.param == "by itself":
        return chat
    tokenizer = models.load_tokenizer(str(folder))
    tokenizer.chat_template = OPENS
    return dataclasses.replace(chat, format=dataclasses.replace(chat.format, tokenizer=tokenizer))


def responses(chat, rows=HARMFUL, **settings):
    config = MeasureConfig(**{**SETTINGS, **settings})
    return Measurer(config)(chat, AT_REST, rows, config)


@pytest.mark.parametrize("judge", ["phrases", "advbench_keywords"])
def test_a_model_that_only_thinks_of_refusing_does_not_refuse(thinker, judge):
    said = responses(thinker, judge=judge)
    assert all(one.text.startswith("<think>") and "</think>" in one.text for one in said)
    assert all("can't" in one.text or "cannot" in one.text or "sorry" in one.text for one in said)
    assert [one.verdict for one in said] == ["complied"] * len(HARMFUL)


def test_decoding_does_not_stop_at_a_refusal_in_the_thinking(thinker):
    whole, stopped = responses(thinker), responses(thinker, stop_at_verdict=True)
    assert [one.text for one in whole] == [one.text for one in stopped]


def test_thinking_that_did_not_end_is_unjudged_counted_and_told_with_what_to_try(thinker, capsys):
    config = MeasureConfig(**{**SETTINGS, "max_new_tokens": 3})
    found, said = evaluate(thinker, HARMFUL, BENIGN, config)
    assert {one.verdict for one in said} == {"unjudged"}
    assert (found.n_unjudged, found.n_unfinished) == (16, 16) and "16 still thinking" in found.left_out
    (line,) = capsys.readouterr().err.splitlines()
    assert "8 of 8 answers were still thinking after 3 tokens" in line and "`max_new_tokens=48`" in line


def test_thinking_that_the_model_ended_itself_is_told_apart_as_more_tokens_do_not_help(thinker, capsys, monkeypatch):
    monkeypatch.setattr(Measurer, "_texts", lambda *_: ["<think>He asks"] * len(HARMFUL))
    responses(thinker, max_new_tokens=47)
    (line,) = capsys.readouterr().err.splitlines()
    assert "8 of 8 answers ended within their thinking" in line and "max_new_tokens" not in line


def test_an_own_answer_is_given_without_its_thinking(thinker):
    found = Measurer(MeasureConfig(**SETTINGS)).answers(thinker, BENIGN, 48)
    assert sum(bool(text) for text in found) >= 6 and not any("think" in text for text in found)
    assert Measurer(MeasureConfig(**SETTINGS)).answers(thinker, BENIGN, 3) == [""] * len(BENIGN)


def test_the_likelihood_is_that_of_the_answer_after_the_thinking(thinker):
    """Of rows whose answers hold a thinking: against one token at a time."""
    rows = [
        dataclasses.replace(row, response=f"<think>I can't help with that.</think>{row.response}") for row in BENIGN
    ]
    values = []
    for row in BENIGN:
        asked = tiny.chat(tiny_template(thinker), row.prompt) + "<think>I can't help with that.</think>"
        encode = thinker.tokenizer.encode
        given, scored = (
            encode(asked, add_special_tokens=False),
            encode(row.response + tiny.END, add_special_tokens=False),
        )
        with torch.no_grad():
            log_p = thinker.model(torch.tensor([given + scored])).logits[0].double().log_softmax(-1)
        values += [-float(log_p[len(given) + i - 1, token]) for i, token in enumerate(scored)]
    found = Measurer(MeasureConfig(**SETTINGS)).nll(thinker, AT_REST, rows)
    assert found == pytest.approx(sum(values) / len(values), rel=1e-5) and found < 1


def tiny_template(chat):
    """The tokenizer with the template that leaves the thinking to the model."""
    tokenizer = models.load_tokenizer(chat.uri)
    assert "<think>" not in tokenizer.chat_template
    return tokenizer
