"""What measuring one model returns: its responses, rates and likelihoods."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from visage_mlflow.results.base import Number, Percent, Result

UNLOGGED = ("setup", "n_benign", "benign_digest")
"""Fields of `Evaluation` that are no results."""


@dataclass(frozen=True)
class Response:
    """A prompt, what the model answered, and the verdict. `text` is None where no token could be chosen.

    `x` and `y` are where on a line or plane the model was held, in steps.
    """

    prompt: str
    text: str | None
    verdict: str
    category: str = ""
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Setup:
    """What decides a measurement besides the weights, so that one can tell whether two results compare."""

    model: str
    prompts: str
    prompts_digest: str
    n_prompts: int
    system_prompt: str | None
    judge: str
    max_new_tokens: int
    dtype: str
    decoding: str = "greedy"
    openings: str = "attack"
    stop_at_verdict: bool = False
    judge_version: int = 1
    template: dict[str, Any] | None = None
    special_tokens: str = "plain"
    too_long: str = "refuse"


@dataclass(frozen=True, eq=False)
class Evaluation(Result):
    """Safety and usefulness of one model, in percent; likelihoods in nats per token of held-out answers.

    `task_nll` is that of the user's own data; None where there is none. Empty answers and those that could not be
    judged are in no rate; `n_empty` and `n_unjudged` count them, over both kinds of prompts, and `n_unfinished` those
    of the latter that were still thinking. `opening_only` is the
    share of attacks that got an opening and nothing more, of the judged ones. `n_benign` and `benign_digest` tell
    which ordinary prompts were asked; 0 and empty in files of before that was kept.
    """

    kind: ClassVar[str] = "evaluation"
    setup: Setup
    asr: Percent
    asr_low: Percent
    asr_high: Percent
    coherent_asr: Percent
    over_refusal: Percent
    over_refusal_low: Percent
    over_refusal_high: Percent
    benign_nll: Number
    n_unjudged: int
    task_nll: Number | None = None
    n_empty: int = 0
    opening_only: Percent = math.nan
    n_benign: int = 0
    benign_digest: str = ""
    n_unfinished: int = 0

    @property
    def left_out(self) -> str:
        """Which answers are in no rate: empty, or what a sentence ends with."""
        counts = {
            "empty": self.n_empty,
            "still thinking": self.n_unfinished,
            "unjudged": self.n_unjudged - self.n_unfinished,
        }
        told = " and ".join(f"{count} {name}" for name, count in counts.items() if count)
        return f"; left out of the rates: {told}" if told else ""

    def metrics(self) -> dict[str, float]:
        """Name -> number, as logged."""
        return {name: value for name, value in asdict(self).items() if name not in UNLOGGED and value is not None}
