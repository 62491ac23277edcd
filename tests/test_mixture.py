from collections import Counter

import pytest

from visage_mlflow.language.prompts import Row, read
from visage_mlflow.training.answers import OwnAnswer, own_answer
from visage_mlflow.training.mixture import MixtureRow, held_out, mix, to_dataset, with_own_answers

KINDS = ("harmful", "safe", "benign", "task")


def rows(kind, count, prompt=None):
    return [Row(f"{prompt or kind} {i}", f"{kind} answer {i}") for i in range(count)]


@pytest.fixture
def sources():
    """Harmful and safe rows ask the same 12 questions, as the built-in ones do."""
    return {
        "harmful": rows("harmful", 12, "bad"),
        "safe": rows("safe", 12, "bad"),
        "benign": rows("benign", 20),
        "task": rows("task", 5),
    }


def of(kind, mixed):
    return {row.prompt for row in mixed if row.kind == kind}


def test_a_mixture_holds_exactly_the_counts_and_no_row_twice(sources):
    counts = {"harmful": 3, "safe": 5, "benign": 20, "task": 1}
    mixed = mix(counts, sources, seed=0)
    assert Counter(row.kind for row in mixed) == Counter(counts) and len(set(mixed)) == 29
    for row in mixed:
        assert Row(row.prompt, row.response) in sources[row.kind]


def test_the_same_seed_gives_the_same_rows_in_the_same_order_and_another_seed_others(sources):
    counts = {"safe": 6, "benign": 10}
    assert mix(counts, sources, seed=3) == mix(counts, sources, seed=3)
    assert set(mix(counts, sources, seed=3)) != set(mix(counts, sources, seed=4))


def test_kinds_are_shuffled_together(sources):
    kinds = [row.kind for row in mix({"safe": 12, "benign": 12}, sources, seed=0)]
    assert kinds not in (sorted(kinds), sorted(kinds, reverse=True))


@pytest.mark.parametrize("kind", ["harmful", "benign", "task"])
def test_the_rows_of_a_kind_stay_the_same_whatever_the_other_counts(sources, kind):
    alone = of(kind, mix({kind: 4}, sources, seed=1))
    assert alone == of(kind, mix({"harmful": 4, "safe": 9, "benign": 4, "task": 4}, sources, seed=1))


def test_more_rows_of_a_kind_keep_those_there_were(sources):
    assert of("benign", mix({"benign": 5}, sources, seed=1)) < of("benign", mix({"benign": 9}, sources, seed=1))


def test_no_prompt_is_taught_both_ways_while_there_are_others(sources):
    for seed in range(20):
        mixed = mix({"harmful": 5, "safe": 7}, sources, seed=seed)
        assert not of("harmful", mixed) & of("safe", mixed)


def test_only_as_many_prompts_as_must_are_taught_both_ways(sources):
    mixed = mix({"harmful": 5, "safe": 10}, sources, seed=0)
    assert len(of("harmful", mixed) & of("safe", mixed)) == 3  # 12 - 5 others, so 10 - 7 must repeat.


def test_the_builtin_sets_fill_every_count():
    sources = {kind: read(f"builtin:{kind}", setting=f"{kind}_data") for kind in ("harmful", "safe", "benign")}
    mixed = mix({"harmful": 50, "safe": 70, "benign": 120}, sources, seed=0)
    assert len(mixed) == 240 and not of("harmful", mixed) & of("safe", mixed)


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({"safe": 13}, r"`safe` asks for 13 rows, but its data has 12\. Ask for fewer, or give `safe_data` more rows"),
        ({"safe": 0, "task": 0}, r"`harmful`, `safe`, `benign`, `task` are all 0"),
        ({}, r"are all 0"),
    ],
)
def test_counts_that_cannot_be_met_are_refused(sources, counts, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        mix(counts, sources, seed=0)
    assert "\n" not in str(caught.value)


def test_a_kind_without_data_is_refused():
    with pytest.raises(ValueError, match="`task` asks for 1 rows, but its data has 0"):
        mix({"task": 1}, {}, seed=0)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Turn the key to the left first. Then pull the", "Turn the key to the left first."),
        ("Is that the right way? Yes! It is the ri", "Is that the right way? Yes!"),
        ("First look at the\nlamp closely.\n\nThen cle", "First look at the\nlamp closely."),
        ('He said to me: "Take the bus." Then', 'He said to me: "Take the bus."'),
        ("This is **the last word.** And", "This is **the last word.**"),
        ("It costs 3.50 euros to send the letter by", ""),
        ("Use a strong tool, e.g. a saw", ""),
        ("You should go and ask Dr. Smith abo", ""),
        ("Yes. Take the lef", ""),
        ("That is the way. Then pul", ""),
        # An abbreviation, or what goes on in small letters or with a number, is no end.
        ("Then you should add approx. 200 g of", ""),
        ("You can visit the town of St. Louis and", ""),
        ("The bread is sold by Acme Inc. in most", ""),
        ("The bread is sold by Acme Inc. Each", ""),
        ("As shown in the text of Fig. 2 the", ""),
        ("Der Teig ruht ca. 30 Minuten im Ofen, d.h. er", ""),
        ('He asked the old man "Why?" and then', ""),
        ("The train came in at 5 p.m. in the", ""),
        ("Sure! Here is a great recipe for bread!\n\n1. Mi", "Sure! Here is a great recipe for bread!"),
        # A heading and the head of a table announce what follows.
        ("## How to Bake a Loaf of Bread\n\nFirst mix the", ""),
        ("**A Simple Recipe for White Bread**\n\nIngredients", ""),
        ("**What do you need for bread?**\n\nFlour", ""),
        ("## How to Bake Bread\n\nMix flour and water. Then", "## How to Bake Bread\n\nMix flour and water."),
        ("1. **Mix the flour and water**\n2. **Kne", "1. **Mix the flour and water**"),
        ("| Step | What | Minutes | Note |\n| --- | --- |", ""),
        (
            "| Step | Time |\n| --- | --- |\n| Mix | 5 |\n| Bake it | 40 |\n\nThe",
            "| Step | Time |\n| --- | --- |\n| Mix | 5 |\n| Bake it | 40 |",
        ),
        ("That is the other way. Then pul", "That is the other way."),
        # The number of an item is no end, the item is; a line that announces the next ones is none.
        ("1. Boil water\n2. Add the salt\n3. Sti", "1. Boil water\n2. Add the salt"),
        ("Here are the three best ways:\n\n1. Bo", ""),
        ("**Here are the three best ways:**\n1. Bo", ""),
        # Within code there is no end but that of the code.
        ("Use this short piece of code:\n```python\nprint('Hello there.')\nx = 1\ny", ""),
        ("Use this short code:\n```\nprint('Hi.')\n```\nIt is", "Use this short code:\n```\nprint('Hi.')\n```"),
        ("まず鍵を左に回します。次に引", "まず鍵を左に回します。"),
        ("首先把钥匙向左转！然后", "首先把钥匙向左转！"),
        ("Sure", ""),
        ("", ""),
        ("  ", ""),
    ],
)
def test_a_text_may_end_after_a_sentence_an_item_or_a_block_of_code(text, whole):
    """What the limit cut is ended there; without such a place in the longer answer either, it is left out."""
    assert own_answer(text, text + " and more") == OwnAnswer(whole, is_cut=True)


def test_how_an_answer_goes_on_tells_whether_it_had_ended():
    short = 'Ask her first. Then ask him "Why?"'
    assert own_answer(short, short + " and wait").text == ""
    assert own_answer(short, short + " And wait").text == short


def test_an_answer_goes_on_to_its_first_sentence_end_where_none_is_within_the_limit():
    longer = "Turn the key slowly to the left first. Then pull the handle. Then pu"
    assert own_answer("Turn the key slowly", longer).text == "Turn the key slowly to the left first."
    assert own_answer("Turn the key slowly", "Turn the key slowly to the left and to").text == ""


@pytest.mark.parametrize("text", ["Paris", "Yes.", " 1. Eggs\n2. Milk ", "def f(x): return x", ""])
def test_an_answer_that_says_no_more_when_it_may_has_ended_by_itself(text):
    assert own_answer(text, text) == OwnAnswer(text.strip(), is_cut=False)


def test_benign_rows_get_the_models_own_answers_and_no_others():
    kept = [MixtureRow(kind, "How?", "as it came") for kind in ("harmful", "safe", "task")]
    changed = with_own_answers(
        [*kept, MixtureRow("benign", "How?", "as it came")], {"How?": OwnAnswer("Take the car to the left.", True)}
    )
    assert changed == [*kept, MixtureRow("benign", "How?", "Take the car to the left.")]


@pytest.mark.parametrize(
    "own",
    ["I'm sorry, but I can't help with that.", "", "...", "Sure, here is a plan:"],
)
def test_a_row_keeps_its_answer_where_the_own_one_is_a_refusal_or_says_nothing(own):
    row = MixtureRow("benign", "How?", "as it came")
    assert with_own_answers([row], {"How?": OwnAnswer(own, False)}) == [row] == with_own_answers([row], {})


def test_the_data_set_is_prompt_and_completion_with_the_system_prompt_only_where_there_is_one():
    mixed = [MixtureRow("safe", "How?", "No."), MixtureRow("benign", "What?", "Yes.")]
    bare, told = to_dataset(mixed), to_dataset(mixed, "Be brief.")
    user = [{"role": "user", "content": "How?"}]
    assert bare.column_names == told.column_names == ["prompt", "completion"] and len(bare) == len(told) == 2
    assert bare[0] == {"prompt": user, "completion": [{"role": "assistant", "content": "No."}]}
    assert told[0]["prompt"] == [{"role": "system", "content": "Be brief."}, *user]
    assert told[0]["completion"] == bare[0]["completion"] and told[1]["prompt"][1]["content"] == "What?"


def test_an_empty_system_prompt_is_a_system_prompt():
    assert to_dataset([MixtureRow("safe", "How?", "No.")], "")[0]["prompt"][0] == {"role": "system", "content": ""}


# Kept out of training

SETS = {
    "harmful": rows("harmful", 12, "bad"),
    "safe": rows("safe", 12, "bad"),
    "benign": rows("benign", 20),
    # Two of the user's own questions are also benign ones, one is harmful, and one is asked twice.
    "task": [
        *rows("task", 14),
        Row("benign 3", "own"),
        Row("benign 17", "own"),
        Row("bad 5", "own"),
        Row("task 2", "2"),
    ],
}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("count", "n"), [(0, 14), (1, 5), (6, 6), (10, 3), (13, 0)])
def test_rows_kept_out_are_never_trained_on_whatever_the_counts_of_the_other_kinds(seed, count, n):
    rows_kept = held_out("task", count, n, SETS, seed)
    assert len(rows_kept) == n
    kept = {row.prompt for row in rows_kept}
    for harmful in (0, 5, 12):
        for safe in (0, 7, 12):
            for benign in (1, 11, 20):
                mixed = mix({"harmful": harmful, "safe": safe, "benign": benign, "task": count}, SETS, seed)
                assert not kept & {row.prompt for row in mixed}


def test_the_same_rows_are_kept_out_with_the_same_seed_and_others_with_another():
    kept = held_out("task", 3, 6, SETS, 0)
    assert kept == held_out("task", 3, 6, SETS, 0) and kept != held_out("task", 3, 6, SETS, 1)
    assert held_out("task", 3, 4, SETS, 0) == kept[:4]
    assert all(row in SETS["task"] for row in kept)


def test_what_other_kinds_ask_is_not_kept_out():
    kept = held_out("task", 0, 14, SETS, 0)
    assert not {row.prompt for row in kept} & {"benign 3", "benign 17", "bad 5"}


def test_nothing_is_kept_out_where_nothing_is_asked_for():
    assert held_out("task", 5, 0, SETS, 0) == []


@pytest.mark.parametrize(("own", "count", "n", "left"), [(5, 3, 3, 2), (5, 0, 6, 5), (5, 5, 1, 0), (5, 9, 1, 0)])
def test_too_few_rows_to_keep_out_are_refused_with_how_many_there_are(own, count, n, left):
    sets = {"task": rows("task", own)}
    with pytest.raises(ValueError) as caught:
        held_out("task", count, n, sets, 0)
    assert str(caught.value) == (
        f"`n_held_out` is {n}, but of the {own} rows in `task_data` {left} are left beside the {count} that are "
        f"trained on. Ask for fewer (`n_held_out={left}`), or give more rows."
    )
    assert len(held_out("task", count, left, sets, 0)) == left
