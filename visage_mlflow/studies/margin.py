"""How far the edge of the basin is along one direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from visage_mlflow.config import AttackConfig
from visage_mlflow.geometry.crossing import first_crossing
from visage_mlflow.geometry.directions import Direction
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.measuring import measure
from visage_mlflow.measuring.measure import Held
from visage_mlflow.results import Edge
from visage_mlflow.studies.evaluation import attack, rates
from visage_mlflow.studies.spans import relative_norm


def find_edge(
    chat: Chat,
    direction: Direction,
    rows: Sequence[Row],
    config: AttackConfig,
    *,
    up_to: float,
    known: dict[float, float],
    check: Callable[[], None] = lambda: None,
) -> Edge:
    """Where the ASR first crosses 50 % from the model along a direction; see `geometry.crossing`.

    Args:
        chat: The model; it is left as it was.
        direction: What a step of 1 is.
        rows: The prompts.
        config: How to ask and judge.
        up_to: How far to look, in steps.
        known: ASR by step, as far as it was measured already; not changed.
        check: Called every few tokens; raises to give up.
    """

    def asr_at(step: float) -> float:
        if step in known:
            return known[step]
        answered = measure.responses(
            chat, Held([direction], (step,)), rows, config, (step,), lambda: attack(chat, rows, config, (step,), check)
        )
        return rates([response.verdict for response in answered]).asr

    crossing = first_crossing(asr_at, up_to)
    return Edge(
        step=crossing.step,
        distance=crossing.step * relative_norm(chat, direction),
        is_open=crossing.is_open,
        measured=crossing.measured,
    )
