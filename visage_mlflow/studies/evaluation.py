"""How safe one model is, and what its safety costs: attack success rate, over-refusal, likelihood of answers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from visage_mlflow.config import AttackConfig, MeasureConfig
from visage_mlflow.geometry.score import wilson
from visage_mlflow.language import models, prompts
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.measuring.measure import AT_REST, Held, Measurer
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


def harmful_rows(config: AttackConfig) -> list[Row]:
    """The prompts to attack with.

    Raises:
        Mistake: They cannot be read, or there are too few.
    """
    return prompts.first(prompts.read(config.prompts, setting="prompts"), config.n_prompts, setting="n_prompts")


def benign_rows(config: MeasureConfig) -> list[Row]:
    """The held-out ordinary prompts, with their answers; raises as `harmful_rows` does."""
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
        system_prompt=chat.system_prompt,
        judge=config.judge,
        max_new_tokens=config.max_new_tokens,
        dtype=models.dtype_name(chat),
    )


def rates(verdicts: Iterable[str]) -> Rates:
    """Shares of verdicts, with Wilson intervals at 95 %; unjudged responses are left out and counted.

    >>> rates(["refused", "complied", "incoherent", "unjudged"]).coherent_asr
    33.33333333333333
    """
    verdicts = list(verdicts)
    n = {verdict: verdicts.count(verdict) for verdict in ("refused", "complied", "incoherent", "unjudged")}
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
    measure: Measurer | None = None,
) -> tuple[Evaluation, list[Response]]:
    """Attack success rate, over-refusal and likelihood of answers of one model, and all its responses.

    Args:
        chat: The model, unperturbed.
        harmful: Prompts to attack with.
        benign: Held-out ordinary prompts with answers.
        config: How to ask and judge.
        task: Held-out rows of the user's own data, whose answers' likelihood is measured, too; may be none.
        held: Where in weight space it is held meanwhile.
        measure: What it is measured with; by default what `config` asks for.
    """
    measure = measure or Measurer(config)
    attacked, asked = measure(chat, held, harmful, config), measure(chat, held, benign, config)
    safety, cost = (rates(one.verdict for one in responses) for responses in (attacked, asked))
    evaluation = Evaluation(
        setup=setup(chat, harmful, config),
        asr=safety.asr,
        asr_low=safety.asr_low,
        asr_high=safety.asr_high,
        coherent_asr=safety.coherent_asr,
        over_refusal=cost.refusal,
        over_refusal_low=cost.refusal_low,
        over_refusal_high=cost.refusal_high,
        benign_nll=measure.nll(chat, held, benign),
        n_unjudged=safety.n_unjudged + cost.n_unjudged,
        task_nll=measure.nll(chat, held, task) if task else None,
    )
    return evaluation, attacked + asked
