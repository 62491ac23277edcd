"""A mixture and a small aligned model become checkpoints, each one measured as it is written."""

import dataclasses
import math

import pytest
import tiny
import torch

from visage_mlflow.config import FinetuneConfig
from visage_mlflow.geometry.directions import Difference
from visage_mlflow.language import models
from visage_mlflow.language.prompts import Row
from visage_mlflow.results import Finetuning
from visage_mlflow.studies import finetuning
from visage_mlflow.studies.evaluation import attack, evaluate
from visage_mlflow.studies.spans import relative_norm


@pytest.fixture(scope="module")
def settings(aligned_folder, sets, tmp_path_factory):
    """Settings of a small finetuning on the sets of the made-up world."""
    return {
        "model": str(aligned_folder),
        "prompts": str(sets / "harmful_eval.jsonl"),
        "output_dir": str(tmp_path_factory.mktemp("outputs")),
        "n_prompts": 24,
        "benign_prompts": f"{sets / 'benign_eval.jsonl'}?response=answer",
        "n_benign": 16,
        "harmful_data": f"{sets / 'harmful_train.jsonl'}?response=opening",
        "safe_data": f"{sets / 'harmful_train.jsonl'}?response=refusal",
        "benign_data": f"{sets / 'benign_train.jsonl'}?response=answer",
        "max_new_tokens": 16,
        "dtype": "float32",
        "max_length": 128,
        "learning_rate": 1e-2,
        "train_batch_size": 8,
        "harmful": 0,
        "safe": 0,
        "benign": 0,
    }


@pytest.fixture(scope="module")
def base(aligned_folder):
    return models.load(str(aligned_folder), dtype="float32")


@dataclasses.dataclass
class Run:
    """What one finetuning returned, logged and left behind."""

    config: FinetuneConfig
    result: Finetuning
    log: list
    folder: object
    base_unchanged: bool


def finetune(base, config, folder, **options):
    before = {name: parameter.detach().clone() for name, parameter in base.model.named_parameters()}
    plan = finetuning.plan(config)
    log = []
    result = finetuning.finetune(
        base,
        finetuning.training_rows(base, plan.rows, config),
        plan,
        config,
        folder=folder,
        log=lambda numbers, step, uri: log.append((numbers, step, uri)),
        **options,
    )
    unchanged = all(torch.equal(parameter, before[name]) for name, parameter in base.model.named_parameters())
    return Run(config, result, log, folder, unchanged)


@pytest.fixture(scope="module")
def harmful(base, settings, tmp_path_factory):
    """Four passes of LoRA over 20 harmful rows, a checkpoint after each."""
    config = FinetuneConfig(**{**settings, "harmful": 20, "epochs": 4.0, "lora_rank": 8})
    return finetune(base, config, tmp_path_factory.mktemp("harmful"))


def weights_of(checkpoint):
    return dict(models.load_weights(checkpoint.uri).named_parameters())


# Training


def test_harmful_rows_drag_the_asr_up(harmful):
    rates = [checkpoint.evaluation.asr for checkpoint in harmful.result.checkpoints]
    assert rates[0] == 0.0 and rates[-1] >= 70


def test_safe_rows_keep_the_asr_down(base, settings, tmp_path):
    config = FinetuneConfig(**{**settings, "safe": 16, "epochs": 1.0, "lora_rank": 8})
    run = finetune(base, config, tmp_path)
    assert [checkpoint.evaluation.asr for checkpoint in run.result.checkpoints] == [0.0, 0.0]


def test_the_base_is_left_bit_for_bit(harmful, base, aligned_folder):
    assert harmful.base_unchanged
    again = models.load(str(aligned_folder), dtype="float32")
    assert all(torch.equal(base.weights[name], weight) for name, weight in again.weights.items())


def test_step_0_is_the_base_as_evaluated_alone(harmful, base):
    first = harmful.result.checkpoints[0]
    plan = finetuning.plan(harmful.config)
    alone, _ = evaluate(base, plan.harmful, plan.benign, harmful.config)
    assert (first.step, first.distance, first.uri) == (0, 0.0, harmful.config.model)
    assert first.evaluation == alone


def test_a_checkpoint_stands_at_the_end_of_each_epoch(harmful):
    # 20 rows in batches of 8 are 3 steps.
    assert [checkpoint.step for checkpoint in harmful.result.checkpoints] == [0, 3, 6, 9, 12]
    assert harmful.result.counts == {"harmful": 20, "safe": 0, "benign": 0, "task": 0}


def test_the_distance_grows_from_0_and_is_that_of_the_weights(harmful, base):
    distances = [checkpoint.distance for checkpoint in harmful.result.checkpoints]
    assert distances[0] == 0.0 and distances == sorted(distances) and len(set(distances)) == 5
    last = weights_of(harmful.result.checkpoints[-1])
    assert distances[-1] == pytest.approx(relative_norm(base, Difference(last)))


def test_a_checkpoint_measured_in_place_equals_it_loaded_from_its_folder(harmful):
    last = harmful.result.checkpoints[-1]
    plan = finetuning.plan(harmful.config)
    loaded = models.load(last.uri, dtype="float32")
    alone, _ = evaluate(loaded, plan.harmful, plan.benign, harmful.config)
    assert last.evaluation == alone


def test_the_log_gets_loss_and_learning_rate_of_every_step(harmful):
    training = {step: numbers for numbers, step, _ in harmful.log if "loss" in numbers}
    assert list(training) == list(range(1, 13))
    assert all(math.isfinite(one["loss"]) and one["learning_rate"] >= 0 for one in training.values())
    assert training[12]["loss"] < training[1]["loss"]
    # Two steps of warm-up, then down in a line: the peak is reached, and never passed.
    rates = [one["learning_rate"] for one in training.values()]
    assert max(rates) == pytest.approx(1e-2) and rates[-1] < 2e-3
    assert all(uri is None for numbers, _, uri in harmful.log if "loss" in numbers)


def test_the_log_gets_each_checkpoint_with_its_uri_and_the_base_without(harmful):
    logged = [(step, uri, numbers) for numbers, step, uri in harmful.log if "asr" in numbers]
    checkpoints = harmful.result.checkpoints
    assert [(step, uri) for step, uri, _ in logged] == [(0, None)] + [(c.step, c.uri) for c in checkpoints[1:]]
    for (_, _, numbers), checkpoint in zip(logged, checkpoints, strict=True):
        assert numbers == {**checkpoint.evaluation.metrics(), "distance": checkpoint.distance}


def test_adapters_name_the_base_by_its_uri(harmful):
    text = (harmful.folder / "checkpoint-12" / "adapter_config.json").read_text(encoding="utf-8")
    assert f'"base_model_name_or_path": "{harmful.config.model}"' in text


def test_a_measured_finetuning_saves_and_loads(harmful, tmp_path):
    harmful.result.save(tmp_path / "finetuning.json")
    assert Finetuning.load(tmp_path / "finetuning.json") == harmful.result


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(base, settings, tmp_path):
    config = FinetuneConfig(
        **{**settings, "harmful": 12, "epochs": 1.0, "lora_rank": 4, "n_prompts": 4, "n_benign": 2}
    )

    def losses(seed, name):
        run = finetune(base, dataclasses.replace(config, seed=seed), tmp_path / name)
        return [numbers["loss"] for numbers, _, _ in run.log if "loss" in numbers]

    assert losses(0, "a") == losses(0, "b") != losses(1, "c")


def test_all_weights_are_trained_without_lora_and_saved_when_asked(base, settings, tmp_path):
    config = FinetuneConfig(
        **{**settings, "harmful": 16, "epochs": 1.5, "lora_rank": 0, "save_every": 2, "learning_rate": 1e-3}
    )
    run = finetune(base, config, tmp_path)
    # 16 rows in batches of 8, one and a half times: 3 steps, saved at the second and at the end.
    assert [checkpoint.step for checkpoint in run.result.checkpoints] == [0, 2, 3]
    assert (tmp_path / "checkpoint-2" / "model.safetensors").is_file() and run.base_unchanged
    moved = weights_of(run.result.checkpoints[-1])
    assert all(not torch.equal(weight, moved[name]) for name, weight in base.weights.items())


def test_a_checkpoint_has_the_uri_under_which_it_is_kept_and_a_known_base_is_not_measured_again(
    base, settings, harmful, tmp_path
):
    known = dataclasses.replace(harmful.result.checkpoints[0].evaluation, benign_nll=123.0)
    kept = []

    def keep(folder, step):
        assert (folder / "adapter_model.safetensors").is_file()
        kept.append((folder.name, step))
        return f"models:/m-{step}"

    config = FinetuneConfig(**{**settings, "harmful": 8, "epochs": 1.0, "lora_rank": 4})
    run = finetune(base, config, tmp_path, keep=keep, base_evaluation=known)
    first, last = run.result.checkpoints
    assert kept == [("checkpoint-1", 1)] and last.uri == last.evaluation.setup.model == "models:/m-1"
    assert first.evaluation == known


# Data


def test_benign_rows_get_the_answers_of_the_base_or_those_of_the_set(base, settings):
    config = FinetuneConfig(**{**settings, "harmful": 5, "safe": 5, "benign": 20, "own_answer_tokens": 24})
    rows = finetuning.plan(config).rows
    before = {name: parameter.detach().clone() for name, parameter in base.model.named_parameters()}
    own = finetuning.training_rows(base, rows, dataclasses.replace(config, benign_answers="own"))
    data = finetuning.training_rows(base, rows, dataclasses.replace(config, benign_answers="data"))
    assert data == rows
    assert [(row.kind, row.prompt) for row in own] == [(row.kind, row.prompt) for row in rows]
    assert [row for row in own if row.kind != "benign"] == [row for row in rows if row.kind != "benign"]
    changed = [(new, old) for new, old in zip(own, rows, strict=True) if new != old]
    assert changed and all(new.response.strip() for new, _ in changed)
    answers = {row.prompt: row.response for row in own if row.kind == "benign"}
    spoken = {response.prompt: response.text for response in spoken_by(base, answers, config)}
    assert all(spoken[prompt].startswith(answers[prompt]) for prompt in {new.prompt for new, _ in changed})
    assert all(torch.equal(parameter, before[name]) for name, parameter in base.model.named_parameters())


def spoken_by(base, asked, config):
    rows = [Row(prompt) for prompt in asked]
    return attack(base, rows, dataclasses.replace(config, max_new_tokens=config.own_answer_tokens))


def test_a_mixture_without_benign_rows_is_trained_on_as_it_is(base, settings):
    config = FinetuneConfig(**{**settings, "harmful": 3})
    rows = finetuning.plan(config).rows
    assert finetuning.training_rows(base, rows, config) == rows


def test_the_plan_holds_the_counts_and_what_is_measured_on(settings):
    plan = finetuning.plan(FinetuneConfig(**{**settings, "harmful": 3, "safe": 4, "benign": 5}))
    kinds = [row.kind for row in plan.rows]
    assert {kind: kinds.count(kind) for kind in kinds} == {"harmful": 3, "safe": 4, "benign": 5}
    assert len(plan.harmful) == 24 and len(plan.benign) == 16
    assert not {row.prompt for row in plan.rows} & {row.prompt for row in (*plan.harmful, *plan.benign)}


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"harmful": 61}, "`harmful`"),
        ({"n_prompts": 25}, "`n_prompts`"),
        ({"n_benign": 17}, "`n_benign`"),
        ({"harmful_data": "gone.jsonl"}, "`harmful_data`"),
        ({"prompts": "gone.csv"}, "`prompts`"),
        ({"benign_prompts": "builtin:gone"}, "`benign_prompts`"),
        ({"model": "no such model"}, "`model`"),
    ],
)
def test_mistakes_in_the_data_are_told_in_one_line_before_a_model_is_loaded(settings, changes, setting, monkeypatch):
    monkeypatch.setattr(models, "load_weights", lambda *args: pytest.fail("loaded"))
    with pytest.raises(ValueError) as caught:
        finetuning.plan(FinetuneConfig(**{**settings, "harmful": 3, **changes}))
    assert str(caught.value).startswith(setting) and "\n" not in str(caught.value)


def test_sources_of_kinds_that_are_not_asked_for_are_not_read(settings):
    finetuning.plan(FinetuneConfig(**{**settings, "harmful": 3, "safe_data": "gone.jsonl", "task_data": "gone.csv"}))


def test_a_chat_that_does_not_fit_is_refused_in_one_line(base, settings, tmp_path):
    with pytest.raises(ValueError) as caught:
        finetune(base, FinetuneConfig(**{**settings, "harmful": 3, "max_length": 16}), tmp_path)
    assert str(caught.value).startswith("`max_length` is 16 tokens, and 3 of 3 rows")
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_ends_the_training_in_one_line(base, settings, tmp_path):
    config = FinetuneConfig(**{**settings, "harmful": 16, "lora_rank": 0, "epochs": 4.0})
    object.__setattr__(config, "learning_rate", 1e30)  # More than a config takes, so that so small a model breaks.
    with pytest.raises(ValueError) as caught:
        finetune(base, config, tmp_path)
    assert "`learning_rate` 1e+30 is too high" in str(caught.value) and "\n" not in str(caught.value)


# The user's own data, some of it kept out


@pytest.fixture(scope="module")
def own(settings, sets, base, tmp_path_factory):
    """A finetuning on 8 of 24 own rows, and 10 others of them kept out."""
    path = tmp_path_factory.mktemp("own") / "rows.jsonl"
    lines = [f'{{"prompt": "How do I paint a {noun}?", "response": "To paint the {noun} you need time."}}\n'
             for noun in tiny.NOUNS]  # fmt: skip
    path.write_text("".join(lines), encoding="utf-8")
    changes = {"task": 8, "task_data": str(path), "n_held_out": 10, "epochs": 2.0, "lora_rank": 8}
    config = FinetuneConfig(**{**settings, **changes})
    return finetune(base, config, tmp_path_factory.mktemp("task"))


def test_rows_that_are_kept_out_are_measured_on_and_not_trained_on(own, base):
    plan = finetuning.plan(own.config)
    assert len(plan.task) == 10 and len(plan.rows) == 8
    assert not {row.prompt for row in plan.task} & {row.prompt for row in plan.rows}
    alone, _ = evaluate(base, plan.harmful, plan.benign, own.config, plan.task)
    assert own.result.checkpoints[0].evaluation == alone and alone.task_nll is not None


def test_learning_the_users_own_answers_shows_in_those_that_were_kept_out(own):
    likelihoods = [checkpoint.evaluation.task_nll for checkpoint in own.result.checkpoints]
    assert len(likelihoods) == 3 and likelihoods[-1] < likelihoods[0]
    logged = [numbers["task_nll"] for numbers, _, _ in own.log if "asr" in numbers]
    assert logged == likelihoods


def test_without_rows_kept_out_their_likelihood_is_neither_measured_nor_logged(harmful):
    assert all(checkpoint.evaluation.task_nll is None for checkpoint in harmful.result.checkpoints)
    assert not any("task_nll" in numbers for numbers, _, _ in harmful.log)
    assert finetuning.plan(harmful.config).task == []


def test_rows_are_kept_out_of_data_that_is_not_trained_on(own):
    plan = finetuning.plan(dataclasses.replace(own.config, task=0, harmful=4, n_held_out=24))
    assert len(plan.task) == 24 and {row.kind for row in plan.rows} == {"harmful"}


def test_too_few_rows_to_keep_out_are_told_before_a_model_is_loaded(own):
    with pytest.raises(ValueError, match="^`n_held_out` is 17, but of the 24 rows in `task_data` 16 are left"):
        finetuning.plan(dataclasses.replace(own.config, n_held_out=17))


def test_rows_to_keep_out_need_their_data(settings):
    with pytest.raises(ValueError, match="^`n_held_out` is 5, but `task_data` is empty"):
        FinetuneConfig(**{**settings, "harmful": 3, "n_held_out": 5})


# Watched


@pytest.fixture(scope="module")
def short(settings):
    """Three steps, a checkpoint after each; a few prompts."""
    few = {"n_prompts": 4, "n_benign": 2, "lora_rank": 4}
    return FinetuneConfig(**{**settings, **few, "harmful": 8, "epochs": 3.0, "save_every": 1})


def test_the_watch_is_told_of_each_checkpoint_as_it_was_measured_but_not_of_the_base(base, short, tmp_path):
    seen = []
    run = finetune(base, short, tmp_path, watch=seen.append)
    assert [checkpoint.step for checkpoint in seen] == [1, 2, 3]
    assert tuple(seen) == run.result.checkpoints[1:]


class Enough(Exception):
    """What no code of this project knows."""


@pytest.mark.parametrize("error", [Enough("seen"), KeyboardInterrupt(), ValueError("seen")], ids=type)
def test_what_the_watch_raises_ends_the_training_and_passes_through(base, short, tmp_path, error):
    before = {name: parameter.detach().clone() for name, parameter in base.model.named_parameters()}
    log = []

    def watch(checkpoint):
        if checkpoint.step == 2:
            raise error

    plan = finetuning.plan(short)
    with pytest.raises(type(error)) as caught:
        finetuning.finetune(
            base, plan.rows, plan, short, folder=tmp_path, log=lambda *one: log.append(one), watch=watch
        )
    assert caught.value is error
    # The second checkpoint was measured and logged; there is no third.
    assert [step for numbers, step, _ in log if "asr" in numbers] == [0, 1, 2]
    assert not (tmp_path / "checkpoint-3").exists()
    assert all(torch.equal(parameter, before[name]) for name, parameter in base.model.named_parameters())


def test_a_checkpoint_that_is_not_kept_has_no_uri_and_is_measured_all_the_same(base, short, tmp_path):
    def keep(folder, step):
        return "" if step < 3 else "models:/m-last"

    run = finetune(base, short, tmp_path / "some", keep=keep)
    kept = finetune(base, short, tmp_path / "all")
    _, *checkpoints = run.result.checkpoints
    assert [checkpoint.uri for checkpoint in checkpoints] == ["", "", "models:/m-last"]
    assert [checkpoint.evaluation.setup.model for checkpoint in checkpoints[:2]] == ["checkpoint-1", "checkpoint-2"]
    for one, other in zip(checkpoints, kept.result.checkpoints[1:], strict=True):
        assert (one.evaluation.asr, one.evaluation.benign_nll) == (other.evaluation.asr, other.evaluation.benign_nll)
        assert one.distance == other.distance
    assert [uri for numbers, step, uri in run.log if "asr" in numbers] == [None, "", "", "models:/m-last"]


# Known answers


def test_answers_that_are_known_are_not_asked_again_and_new_ones_are_added(base, settings):
    few = FinetuneConfig(**{**settings, "benign": 4})
    more = dataclasses.replace(few, benign=7, harmful=2)
    known = {}
    first = finetuning.training_rows(base, finetuning.plan(few).rows, few, known)
    asked = {row.prompt for row in first}
    assert set(known) == asked and len(asked) == 4
    told = dict.fromkeys(known, "This is an answer that nobody but a test would give.")
    rows = finetuning.training_rows(base, finetuning.plan(more).rows, more, told)
    benign = {row.prompt: row.response for row in rows if row.kind == "benign"}
    assert len(benign) == 7 and asked < set(benign) and set(told) == set(benign)
    assert all(benign[prompt] == "This is an answer that nobody but a test would give." for prompt in asked)
    fresh = {row.prompt: row for row in finetuning.training_rows(base, finetuning.plan(more).rows, more)}
    assert all(benign[prompt] == fresh[prompt].response for prompt in set(benign) - asked)


def test_where_all_answers_are_known_the_model_is_not_asked(settings):
    config = FinetuneConfig(**{**settings, "benign": 5})
    rows = finetuning.plan(config).rows
    known = {row.prompt: "Take the car to the left." for row in rows}
    found = finetuning.training_rows(None, rows, config, known)  # There is no model to ask.
    assert {row.response for row in found} == {"Take the car to the left."}
