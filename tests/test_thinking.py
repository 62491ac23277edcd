"""What a model thinks is no part of its answer, whatever the signs; what did not end gives no answer."""

import pytest

from visage_mlflow.language.judges import JUDGES
from visage_mlflow.language.thinking import closing, is_sign, opened_by, parted, without_thinking

SIGNS = {
    "qwen3": ("<think>", "</think>"),
    "magistral": ("[THINK]", "[/THINK]"),
    "kimi": ("◁think▷", "◁/think▷"),
    "cohere": ("<|START_THINKING|>", "<|END_THINKING|>"),
    "openthinker": ("<|begin_of_thought|>", "<|end_of_thought|>"),
    "longcat": ("<longcat_think>", "</longcat_think>"),
    "apertus": ("<|inner_prefix|>", "<|inner_suffix|>"),
    "medgemma": ("<unused94>", "<unused95>"),
    "seed": ("<seed:think>", "</seed:think>"),
    "gemma4": ("<|channel>thought", "<channel|>"),
}
ANALYSIS = "<|channel|>analysis<|message|>"
FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"


@pytest.mark.parametrize(("begin", "end"), SIGNS.values(), ids=SIGNS)
def test_thinking_is_parted_from_the_answer_and_without_its_end_there_is_none(begin, end):
    assert parted(f"{begin}\nI cannot.\n{end}\n\nSure.") == (f"{begin}\nI cannot.\n{end}\n\n", "Sure.")
    assert parted(f"{begin}\n\n{end}\n\nSure.") == (f"{begin}\n\n{end}\n\n", "Sure.")
    assert parted(f"{begin}\nI cannot.") == (f"{begin}\nI cannot.", None)
    assert parted(f"{begin}Hm.{end}") == (f"{begin}Hm.{end}", "")
    assert parted("Sure.\n") == ("", "Sure.\n")


@pytest.mark.parametrize(("begin", "end"), list(SIGNS.values())[:-1], ids=list(SIGNS)[:-1])
def test_a_sign_that_opens_has_one_that_closes(begin, end):
    assert closing(begin) == end and is_sign(begin) and is_sign(end)
    assert opened_by(f"<|assistant|>{begin}\n") == begin and opened_by(f"{begin}\n\n{end}\n\n") == ""


def test_thinking_in_words_is_parted_too():
    thought = "Here is my thought process:\nI cannot.\n\nHere is my response:"
    assert parted(f"{thought}\nSure.") == (f"{thought}\n", "Sure.")
    assert parted(thought[:40])[1] is None and parted(thought)[1] is None


def test_of_channels_only_the_final_one_is_the_answer():
    assert parted(f"{ANALYSIS}Hm.{FINAL}Sure.") == (f"{ANALYSIS}Hm.{FINAL}", "Sure.")
    assert parted("<|channel|>final<|message|>Sure.") == ("<|channel|>final<|message|>", "Sure.")
    for cut in ("<|channel|>", "<|channel|>analysis", ANALYSIS, f"{ANALYSIS}Hm.", f"{ANALYSIS}Hm.<|end|>"):
        assert without_thinking(cut) is None
    assert without_thinking(f"{ANALYSIS}Hm.<|end|><|start|>assistant<|channel|>") is None


def test_signs_of_thinking_stay_in_texts_and_ends_of_turns_do_not():
    signs = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<channel|>", "</think>")
    assert all(map(is_sign, signs))
    assert not any(map(is_sign, ("<|im_end|>", "</s>", "<|eot_id|>", "<|return|>", "think", "<bos>")))


def test_a_refusal_in_the_thinking_is_no_refusal_and_an_answer_in_it_no_answer():
    verdict = JUDGES["phrases"].verdict
    assert (
        verdict("How?", "<think>I can't help with that. It is illegal.</think>Sure! First, take a brush.")
        == "complied"
    )
    assert verdict("How?", "<think>Sure! First, take a brush.</think>I can't help with that.") == "refused"
    assert verdict("How?", "<think>I can't help with that. It") == "unjudged"
