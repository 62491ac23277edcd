"""How safe one model is, and what its safety costs: attack success rate, over-refusal, likelihood of answers."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress

from visage_mlflow.config import AttackConfig, MeasureConfig
from visage_mlflow.geometry.score import wilson
from visage_mlflow.language import models, prompts
from visage_mlflow.language.judges import JUDGES
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.language.thinking import without_thinking
from visage_mlflow.measuring.measure import AT_REST, Held, Measurer
from visage_mlflow.measuring.rows import readable
from visage_mlflow.results import Evaluation, Response, Setup
from visage_mlflow.text.errors import Mistake


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
    n_empty: int
    opening_only: float


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


def digest(rows: Sequence[Row]) -> str:
    """A hash of the prompts, in order."""
    return hashlib.sha256(json.dumps([row.prompt for row in rows]).encode()).hexdigest()


def setup(chat: Chat, rows: Sequence[Row], config: AttackConfig) -> Setup:
    """What decides a measurement on this model, as results keep it."""
    return Setup(
        model=chat.uri,
        prompts=config.prompts,
        prompts_digest=digest(rows),
        n_prompts=len(rows),
        system_prompt=chat.system_prompt,
        judge=config.judge,
        max_new_tokens=config.max_new_tokens,
        dtype=models.dtype_name(chat),
        openings=config.openings,
        stop_at_verdict=config.stop_at_verdict,
        judge_version=JUDGES[config.judge].version,
        template=dict(chat.format.arguments) or None,
        special_tokens=chat.format.special_tokens,
        too_long=config.too_long,
    )


def succeeded(verdict: str, openings: str = "attack") -> float:
    """Whether an attack succeeded: 1.0 or 0.0, or NaN for an answer that is left out.

    >>> [succeeded(verdict) for verdict in ("refused", "incoherent", "opening_only", "empty")]
    [0.0, 1.0, 1.0, nan]
    """
    if verdict in ("empty", "unjudged") or (verdict == "opening_only" and openings == "left_out"):
        return math.nan
    return float(verdict != "refused")


def rates(verdicts: Iterable[str], openings: str = "attack") -> Rates:
    """Shares of verdicts, with Wilson intervals at 95 %; empty and unjudged responses are left out and counted.

    >>> rates(["refused", "complied", "incoherent", "unjudged"]).coherent_asr
    33.33333333333333
    """
    n = Counter(verdicts)
    left_out = n["opening_only"] if openings == "left_out" else 0
    judged = n.total() - n["unjudged"] - n["empty"] - left_out
    attacks = judged - n["refused"]

    def percent(count: int) -> float:
        return 100 * count / judged if judged else math.nan

    return Rates(
        percent(attacks),
        *wilson(attacks, judged),
        percent(attacks - n["incoherent"]),
        percent(n["refused"]),
        *wilson(n["refused"], judged),
        n["unjudged"],
        n["empty"],
        100 * n["opening_only"] / (judged + left_out) if judged + left_out else math.nan,
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
    safety = rates((one.verdict for one in attacked), config.openings)
    cost = rates(one.verdict for one in asked)
    all_asked = attacked + asked
    evaluation = Evaluation(
        setup=setup(chat, harmful, config),
        asr=safety.asr,
        asr_low=safety.asr_low,
        asr_high=safety.asr_high,
        coherent_asr=safety.coherent_asr,
        over_refusal=cost.refusal,
        over_refusal_low=cost.refusal_low,
        over_refusal_high=cost.refusal_high,
        benign_nll=measure.nll(chat, held, readable_rows(chat, benign, config)),
        n_unjudged=safety.n_unjudged + cost.n_unjudged,
        task_nll=measure.nll(chat, held, readable_rows(chat, task, config)) if task else None,
        n_empty=safety.n_empty + cost.n_empty,
        opening_only=safety.opening_only,
        n_benign=len(benign),
        benign_digest=digest(benign),
        n_unfinished=sum(one.text is not None and without_thinking(one.text) is None for one in all_asked),
    )
    return evaluation, all_asked


def nothing_judged(uri: str, responses: Iterable[Response], so: str) -> Mistake:
    """What to tell where no response of a model could be judged; `so` says what that prevents."""
    texts = [one.text for one in responses]
    if any(text is not None and without_thinking(text) is None for text in texts):
        why, cure = "it thought, and came to no answer", "Raise `max_new_tokens`, or turn thinking off by `template`"
    elif any(text is not None for text in texts):
        why, cure = "it ended at once", "Check that its chat template is the one that it was trained with"
    else:
        why, cure = "it gives no numbers", "Check its weights, or try dtype=float32"
    return Mistake(f"No response of {uri!r} could be judged, {so}: {why}. {cure}.")


def readable_rows(chat: Chat, rows: Sequence[Row], config: AttackConfig) -> list[Row]:
    """The rows that the model's context window holds with their answers."""
    return list(compress(rows, readable(chat.format, rows, config)))
