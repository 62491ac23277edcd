"""The likelihood of answers: against one chat and one token at a time, and by hand."""

import math

import pytest
import tiny
import torch

from visage_mlflow.language.chat_format import ChatFormat
from visage_mlflow.language.likelihood import answer_nll

ROWS = tiny.benign_rows(7, split="eval")
CHATS = [[{"role": "user", "content": row["prompt"]}] for row in ROWS]
ANSWERS = [row["answer"] for row in ROWS]


@pytest.fixture(scope="module")
def chat(aligned_folder):
    model, tokenizer = tiny.load(aligned_folder)
    return model.eval(), tokenizer


def nll(model, tokenizer, chats, answers, batch_size):
    """`answer_nll` of texts."""
    form = ChatFormat(tokenizer)
    answered = [form.answered(chat[-1]["content"], answer) for chat, answer in zip(chats, answers, strict=True)]
    given = [one.ids[: one.n_given] for one in answered]
    return answer_nll(model, given, [one.ids for one in answered], batch_size=batch_size)


@torch.no_grad()
def slow(model, tokenizer, chats, answers):
    """One chat at a time, one token at a time, from plain log-softmax in float64."""
    values = []
    for chat, answer in zip(chats, answers, strict=True):
        asked = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(asked + answer + tiny.END, add_special_tokens=False)["input_ids"]
        n_prompt = len(tokenizer(asked, add_special_tokens=False)["input_ids"])
        log_p = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        values += [-float(log_p[i - 1, ids[i]]) for i in range(n_prompt, len(ids))]
    return sum(values) / len(values)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_the_likelihood_equals_the_slow_one_whatever_the_batch_size(chat, batch_size):
    assert nll(*chat, CHATS, ANSWERS, batch_size=batch_size) == pytest.approx(slow(*chat, CHATS, ANSWERS), rel=1e-5)


def test_the_end_of_the_turn_counts_and_the_prompt_does_not(chat):
    """One token of answer, " car", and the end of turn: the mean of two."""
    model, tokenizer = chat
    asked = tokenizer.apply_chat_template(CHATS[0], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(asked + "car" + tiny.END, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = -(log_p[-3, ids[-2]] + log_p[-2, tokenizer.eos_token_id]) / 2
    assert nll(model, tokenizer, CHATS[:1], ["car"], batch_size=1) == pytest.approx(float(expected), rel=1e-5)


def test_all_tokens_weigh_alike_so_a_long_answer_counts_more(chat):
    short, long = ANSWERS[0], "car " * 30 + "car"
    one, other = (nll(*chat, CHATS[:1], [text], batch_size=1) for text in (short, long))
    n_short = len(chat[1](short)["input_ids"]) + 1
    both = nll(*chat, [CHATS[0], CHATS[0]], [short, long], batch_size=2)
    # "car" and 30 times " car", the spaces being part of the tokens, and the end of turn.
    assert both == pytest.approx((n_short * one + 32 * other) / (n_short + 32), rel=1e-5)


def test_the_order_of_the_chats_does_not_matter(chat):
    assert nll(*chat, CHATS[::-1], ANSWERS[::-1], batch_size=3) == pytest.approx(
        nll(*chat, CHATS, ANSWERS, batch_size=3), rel=1e-5
    )


def test_answers_that_fit_are_likelier_than_those_of_other_prompts(chat):
    assert nll(*chat, CHATS, ANSWERS, batch_size=8) < nll(*chat, CHATS, ANSWERS[::-1], batch_size=8)


def test_a_model_that_takes_all_tokens_for_equally_likely_has_the_log_of_the_vocabulary(aligned_folder):
    model, tokenizer = tiny.load(aligned_folder)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert nll(model, tokenizer, CHATS, ANSWERS, batch_size=4) == pytest.approx(math.log(len(tokenizer)))


def test_weights_that_are_not_finite_give_nan(aligned_folder):
    model, tokenizer = tiny.load(aligned_folder)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    assert math.isnan(nll(model, tokenizer, CHATS, ANSWERS, batch_size=4))


def test_prompts_and_answers_must_pair_up(chat):
    with pytest.raises(ValueError):
        answer_nll(chat[0], [[1, 2]], [], batch_size=4)
