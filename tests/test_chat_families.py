"""Chats of many families of models, on tiny random ones: one column of the table in docs/models.md after another."""

import warnings

import pytest
import torch
from chat_families import FAMILIES, WINDOW, model, save, tokenizer
from peft import LoraConfig, get_peft_model

from visage_mlflow.config import MeasureConfig
from visage_mlflow.geometry.directions import Difference, RandomDirection
from visage_mlflow.language import models
from visage_mlflow.language.chat_format import ChatFormat
from visage_mlflow.language.chat_template import TODAY
from visage_mlflow.language.folders import point_adapter_at
from visage_mlflow.language.likelihood import answer_nll
from visage_mlflow.language.prompts import Row
from visage_mlflow.measuring.measure import AT_REST, Held, Measurer
from visage_mlflow.text.errors import Mistake
from visage_mlflow.training import sft
from visage_mlflow.training.mixture import MixtureRow, to_tokens
from visage_mlflow.training.sft import Recipe

PROMPT, ANSWER = "How do I paint a car?", "Take a brush.\nThen wait."
ROWS = [Row(PROMPT, ANSWER), Row("Why is the sky blue?", "Light scatters.")]
ALL = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    """Each family's model, saved as it is published and loaded for measuring; made when first asked for."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = models.load(save(name, tmp_path_factory.mktemp(name)), dtype="float32")
        return made[name]

    return get


def asked(name, chat=None):
    """A chat as transformers itself writes it for inference, on the day that is always told."""
    chat = chat or [{"role": "user", "content": PROMPT}]
    return tokenizer(name).apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=False, date_string="26 Jul 2024"
    )


# Encode, window


@ALL
def test_the_model_reads_what_transformers_gives_it_for_inference(name, monkeypatch):
    import transformers.utils.chat_template_utils as utils

    class Frozen(utils.datetime if isinstance(utils.datetime, type) else utils.datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return TODAY

    monkeypatch.setattr(utils, "datetime", Frozen)
    form = ChatFormat(tokenizer(name))
    form.check(name)
    assert form.prompt(PROMPT) == asked(name)


@ALL
def test_the_window_is_that_of_the_configuration(name, chats):
    assert chats(name).format.window == WINDOW


@ALL
def test_special_tokens_in_texts_are_plain_and_lose_no_letter(name):
    form, family = ChatFormat(tokenizer(name)), FAMILIES[name]
    text = f"Say {family.end} and {family.tokens[0]} twice."
    end = form.tokenizer.convert_tokens_to_ids(family.end)
    assert form.prompt(text).count(end) == form.prompt("Say it twice.").count(end)
    assert text in form.tokenizer.decode(form.prompt(text))
    meant = ChatFormat(tokenizer(name), special_tokens="as_given").prompt(text)
    assert meant.count(end) == form.prompt(text).count(end) + text.count(family.end)


# End


@ALL
def test_the_end_of_a_turn_ends_answers_with_and_without_a_generation_config(name, chats, tmp_path):
    chat, family = chats(name), FAMILIES[name]
    ends = set(chat.tokenizer.convert_tokens_to_ids([*family.ends, family.end, family.eos]))
    assert set(chat.model.generation_config.eos_token_id) == ends
    folder = save(name, tmp_path)
    (tmp_path / "generation_config.json").unlink()
    alone = models.load(folder).model.generation_config.eos_token_id
    assert chat.tokenizer.convert_tokens_to_ids(family.end) in alone and set(alone) <= ends


# System


@ALL
def test_a_system_prompt_is_read_or_refused_at_once(name):
    form = ChatFormat(tokenizer(name), "Be brief.")
    if FAMILIES[name].has_system:
        form.check(name)
        assert "Be brief." in form.tokenizer.decode(form.prompt(PROMPT))
    else:
        with pytest.raises(Mistake, match="`system_prompt` is given, and the chat template of 'gemma2' takes none"):
            form.check(name)


# Thinking


@ALL
def test_thinking_that_the_template_writes_is_no_part_of_the_answer(name):
    form, family = ChatFormat(tokenizer(name)), FAMILIES[name]
    found = form.answered(PROMPT, ANSWER)
    assert (form.turn.opened, form.turn.before.strip()) == (family.opened, family.before.strip())
    assert form.tokenizer.decode(found.ids[found.n_prompt : found.n_given]) == family.before
    assert form.parted(family.opened + family.before + ANSWER)[1] == ANSWER


@ALL
def test_arguments_of_the_template_are_those_that_it_uses(name):
    known = ChatFormat(tokenizer(name)).takes
    assert set(FAMILIES[name].takes) <= known and not {"messages", "m", "message", "content", "role"} & known
    ChatFormat(tokenizer(name), arguments=dict.fromkeys(FAMILIES[name].takes, "low")).check(name)
    with pytest.raises(Mistake, match="`template` gives 'thinks'"):
        ChatFormat(tokenizer(name), arguments={"thinks": True}).check(name)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if "enable_thinking" in family.takes])
def test_thinking_can_be_left_out(name):
    form = ChatFormat(tokenizer(name), arguments={"enable_thinking": False})
    found = form.answered(PROMPT, ANSWER)
    assert form.tokenizer.decode(form.prompt(PROMPT)).rstrip().endswith("<think>\n\n</think>")
    assert found.n_given == found.n_prompt


# Likelihood


@ALL
def test_what_is_scored_is_the_answer_and_its_end_after_what_is_read(name, chats):
    """Against one row at a time, from the tokens that the whole text has where nothing is encoded apart."""
    chat, family, values = chats(name), FAMILIES[name], []
    for row in ROWS:
        found = chat.format.answered(row.prompt, row.response)
        assert found.ids[: found.n_prompt] == chat.format.prompt(row.prompt)
        scored = found.ids[found.n_given :]
        assert chat.tokenizer.decode(scored).split() == f"{row.response} {family.end}".split() or (
            chat.tokenizer.decode(scored).strip() == row.response + family.end
        )
        with torch.no_grad():
            log_p = chat.model(torch.tensor([found.ids])).logits[0].double().log_softmax(-1)
        values += [-float(log_p[found.n_given + i - 1, token]) for i, token in enumerate(scored)]
    nll = Measurer(MeasureConfig(store="off")).nll(chat, AT_REST, ROWS)
    assert nll == pytest.approx(sum(values) / len(values), rel=1e-4)


@ALL
def test_where_the_prompt_begins_the_answered_chat_its_own_tokens_are_scored(name):
    made = tokenizer(name)
    chat = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": ANSWER}]
    whole = made.apply_chat_template(chat, tokenize=True, return_dict=False)
    found = ChatFormat(made).answered(PROMPT, ANSWER)
    if whole[: found.n_prompt] == found.ids[: found.n_prompt]:
        assert whole[: len(found.ids)] == found.ids
    else:
        # Only the last one's prompt is no prefix; the others tell the date, of today.
        assert name in ("llama3.2", "gpt-oss", "granite", "smollm3", "r1-distill")


# Train


@ALL
def test_training_begins_at_the_likelihood_of_all_that_follows_the_prompt(name, chats, tmp_path):
    chat, losses = chats(name), []
    rows = [MixtureRow("benign", row.prompt, row.response) for row in ROWS]
    answered = [chat.format.answered(row.prompt, row.response) for row in rows]
    prompts, whole = [one.ids[: one.n_prompt] for one in answered], [one.ids for one in answered]
    recipe = Recipe(1e-3, 1.0, 4, 2, 0, WINDOW, torch.float32, 0)
    sft.finetune(
        model(name),
        chat.tokenizer,
        to_tokens(rows, chat.format),
        recipe,
        tmp_path,
        base_uri=chat.uri,
        on_log=lambda numbers, step: losses.append(numbers["loss"]) if "loss" in numbers else None,
        on_checkpoint=lambda checkpoint: None,
    )
    assert losses == [pytest.approx(answer_nll(chat.model, prompts, whole, batch_size=2), rel=1e-3)]


# Tied, landscape


@ALL
def test_tied_weights_are_there_once(name, chats):
    assert ("lm_head.weight" not in chats(name).weights) == FAMILIES[name].is_tied


@ALL
def test_points_of_a_landscape_are_measured_and_leave_no_trace(name, chats):
    """Held at a random place, and halfway to another model; batches of two give the answers of batches of one."""
    chat = chats(name)
    before = {key: weight.clone() for key, weight in chat.model.named_parameters()}
    end = {key: weight + 0.01 * weight.std() for key, weight in chat.weights.items()}
    for held in (Held([RandomDirection(seed=0)], (0.1,)), Held([Difference(end)], (0.5,))):
        said = []
        for size in (1, 2):
            config = MeasureConfig(store="off", max_new_tokens=6, judge="keyword", batch_size=size)
            said.append([one.text for one in Measurer(config)(chat, held, ROWS, config)])
        assert said[0] == said[1] and None not in said[0]
    assert all(torch.equal(weight, before[key]) for key, weight in chat.model.named_parameters())


# LoRA kinds

LORA = {"linear layers": "all-linear", "both ends": ["embed_tokens", "lm_head"]}


@ALL
@pytest.mark.parametrize("kind", LORA)
def test_a_merged_adapter_gives_the_logits_of_the_live_one(name, kind, chats, tmp_path):
    ids = torch.tensor([chats(name).format.prompt(PROMPT)])
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
        warnings.simplefilter("ignore")  # PEFT warns of tied weights, which are what is tested.
        torch.manual_seed(0)
        live = get_peft_model(model(name), LoraConfig(target_modules=LORA[kind], init_lora_weights=False))
        for parameter in live.parameters():
            parameter.mul_(0.3 if parameter.requires_grad else 1)  # Else the adapter is larger than the weights.
        live.save_pretrained(tmp_path)
    point_adapter_at(tmp_path, chats(name).uri)
    with torch.no_grad():
        expected, merged = live(ids).logits, models.load_weights(str(tmp_path)).eval()(ids).logits
        plain = chats(name).model(ids).logits
    assert (merged - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (plain - expected).abs().max() > 1e-2 * expected.abs().max()
