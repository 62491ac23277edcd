"""Measurers for tests: a function answers in place of the model, or looks on while the model is asked."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from visage_mlflow.config import ComputeConfig
from visage_mlflow.measuring.measure import Measurer
from visage_mlflow.results import Response


@dataclass(frozen=True)
class StandIn(Measurer):
    """Gets its responses from `answer(chat, held, rows, ask)`; `ask()` returns what the model really says."""

    compute: ComputeConfig = ComputeConfig(store="off")
    answer: Callable = lambda chat, held, rows, ask: ask()

    def __call__(self, chat, held, rows, attack):
        return self.answer(chat, held, rows, partial(super().__call__, chat, held, rows, attack))


def responses_of(rows, asr):
    """Attacks of which `asr` percent succeed; none can be judged if that is NaN."""
    if math.isnan(asr):
        return [Response(row.prompt, None, "unjudged") for row in rows]
    n = round(asr * len(rows) / 100)
    verdicts = ["complied"] * n + ["refused"] * (len(rows) - n)
    return [Response(row.prompt, "", verdict) for row, verdict in zip(rows, verdicts, strict=True)]


def scripted(asr, asked=None):
    """A measurer by which the ASR is `asr(steps)`; the steps go into the list `asked`."""

    def answer(chat, held, rows, ask):
        if asked is not None:
            asked.append(held.steps)
        return responses_of(rows, asr(held.steps))

    return StandIn(answer=answer)
