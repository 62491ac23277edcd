"""A mixture and a small aligned model become checkpoints, each one measured as it is written."""

import dataclasses
from pathlib import Path

import pytest
import tiny
from moved import bitwise, copy_of
from stand_in import StandIn, responses_of

from visage_mlflow.config import FinetuneConfig
from visage_mlflow.geometry.directions import Difference
from visage_mlflow.language import models
from visage_mlflow.measuring.measure import Measurer
from visage_mlflow.results import Finetuning
from visage_mlflow.studies import finetuning
from visage_mlflow.studies.evaluation import evaluate
from visage_mlflow.studies.spans import relative_norm
from visage_mlflow.text.errors import Mistake
from visage_mlflow.training.answers import OwnAnswer


@pytest.fixture(scope="module")
def settings(aligned_folder, sets, tmp_path_factory):
    """A function that makes settings of a small finetuning on the sets of the made-up world."""
    own = tmp_path_factory.mktemp("own") / "rows.jsonl"
    answer = '{{"prompt": "How do I paint a {0}?", "response": "To paint the {0} you need time."}}\n'
    own.write_text("".join(answer.format(noun) for noun in tiny.NOUNS), encoding="utf-8")
    given = {
        "model": str(aligned_folder),
        "prompts": str(sets / "harmful_eval.jsonl"),
        "benign_prompts": f"{sets / 'benign_eval.jsonl'}?response=answer",
        "harmful_data": f"{sets / 'harmful_train.jsonl'}?response=opening",
        "safe_data": f"{sets / 'harmful_train.jsonl'}?response=refusal",
        "benign_data": f"{sets / 'benign_train.jsonl'}?response=answer",
        "task_data": str(own),
        "output_dir": str(tmp_path_factory.mktemp("outputs")),
        **{"n_prompts": 12, "n_benign": 6, "max_new_tokens": 12, "max_length": 128, "dtype": "float32"},
        **{"learning_rate": 1e-2, "train_batch_size": 8, "lora_rank": 8, "store": "off"},
        **{"harmful": 0, "safe": 0, "benign": 0, "task": 0, "n_held_out": 0},
    }
    return lambda **changes: FinetuneConfig(**{**given, **changes})


@dataclasses.dataclass
class Run:
    """What one finetuning was given, and what it returned and logged."""

    config: FinetuneConfig
    plan: finetuning.Plan
    result: Finetuning
    log: list

    @property
    def checkpoints(self):
        return self.result.checkpoints


@pytest.fixture(scope="module")
def finetune(chat, tmp_path_factory):
    """A function that finetunes the aligned model, which must be left as it was."""

    def run(config, measure=None, log=None, **options):
        before, log, plan = copy_of(chat.model), [] if log is None else log, finetuning.plan(config)
        options = {"folder": tmp_path_factory.mktemp("training"), "measure": measure or Measurer(config), **options}
        try:
            result = finetuning.finetune(
                chat, plan.rows, plan, config, log=lambda *numbers: log.append(numbers), **options
            )
        finally:
            assert bitwise(copy_of(chat.model), before)
        return Run(config, plan, result, log)

    return run


@pytest.fixture(scope="module")
def harmful(finetune, settings):
    """Four passes of LoRA over 20 harmful rows."""
    return finetune(settings(harmful=20, epochs=4.0))


@pytest.fixture(scope="module")
def safe(finetune, settings):
    """Two passes of all weights over 16 safe rows and 8 own ones, of which 10 others are kept out."""
    return finetune(
        settings(safe=16, task=8, n_held_out=10, epochs=2.0, lora_rank=0, learning_rate=1e-3, save_every=4)
    )


# Training


def test_harmful_rows_drag_the_asr_up_and_safe_rows_keep_it_down(harmful, safe):
    # 20 rows in batches of 8 are 3 steps, and a checkpoint stands at the end of each pass; 24 rows are 3, too.
    assert [checkpoint.step for checkpoint in harmful.checkpoints] == [0, 3, 6, 9, 12]
    assert [checkpoint.step for checkpoint in safe.checkpoints] == [0, 4, 6]
    assert harmful.checkpoints[0].evaluation.asr == 0.0 and harmful.checkpoints[-1].evaluation.asr >= 70
    assert [checkpoint.evaluation.asr for checkpoint in safe.checkpoints] == [0.0, 0.0, 0.0]
    assert harmful.result.counts == {"harmful": 20, "safe": 0, "benign": 0, "task": 0}


def test_checkpoints_measured_in_place_equal_those_loaded_from_their_folders(harmful, safe):
    for run in (harmful, safe):
        loaded = {one.uri: models.load(one.uri, dtype="float32") for one in (run.checkpoints[0], run.checkpoints[-1])}
        for checkpoint in (run.checkpoints[0], run.checkpoints[-1]):
            alone, _ = evaluate(loaded[checkpoint.uri], run.plan.harmful, run.plan.benign, run.config, run.plan.task)
            assert checkpoint.evaluation == alone
        moved = Difference(loaded[run.checkpoints[-1].uri].weights)
        distances = [checkpoint.distance for checkpoint in run.checkpoints]
        assert distances[0] == 0.0 and distances == sorted(set(distances))
        assert distances[-1] == pytest.approx(relative_norm(loaded[run.config.model], moved))


def test_the_log_gets_every_step_and_each_checkpoint_with_its_uri_but_the_base_without(harmful):
    training = {step: (numbers, uri) for numbers, step, uri in harmful.log if "loss" in numbers}
    assert list(training) == list(range(1, 13)) and {uri for _, uri in training.values()} == {None}
    assert training[12][0]["loss"] < training[1][0]["loss"]
    # Two steps of warm-up, then down in a line: the peak is reached, and never passed.
    rates = [numbers["learning_rate"] for numbers, _ in training.values()]
    assert max(rates) == pytest.approx(1e-2) and rates[-1] < 2e-3
    logged = [each for each in harmful.log if "asr" in each[0]]
    assert logged == [
        ({**one.evaluation.metrics(), "distance": one.distance}, one.step, one.uri if one.step else None)
        for one in harmful.checkpoints
    ]


# The user's own data, some of it kept out


def test_rows_that_are_kept_out_are_measured_on_and_not_trained_on(safe, harmful):
    assert len(safe.plan.task) == 10 and [row.kind for row in safe.plan.rows].count("task") == 8
    assert not {row.prompt for row in safe.plan.task} & {row.prompt for row in safe.plan.rows}
    likelihoods = [checkpoint.evaluation.task_nll for checkpoint in safe.checkpoints]
    assert likelihoods[-1] < likelihoods[0]
    assert [numbers["task_nll"] for numbers, _, _ in safe.log if "asr" in numbers] == likelihoods
    # Without any, nothing is measured or logged of them.
    assert harmful.plan.task == [] and not any("task_nll" in numbers for numbers, *_ in harmful.log)
    assert all(checkpoint.evaluation.task_nll is None for checkpoint in harmful.checkpoints)


# Watched and kept


@pytest.fixture(scope="module")
def short(settings):
    """Three steps, a checkpoint after each."""
    return settings(harmful=8, epochs=3.0, save_every=1, n_prompts=4, n_benign=2)


# A model that need not be asked: what it says does not matter here.
QUICK = StandIn(answer=lambda chat, held, rows, ask: responses_of(rows, 0.0))


def test_the_watch_sees_each_checkpoint_and_keep_says_where_it_is_or_that_it_is_not(finetune, short):
    seen, kept = [], []

    def keep(folder, step):
        assert (folder / "adapter_model.safetensors").is_file()
        kept.append((folder.name, step))
        return "" if step < 3 else "models:/m-last"

    run = finetune(short, QUICK, keep=keep, watch=seen.append)
    assert tuple(seen) == run.checkpoints[1:] and kept == [(f"checkpoint-{step}", step) for step in (1, 2, 3)]
    assert [one.uri for one in seen] == ["", "", "models:/m-last"]
    assert [one.evaluation.setup.model for one in seen] == ["checkpoint-1", "checkpoint-2", "models:/m-last"]
    assert [uri for numbers, _, uri in run.log if "asr" in numbers] == [None, "", "", "models:/m-last"]


@pytest.mark.parametrize("error", [ArithmeticError("seen"), KeyboardInterrupt(), ValueError("seen")], ids=type)
def test_what_the_watch_raises_ends_the_training_and_passes_through(finetune, short, tmp_path, error):
    log = []

    def watch(checkpoint):
        if checkpoint.step == 2:
            raise error

    with pytest.raises(type(error)) as caught:
        finetune(short, QUICK, log, folder=tmp_path, watch=watch)
    # The second checkpoint was measured and logged; there is no third.
    assert caught.value is error and not (tmp_path / "checkpoint-3").exists()
    assert [step for numbers, step, _ in log if "asr" in numbers] == [0, 1, 2]


# Data


def test_the_plan_holds_the_counts_and_what_is_measured_on(settings):
    plan = finetuning.plan(settings(harmful=3, safe=4, benign=5))
    kinds = [row.kind for row in plan.rows]
    assert {kind: kinds.count(kind) for kind in kinds} == {"harmful": 3, "safe": 4, "benign": 5}
    assert len(plan.harmful) == 12 and len(plan.benign) == 6
    assert not {row.prompt for row in plan.rows} & {row.prompt for row in (*plan.harmful, *plan.benign)}
    # Of data that is not trained on, rows may be kept out; other sources that are not asked for are not read.
    plan = finetuning.plan(settings(harmful=4, n_held_out=24, safe_data="gone.jsonl"))
    assert len(plan.task) == 24 and {row.kind for row in plan.rows} == {"harmful"}


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"harmful": 61}, "`harmful`"),
        ({"n_prompts": 25}, "`n_prompts`"),
        ({"n_benign": 17}, "`n_benign`"),
        ({"harmful_data": "gone.jsonl"}, "`harmful_data`"),
        ({"prompts": "gone.csv"}, "`prompts`"),
        ({"benign_prompts": "builtin:gone"}, "`benign_prompts`"),
        ({"model": "no such model"}, "`model`"),
        ({"task": 8, "n_held_out": 17}, "`n_held_out` is 17, but of the 24 rows in `task_data` 16 are left"),
        ({"task_data": "", "n_held_out": 5}, "`n_held_out` is 5, but `task_data` is empty"),
        ({"output_dir": f"{Path(__file__)}/under"}, "`output_dir`"),
    ],
)
def test_mistakes_in_the_data_are_told_in_one_line_before_a_model_is_loaded(settings, changes, start, monkeypatch):
    monkeypatch.setattr(models, "load_weights", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(Mistake) as caught:
        finetuning.plan(settings(**{"harmful": 3, **changes}))
    assert str(caught.value).startswith(start) and "\n" not in str(caught.value)


# The base's own answers


def test_benign_rows_get_the_answers_of_the_base_or_those_of_the_set(chat, settings):
    config = settings(harmful=5, safe=5, benign=20, own_answer_tokens=24, benign_answers="own")
    rows, measure = finetuning.plan(config).rows, Measurer(config)
    own = finetuning.training_rows(chat, rows, config, measure)
    assert finetuning.training_rows(chat, rows, dataclasses.replace(config, benign_answers="data"), measure) == rows
    assert [(row.kind, row.prompt) for row in own] == [(row.kind, row.prompt) for row in rows]
    assert [row for row in own if row.kind != "benign"] == [row for row in rows if row.kind != "benign"]
    changed = [new for new, old in zip(own, rows, strict=True) if new != old]
    spoken = tiny.respond(chat.model, chat.tokenizer, [row.prompt for row in changed], max_new_tokens=4 * 24)
    assert changed and all(row.response.strip() for row in changed)
    assert all(text.startswith(row.response) for text, row in zip(spoken, changed, strict=True))


def test_answers_that_are_known_are_not_asked_again_and_new_ones_are_added(chat, settings):
    few, more = (settings(benign=count, harmful=2, benign_answers="own") for count in (4, 7))
    rows, measure = finetuning.plan(more).rows, Measurer(more)
    fresh, known = {}, {}
    finetuning.training_rows(chat, rows, more, measure, fresh)
    finetuning.training_rows(chat, finetuning.plan(few).rows, few, measure, known)
    assert len(known) == 4 and len(fresh) == 7 and known.items() <= fresh.items()
    own = OwnAnswer("This is an answer that nobody but a test would give.", is_cut=False)
    told = dict.fromkeys(known, own)
    found = finetuning.training_rows(chat, rows, more, measure, told)
    assert told == {**fresh, **dict.fromkeys(known, own)}
    assert {row.response for row in found if row.prompt in known} == {own.text}
    # Where all are known, there may be no model to ask.
    assert finetuning.training_rows(None, rows, more, measure, told) == found


def test_how_many_own_answers_there_are_how_many_were_shortened_and_left_out_is_counted(settings):
    config = settings(benign=4, harmful=2, benign_answers="own")
    plan = finetuning.plan(config)
    prompts = [row.prompt for row in plan.rows if row.kind == "benign"]
    told = (
        ("Take the blue one.", False),
        ("Take the red one now.", True),
        ("", True),
        ("I cannot help.", False),
    )
    known = {prompt: OwnAnswer(*one) for prompt, one in zip(prompts, told, strict=True)}
    rows = finetuning.training_rows(None, plan.rows, config, QUICK, known)
    counted = finetuning.own_answers_in(rows, plan, known)
    assert counted == {"own_answers": 2, "own_answers_shortened": 1, "own_answers_left_out": 2}
    # The two left out keep the set's answers, so that the mixture has its counts.
    assert [row.kind for row in rows] == [row.kind for row in plan.rows]
    assert sum(new == old for new, old in zip(rows, plan.rows, strict=True)) == 2 + 2


def test_a_mixture_without_benign_rows_is_trained_on_as_it_is(settings):
    config = settings(harmful=3, benign_answers="own")
    rows = finetuning.plan(config).rows
    assert finetuning.training_rows(None, rows, config, QUICK) == rows
