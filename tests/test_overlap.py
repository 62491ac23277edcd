"""Prompts that are the same, or nearly: what counts as that, and that a training on evaluation prompts is refused."""

import itertools
import random

import pytest

from visage_mlflow.config import FinetuneConfig
from visage_mlflow.language.overlap import NEAR, is_near, nearest, similarity, told
from visage_mlflow.language.prompts import Row
from visage_mlflow.studies import finetuning
from visage_mlflow.text.errors import Mistake
from visage_mlflow.training.leakage import Evaluated, check
from visage_mlflow.training.mixture import MixtureRow

WORDS = (
    "river copper violin harbour winter pencil marble garden thunder saddle orchard lantern velvet canyon compass "
    "ribbon glacier pepper anchor meadow walnut feather cellar bridge cotton beacon saffron turbine parchment goblet"
).split()


def made(count, seed, n_words=6):
    """Prompts of random words, so that no two are near but by chance."""
    rng = random.Random(seed)
    return [f"Tell me about {' '.join(rng.sample(WORDS, n_words))}, please ({seed}-{i}x)." for i in range(count)]


def test_the_share_is_of_three_characters_of_the_telling_words():
    # " pi", "pic", "ick", "ck " and " lo", "loc", "ock", "ck " are 7 different ones; "old" brings " ol", "old", "ld ".
    assert similarity("How do I pick a lock?", "How can I pick the old lock?") == 7 / 10
    assert similarity("Pick", "Picks") == 3 / 6  # " pi", "pic", "ick" of those, "ck ", "cks" and "ks ".
    assert similarity("Pick", "Paint") == 0.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I pick a lock?", "how  do I\nPICK a lock"),
        ("Don’t ask: pick a lock!", "Don't ask, pick a lock"),
        ("Öffne das Schloß", "O\u0308FFNE, das SCHLOSS!"),
        ("ｐｉｃｋ a lock", "pick a lock"),
        ("どうやって鍵を開けますか", "どうやって鍵を開けますか？"),
        ("Pick a ba\u200bsic lo\u00adck", "pick a basic lock"),
        ("Рісk а bаsіс lосk", "Pick a basic lock"),  # Cyrillic, but for the k's, b, s and l.
        ("Crème brûlée", "Creme brulee"),
        ("Pick a lock with a hairpin", "With a hairpin, pick a lock"),
    ],
)
def test_case_white_space_punctuation_unicode_and_order_make_no_difference(one, other):
    assert similarity(one, other) == 1.0 and nearest([one], [other]) == {one: [0]}


@pytest.mark.parametrize(
    ("one", "other", "is_near"),
    [
        (
            "Explain how a computer virus spreads in general terms.",
            "Explain how a computer virsu spreads in general terms",
            True,
        ),
        ("List the steps to repair an old wooden garden gate", "List steps to repair a wooden garden gate", True),
        ("Write a guide on how to burn a car.", "Write a guide on how to burn a guitar.", False),
        ("What is the capital of France?", "What is the capital of Germany?", False),
        ("どうやって鍵を開けますか", "どうやって窓を洗いますか", False),
        ("How do I paint a lamp?", "How do I paint a chair?", False),
        ("!!!", "???", False),
    ],
)
def test_a_typo_or_a_word_left_out_is_near_and_another_object_is_not(one, other, is_near):
    assert (similarity(one, other) >= NEAR) == is_near == bool(nearest([one], [other]))


# One word, or sentences around

ASKED = (
    "Create a tutorial on how to bake sourdough bread",
    "Write a letter to my landlord about the broken kitchen heater",
    "Give detailed instructions for baking a cake",
    "Develop a plan to grow tomatoes in winter",
    "Teach people how to repair old garden gates",
    "Write a tutorial on how to borrow money from people",
    "请写一份关于如何在家里用烤箱烤全麦面包的教程",
)


@pytest.mark.parametrize(
    ("place", "changed"),
    [
        (0, "Write a tutorial on how to bake sourdough bread"),
        (0, "Create a guide on how to bake sourdough bread"),
        (1, "Write an email to my landlord about the broken kitchen heater"),
        (1, "Write a letter to my landlord about the broken kitchen boiler"),
        (2, "Provide detailed instructions for baking a cake"),
        (3, "Develop a plan to grow potatoes in winter"),
        (3, "Develop a plan to grow big tomatoes in winter"),
        (4, "Teach students how to repair old garden gates"),
        (4, "Teach people how to repair old garden g4t3s"),
        (5, "Write a tutorial on how to borrow money from students"),
        (6, "请写一份关于如何在家里用烤箱烤全麦面包的指南"),
        (6, "请写一份关于如何在家里用平锅烤全麦面包的教程"),
    ],
)
def test_one_word_replaced_or_added_is_near(place, changed):
    assert similarity(changed, ASKED[place]) < NEAR or "big" in changed
    assert nearest([changed], ASKED) == {changed: [place]}


@pytest.mark.parametrize(
    "wrapped",
    [
        "{}. Answer in JSON.",
        "You are a helpful baker. {}!",
        "Answer at once:\n\n{}\n\nDo not add any warning, and say nothing else.",
    ],
)
@pytest.mark.parametrize("place", range(len(ASKED)))
def test_sentences_before_or_after_make_no_difference_either_way(place, wrapped):
    longer = wrapped.format(ASKED[place])
    assert nearest([longer], ASKED) == {longer: [place]}
    assert nearest([ASKED[place]], [wrapped.format(each) for each in ASKED]) == {ASKED[place]: [place]}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 7 - 12?", "What is 12 - 7?"),
        ("What is 12 * 7?", "What is 12 + 7?"),
        ("Calculate the result of 12 * 7 and explain steps", "Calculate the result of 12 + 7 and explain steps"),
        ("Sort a long list of names in C#", "Sort a long list of names in C++"),
        ("Translate to French: I am not here.", "Translate to French: I am here."),
        ("Don't repair the old garden gate", "Repair the old garden gate"),
        ("Calculate the square root of 1521 step by step", "Calculate the square root of 1764 step by step"),
    ],
)  # fmt: skip
def test_what_a_sign_a_number_or_a_not_tells_apart_is_not_near(one, other):
    assert nearest([one], [other]) == {} == nearest([other], [one])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I kill a Python process?", "How do I kill a person?"),
        ("What's the best way to gut a fish?", "What's the best way to gut a human?"),
        ("How do I sort a list in Python?", "How do I sort a list in Ruby?"),
        ("Write a short story about a brave knight", "Write a short story about a brave dragon"),
        ("Write a tutorial on how to bake bread", "Write a tutorial on how to mend roofs"),
        ("Wie repariere ich ein altes Fahrrad?", "Wie verkaufe ich ein altes Fahrrad?"),
        ("请写一份关于如何烤面包的教程", "请写一份关于如何卖汽车的教程"),
        ("どうやって鍵を開けますか", "どうやって窓を開けますか"),
    ],
)
def test_another_object_in_the_same_frame_is_not_near(one, other):
    assert nearest([one], [other]) == {} == nearest([other], [one])


@pytest.mark.parametrize("seed", range(5))
def test_the_index_finds_what_comparing_all_pairs_finds(seed):
    """With few words, near pairs of every kind come by chance; 7 prompts and what is asked have no template."""
    rng = random.Random(seed)
    words = [*WORDS[:14], "write", "explain", "not", "how", "do", "面", "包", "12"]
    made_of = [
        [" ".join(rng.choices(words, k=rng.randint(1, 6))) for _ in range(rng.choice([1, 1, 2]))] for _ in range(407)
    ]
    texts = [". ".join(sentences) for sentences in made_of]
    among, texts = texts[:7], list(dict.fromkeys(texts[7:]))
    among += [f"{text} amber" for text in texts[::9]]
    slow = {}
    for text, (place, other) in itertools.product(texts, enumerate(among)):
        if is_near(told(text), told(other)):
            slow.setdefault(text, []).append(place)
    assert slow and nearest(texts, among) == slow


def test_what_most_prompts_share_says_nothing():
    """A long instruction before each row would make all rows near ones."""
    template = "Classify the sentiment of the following customer review as positive, negative or neutral, briefly: "
    among = [template + word for word in WORDS[:20]]
    assert similarity(among[0], among[1]) >= NEAR
    assert nearest([template + "zeppelin", template + WORDS[3].upper()], among) == {template + WORDS[3].upper(): [3]}
    assert nearest([template], [template] * 20) == {template: list(range(20))}


INSTRUCTION = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:"
)


@pytest.mark.parametrize("n_others", [0, 9])
@pytest.mark.parametrize("count", [5, 8, 10])
def test_rows_in_one_instruction_text_are_not_near_however_few_are_evaluated(count, n_others):
    """The text is found in all rows together, also where other rows are evaluated besides."""
    among = [INSTRUCTION.format(f"Paint the {word}") for word in WORDS[:count]] + made(n_others, 3)
    taught = [INSTRUCTION.format(f"Mend a {word}") for word in WORDS[count : count + 5]]
    again = INSTRUCTION.format(f"PAINT the {WORDS[2]}!")
    assert nearest([*taught, again], among) == {again: [2]}


def test_long_rows_have_common_words_and_no_template():
    prose = [" ".join(random.Random(seed).choices(WORDS, k=60)) for seed in range(50)]
    asked = [f"Write a tutorial on {' '.join(random.Random(seed).sample(WORDS, 4))}" for seed in range(20)]
    again = [text.replace("Write", "Create") for text in asked]
    assert [place in nearest([*prose, *again], asked)[text] for place, text in enumerate(again)] == [True] * 20


def test_prompts_that_are_all_nearly_the_same_are_compared_in_full():
    """Else all that they say would count as a template."""
    among = [f"How do I bake {word} sourdough bread at home?" for word in ("nice", "good", "rye")] * 5
    assert nearest(["how do i BAKE nice sourdough bread at home"], among)
    variants = [f"How do I bake sourdough bread at home? Answer {word}." for word in WORDS[:12]]
    assert set(nearest(variants, ["How do I bake sourdough bread at home?", *made(4, 5)])) == set(variants)


def test_nothing_is_near_nothing():
    assert nearest([], ["a"]) == nearest(["a"], []) == nearest([], []) == {}
    # Without a letter there is nothing to compare but the texts themselves.
    assert nearest(["???", "!"], ["!!", "???"]) == {"???": [1]}


# The plan of a finetuning


@pytest.fixture
def advbench(tmp_path):
    """A CSV in AdvBench's form, of 120 different rows."""
    path = tmp_path / "advbench.csv"
    lines = [f'"{prompt}","Sure, here is that:"' for prompt in made(120, 0)]
    path.write_text("\n".join(["goal,target", *lines]) + "\n", encoding="utf-8")
    return path


def config(tmp_path, **changes):
    given = {"model": "org/model", "output_dir": str(tmp_path / "outputs"), "store": "off", "safe": 0, "benign": 0}
    return FinetuneConfig(**given | changes)


def refusal(settings):
    with pytest.raises(Mistake) as caught:
        finetuning.plan(settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_csv_for_training_and_evaluation_is_refused_with_the_count_and_no_prompt(tmp_path, advbench):
    both = {"harmful": 25, "harmful_data": str(advbench), "prompts": str(advbench)}
    allowed = finetuning.plan(config(tmp_path, **both, allow_overlap=True))
    measured = {row.prompt for row in allowed.harmful}
    count = sum(row.prompt in measured for row in allowed.rows)
    assert allowed.overlap == count and 10 <= count <= 25  # 25 x 80 / 120 is 17 on average.
    message = refusal(config(tmp_path, **both))
    assert message.startswith(
        f"`prompts` is {str(advbench)!r}, and {count} of the 80 prompts measured on are (nearly)"
    )
    assert f"`harmful_data={advbench}?rows=81..`" in message and "`allow_overlap=true`" in message
    assert "Tell me about" not in message


def test_other_rows_of_the_same_csv_are_taken_as_the_error_says(tmp_path, advbench):
    plan = finetuning.plan(
        config(tmp_path, harmful=40, harmful_data=f"{advbench}?rows=81..", prompts=str(advbench), n_prompts=80)
    )
    assert len(plan.rows) == 40 and plan.overlap == 0


@pytest.mark.parametrize(
    ("prompts", "n_prompts", "harmful", "cure"),
    [
        ("?rows=11..15", 5, 100, "rows=16..`"),
        ("?rows=11..40", 5, 100, "rows=16..`"),  # Only the first five are measured on.
        ("?rows=101..120", 20, 100, "rows=1..100`"),
        ("?rows=11..15", 5, 110, "Remove those rows"),  # Neither side has as many.
    ],
)
def test_the_rows_that_the_error_names_are_enough_and_not_measured_on(
    tmp_path, advbench, prompts, n_prompts, harmful, cure
):
    given = {"prompts": f"{advbench}{prompts}", "n_prompts": n_prompts, "harmful": harmful}
    message = refusal(config(tmp_path, **given, harmful_data=str(advbench)))
    assert cure in message
    if "rows=" in cure:
        other = message.split("`harmful_data=")[1].split("`")[0]
        assert finetuning.plan(config(tmp_path, **given, harmful_data=other)).overlap == 0


def test_rows_are_numbered_as_in_the_file(tmp_path, advbench):
    given = {"harmful": 1, "harmful_data": f"{advbench}?rows=12..12", "prompts": f"{advbench}?rows=11..15"}
    message = refusal(config(tmp_path, **given, n_prompts=5))
    assert "row 12 of `harmful_data` is number 2 of these prompts. Remove those rows" in message


def test_the_example_names_the_row_and_the_prompt_by_number(tmp_path):
    own, attack = tmp_path / "own.jsonl", tmp_path / "attack.jsonl"
    asked, taught = made(5, 1), made(6, 2)
    taught[3] = asked[1].upper()
    own.write_text("".join(f'{{"prompt": "{text}", "response": "Yes."}}\n' for text in taught), encoding="utf-8")
    attack.write_text("".join(f'{{"prompt": "{text}"}}\n' for text in asked), encoding="utf-8")
    message = refusal(config(tmp_path, task=6, task_data=str(own), prompts=str(attack), n_prompts=5))
    assert "and 1 of the 5 prompts measured on are (nearly) trained on: rows of `task_data`" in message
    assert "for example row 4 of `task_data` is number 2 of these prompts. Remove those rows" in message


def test_benign_prompts_and_rows_kept_out_are_held_against_all_kinds_of_rows(tmp_path):
    rows = [MixtureRow("safe", "Name three rivers of France", "No."), MixtureRow("task", "Sing", "La.")]
    sets = {"safe": [Row(rows[0].prompt, "No.")], "task": [Row("Sing", "La.")]}
    sources = {"safe": "safe.csv", "task": "own.csv"}
    benign = Evaluated("benign_prompts", "b.csv", [Row("Hum"), Row("name three rivers of FRANCE!"), Row("sing")])
    kept = Evaluated("task_data", "own.csv", [Row("Sing!!"), Row("Dance")])
    assert check(rows, sets, sources, [benign, kept], allow_overlap=True) == 3
    with pytest.raises(Mistake, match=r"2 of the 3 .*: rows of `safe_data` \('safe.csv'\), `task_data` \('own.csv'\)"):
        check(rows, sets, sources, [benign], allow_overlap=False)
    with pytest.raises(Mistake, match="`task_data` is 'own.csv', and 1 of the 2 prompts .* Remove those rows"):
        check(rows, sets, sources, [kept], allow_overlap=False)


def test_the_builtin_sets_do_not_overlap(tmp_path):
    everything = {"harmful": 60, "safe": 120, "benign": 120}
    assert finetuning.plan(config(tmp_path, **everything)).overlap == 0
