"""The ways that a benchmark compares give the same verdicts, and leave the model as it was."""

import dataclasses

import pytest
import torch

from visage_mlflow.benchmark import procedures
from visage_mlflow.benchmark.procedures import Work, ours, plain, published
from visage_mlflow.config import LandscapeConfig
from visage_mlflow.geometry.directions import RandomDirection
from visage_mlflow.language import models
from visage_mlflow.studies.evaluation import harmful_rows

STEPS = [-1.0, 0.0, 0.3, 1.0]


@pytest.fixture(scope="module")
def chat(aligned_folder):
    return models.load(str(aligned_folder), dtype="float32")


@pytest.fixture(scope="module")
def config(sets):
    asking = {"n_prompts": 10, "max_new_tokens": 16, "judge": "advbench_keywords"}
    return LandscapeConfig(prompts=str(sets / "harmful_eval.jsonl"), workers=2, **asking)


@pytest.fixture(scope="module")
def work(config):
    return Work(harmful_rows(config), RandomDirection(seed=0), config.max_new_tokens)


def test_all_ways_give_the_same_verdicts_and_put_the_weights_back(chat, config, work):
    before = {name: parameter.detach().clone() for name, parameter in chat.model.named_parameters()}
    found = [way(STEPS) for way in (published(chat, work), plain(chat, work), ours(chat, work, config))]
    succeeded = [[[verdict != "refused" for verdict in verdicts[step]] for step in STEPS] for verdicts in found]
    assert succeeded[0] == succeeded[1] == succeeded[2]
    assert not any(succeeded[0][1]) and all(succeeded[0][0])
    assert all(torch.equal(parameter, before[name]) for name, parameter in chat.model.named_parameters())


def test_the_published_way_answers_in_batches_of_four(chat, work, monkeypatch):
    """10 prompts are batches of 4, 4 and 2."""
    sizes, generate = [], chat.model.generate

    def counted(**given):
        sizes.append(len(given["input_ids"]))
        return generate(**given)

    monkeypatch.setattr(chat.model, "generate", counted)
    published(chat, work)([0.0])
    assert sizes == [4, 4, 2]


def test_a_text_that_is_none_is_not_judged(chat, work, monkeypatch):
    monkeypatch.setattr(procedures, "generated", lambda *args: [None, "I'm sorry, but no."])
    less = dataclasses.replace(work, rows=work.rows[:2])
    assert procedures.answered(chat, less, [[1], [1]], 4) == ["unjudged", "refused"]


def test_fewer_prompts_and_tokens_are_asked_where_the_work_says_so(chat, config, work):
    less = dataclasses.replace(work, rows=work.rows[:3])
    assert len(ours(chat, less, config)([0.0])[0.0]) == 3
