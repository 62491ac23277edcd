"""How far the edge of the basin is along one direction."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visage_mlflow.config import AttackConfig
from visage_mlflow.geometry.crossing import crossings, edge_interval, falls, first_crossing, looks
from visage_mlflow.geometry.directions import Direction
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.measuring.measure import Held, Measurer
from visage_mlflow.results import Edge, Response, Turn
from visage_mlflow.studies.evaluation import nothing_judged, rates, succeeded
from visage_mlflow.studies.precision import Moves, taking
from visage_mlflow.studies.spans import relative_norm

NOTHING: Mapping[float, Any] = {}


def find_edge(
    chat: Chat,
    direction: Direction,
    rows: Sequence[Row],
    attack: AttackConfig,
    measure: Measurer,
    *,
    up_to: float,
    answered: Mapping[float, Sequence[str]] = NOTHING,
    beyond: bool = False,
) -> Edge:
    """Where the ASR crosses 50 % from the model along a direction; see `geometry.crossing`.

    Args:
        chat: The model; it is left as it was.
        direction: What a step of 1 is.
        rows: The prompts.
        attack: How to ask and judge.
        measure: What it is measured with.
        up_to: How far to look, in steps.
        answered: Verdicts by step, as far as they were measured already.
        beyond: Whether to look past the first crossing, too.

    Raises:
        Mistake: The model itself gave no response that could be judged.
    """
    verdicts = {step: tuple(given) for step, given in answered.items()}
    responses: list[Response] = []

    def asr_at(step: float) -> float:
        nonlocal responses
        if step not in verdicts:
            responses = measure(chat, Held([direction], (step,)), rows, attack)
            verdicts[step] = tuple(response.verdict for response in responses)
        asr = rates(verdicts[step], attack.openings).asr
        if step == 0 and math.isnan(asr):
            raise nothing_judged(chat.uri, responses, "so its basin has no edge to look for")
        return asr

    with taking([chat], attack.dtype, [Moves([direction], [(step,) for step in looks(up_to)])], measure):
        crossing = first_crossing(asr_at, up_to, beyond)
    looked = [(step, asr) for step, asr in crossing.measured if not math.isnan(asr)]
    steps = [step for step, _ in looked]
    jailbroken = np.array([[succeeded(verdict, attack.openings) for verdict in verdicts[step]] for step in steps])
    low, high = edge_interval(steps, jailbroken)
    return Edge(
        step=crossing.step,
        distance=crossing.step * relative_norm(chat, direction),
        is_open=crossing.is_open,
        measured=crossing.measured,
        verdicts=tuple(verdicts[step] for step, _ in crossing.measured),
        low=low,
        high=steps[-1] if math.isinf(high) else high,
        high_is_open=math.isinf(high),
        turns=tuple(Turn(step, leads_out) for step, leads_out in crossings(*zip(*looked, strict=True))),
        falls=falls(jailbroken),
        resolution=max((right - left for left, right in itertools.pairwise(steps)), default=math.nan),
    )
