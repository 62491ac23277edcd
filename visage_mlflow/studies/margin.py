"""How far the edge of the basin is along one direction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from visage_mlflow.config import AttackConfig
from visage_mlflow.geometry.crossing import first_crossing, looks
from visage_mlflow.geometry.directions import Direction
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.measuring.measure import Held, Measurer
from visage_mlflow.results import Edge
from visage_mlflow.studies.evaluation import rates
from visage_mlflow.studies.precision import Moves, taking
from visage_mlflow.studies.spans import relative_norm
from visage_mlflow.text.errors import Mistake


def find_edge(
    chat: Chat,
    direction: Direction,
    rows: Sequence[Row],
    attack: AttackConfig,
    measure: Measurer,
    *,
    up_to: float,
    known: Mapping[float, float],
) -> Edge:
    """Where the ASR first crosses 50 % from the model along a direction; see `geometry.crossing`.

    Args:
        chat: The model; it is left as it was.
        direction: What a step of 1 is.
        rows: The prompts.
        attack: How to ask and judge.
        measure: What it is measured with.
        up_to: How far to look, in steps.
        known: ASR in percent by step, as far as it was measured already.

    Raises:
        Mistake: The model itself gave no response that could be judged.
    """

    def asr_at(step: float) -> float:
        if step in known:
            asr = known[step]
        else:
            responses = measure(chat, Held([direction], (step,)), rows, attack)
            asr = rates(response.verdict for response in responses).asr
        if step == 0 and math.isnan(asr):
            raise Mistake(
                f"No response of {chat.uri!r} could be judged, so its basin has no edge to look for. Check its "
                "weights, or try dtype=float32."
            )
        return asr

    with taking([chat], attack.dtype, [Moves([direction], [(step,) for step in looks(up_to)])], measure):
        crossing = first_crossing(asr_at, up_to)
    return Edge(
        step=crossing.step,
        distance=crossing.step * relative_norm(chat, direction),
        is_open=crossing.is_open,
        measured=crossing.measured,
    )
