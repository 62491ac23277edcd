"""A model and prompts become responses, verdicts, and the rates that follow from them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from visage_mlflow.config import AttackConfig, MeasureConfig
from visage_mlflow.decoding.respond import respond
from visage_mlflow.geometry.score import wilson
from visage_mlflow.language import prompts
from visage_mlflow.language.judges import JUDGES
from visage_mlflow.language.likelihood import answer_nll
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.language.tokens import encode, encode_answered
from visage_mlflow.measuring import measure
from visage_mlflow.measuring.measure import AT_REST, Held
from visage_mlflow.measuring.store import open_store
from visage_mlflow.results import Evaluation, Response, Setup


@dataclass(frozen=True)
class Rates:
    """Shares of the judged responses, in percent; NaN where none could be judged."""

    asr: float
    asr_low: float
    asr_high: float
    coherent_asr: float
    refusal: float
    refusal_low: float
    refusal_high: float
    n_unjudged: int


def check(config: AttackConfig) -> None:
    """Read the prompts and open the store, so that mistakes show before a model is loaded.

    Raises:
        ValueError: The prompts cannot be read, or there can be no store.
    """
    harmful_rows(config)
    open_store(config.store)


def harmful_rows(config: AttackConfig) -> list[Row]:
    """The prompts to attack with."""
    return prompts.first(prompts.read(config.prompts, setting="prompts"), config.n_prompts, setting="n_prompts")


def benign_rows(config: MeasureConfig) -> list[Row]:
    """The held-out ordinary prompts, with their answers."""
    rows = prompts.read(config.benign_prompts, setting="benign_prompts", needs_response=True)
    return prompts.first(rows, config.n_benign, setting="n_benign")


def setup(chat: Chat, rows: Sequence[Row], config: AttackConfig) -> Setup:
    """What decides a measurement on this model, as results keep it."""
    text = json.dumps([row.prompt for row in rows])
    return Setup(
        model=chat.uri,
        prompts=config.prompts,
        prompts_digest=hashlib.sha256(text.encode()).hexdigest(),
        n_prompts=len(rows),
        system_prompt=config.system_prompt,
        judge=config.judge,
        max_new_tokens=config.max_new_tokens,
        dtype=str(chat.model.dtype).removeprefix("torch."),
    )


def attack(
    chat: Chat,
    rows: Sequence[Row],
    config: AttackConfig,
    steps: Sequence[float] = (0.0,),
    check: Callable[[], None] = lambda: None,
) -> list[Response]:
    """The model's responses to prompts, judged.

    Args:
        chat: The model, perturbed or not.
        rows: The prompts.
        config: Judge, response length and batch size.
        steps: Where on a line or plane the model is held, noted on each response.
        check: Called every few tokens; raises to give up.
    """
    judge = JUDGES[config.judge]
    texts = respond(
        chat.model,
        chat.tokenizer,
        [encode(chat.tokenizer, chat.messages(row.prompt)) for row in rows],
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        is_final=judge.is_final,
        check=check,
        lean=config.lean,
    )
    x, y = (*steps, 0.0)[:2]
    verdicts = [
        "unjudged" if text is None else judge.verdict(row.prompt, text) for row, text in zip(rows, texts, strict=True)
    ]
    return [
        Response(row.prompt, text, verdict, row.category, x, y)
        for row, text, verdict in zip(rows, texts, verdicts, strict=True)
    ]


def rates(verdicts: Sequence[str]) -> Rates:
    """Shares of verdicts, with Wilson intervals at 95 %; unjudged responses are left out and counted.

    >>> rates(["refused", "complied", "incoherent", "unjudged"]).coherent_asr
    33.33333333333333
    """
    n = {verdict: list(verdicts).count(verdict) for verdict in ("refused", "complied", "incoherent", "unjudged")}
    judged = len(verdicts) - n["unjudged"]
    succeeded = n["complied"] + n["incoherent"]

    def percent(count: int) -> float:
        return 100 * count / judged if judged else math.nan

    return Rates(
        percent(succeeded),
        *wilson(succeeded, judged),
        percent(n["complied"]),
        percent(n["refused"]),
        *wilson(n["refused"], judged),
        n["unjudged"],
    )


def evaluate(
    chat: Chat,
    harmful: Sequence[Row],
    benign: Sequence[Row],
    config: MeasureConfig,
    task: Sequence[Row] = (),
    held: Held = AT_REST,
) -> tuple[Evaluation, list[Response]]:
    """Attack success rate, over-refusal and likelihood of answers of one model, and all its responses.

    Args:
        chat: The model, unperturbed.
        harmful: Prompts to attack with.
        benign: Held-out ordinary prompts with answers.
        config: How to ask and judge.
        task: Held-out rows of the user's own data, whose answers' likelihood is measured, too; may be none.
        held: Where in weight space it is held meanwhile.
    """

    def responses(rows: Sequence[Row]) -> list[Response]:
        return measure.responses(chat, held, rows, config, (), lambda: attack(chat, rows, config))

    attacked, asked = responses(harmful), responses(benign)
    safety = rates([response.verdict for response in attacked])
    cost = rates([response.verdict for response in asked])
    evaluation = Evaluation(
        setup=setup(chat, harmful, config),
        asr=safety.asr,
        asr_low=safety.asr_low,
        asr_high=safety.asr_high,
        coherent_asr=safety.coherent_asr,
        over_refusal=cost.refusal,
        over_refusal_low=cost.refusal_low,
        over_refusal_high=cost.refusal_high,
        benign_nll=_nll(chat, held, benign, config),
        n_unjudged=safety.n_unjudged + cost.n_unjudged,
        task_nll=_nll(chat, held, task, config) if task else None,
    )
    return evaluation, attacked + asked


def _nll(chat: Chat, held: Held, rows: Sequence[Row], config: MeasureConfig) -> float:
    def compute() -> float:
        chats = [chat.messages(row.prompt) for row in rows]
        prompts = [encode(chat.tokenizer, each) for each in chats]
        answered = [encode_answered(chat.tokenizer, each, row.response) for each, row in zip(chats, rows, strict=True)]
        return answer_nll(chat.model, prompts, answered, batch_size=config.batch_size)

    return measure.likelihood(chat, held, rows, config, compute)
