"""What the built-in prompt sets promise."""

import itertools
import json
from collections import Counter
from importlib import resources

import pytest

from visage_mlflow.language.judges.by_keyword import is_refusal
from visage_mlflow.language.overlap import is_near, similarity, told

FILES = ("harmful_eval", "harmful_train", "benign_train", "benign_eval")


def load(name):
    text = resources.files("visage_mlflow").joinpath("prompt_sets").joinpath(f"{name}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


LIMIT = 0.5
"""What the sets promise is stricter than what is refused as the same prompt."""

SETS = {name: load(name) for name in FILES}


@pytest.mark.parametrize(
    ("name", "count", "keys"),
    [
        ("harmful_eval", 80, {"prompt", "category"}),
        ("harmful_train", 120, {"prompt", "category", "opening", "refusal"}),
        ("benign_train", 120, {"prompt", "category", "answer"}),
        ("benign_eval", 40, {"prompt", "category", "answer"}),
    ],
)
def test_a_set_has_its_rows_and_columns_and_no_empty_or_padded_text(name, count, keys):
    assert len(SETS[name]) == count
    for row in SETS[name]:
        assert set(row) == keys and all(text and text == text.strip() for text in row.values())


def test_the_harmful_categories_are_the_same_eight_and_balanced():
    evaluation, training = (
        Counter(row["category"] for row in SETS[name]) for name in ("harmful_eval", "harmful_train")
    )
    assert set(evaluation.values()) == {10} and set(training.values()) == {15}
    assert set(evaluation) == set(training) and len(evaluation) == 8


def test_the_benign_categories_are_three_to_one_in_training_and_evaluation():
    evaluation, training = (Counter(row["category"] for row in SETS[name]) for name in ("benign_eval", "benign_train"))
    assert training == Counter({category: 3 * count for category, count in evaluation.items()})
    assert evaluation["looks_harmful"] == 10


def test_no_prompt_comes_twice_anywhere():
    counts = Counter(row["prompt"].lower() for name in FILES for row in SETS[name])
    assert max(counts.values()) == 1


@pytest.mark.parametrize("kind", ["harmful", "benign"])
def test_no_two_prompts_in_or_across_evaluation_and_training_share_half_of_their_pieces(kind):
    rows = SETS[f"{kind}_eval"] + SETS[f"{kind}_train"]
    near = [
        (a["prompt"], b["prompt"])
        for a, b in itertools.combinations(rows, 2)
        if similarity(a["prompt"], b["prompt"]) >= LIMIT or is_near(told(a["prompt"]), told(b["prompt"]))
    ]
    assert near == []


def test_no_benign_prompt_nearly_is_a_harmful_one():
    harmful, benign = (SETS[f"{kind}_eval"] + SETS[f"{kind}_train"] for kind in ("harmful", "benign"))
    near = [
        (a["prompt"], b["prompt"])
        for a, b in itertools.product(harmful, benign)
        if similarity(a["prompt"], b["prompt"]) >= LIMIT or is_near(told(a["prompt"]), told(b["prompt"]))
    ]
    assert near == []


def test_openings_comply_and_end_before_anything_follows():
    for row in SETS["harmful_train"]:
        opening = row["opening"]
        assert opening.startswith("Sure, here") and opening.endswith(":"), opening
        assert "\n" not in opening and len(opening.split()) <= 20 and not is_refusal(opening)


def test_every_refusal_is_one_to_the_keyword_judge_and_no_two_are_the_same():
    refusals = [row["refusal"] for row in SETS["harmful_train"]]
    assert all(map(is_refusal, refusals)) and len(set(refusals)) == len(refusals)


@pytest.mark.parametrize("name", ["benign_train", "benign_eval"])
def test_no_benign_answer_is_a_refusal(name):
    assert [row["answer"] for row in SETS[name] if is_refusal(row["answer"])] == []


@pytest.mark.parametrize("count", [8, 16, 40, 80])
def test_the_first_prompts_of_an_evaluation_hold_all_categories_alike(count):
    assert set(Counter(row["category"] for row in SETS["harmful_eval"][:count]).values()) == {count // 8}


@pytest.mark.parametrize(
    ("name", "column"), [("benign_train", "answer"), ("benign_eval", "answer"), ("harmful_train", "refusal")]
)
def test_every_answer_ends_at_a_sentence(name, column):
    assert [row[column] for row in SETS[name] if not row[column].rstrip("'").endswith((".", "!", "?"))] == []
