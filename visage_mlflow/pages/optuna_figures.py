"""Optuna's own figures of a study, by Plotly, for the page of a search."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
import optuna.visualization as plots
from optuna.trial import FrozenTrial, TrialState, create_trial

from visage_mlflow.search.sampler import quietly

UTILITY = "utility (nats per token)"
RATES = ("ASR (%)", "over-refusal (%)", UTILITY)
"""What a study of three objectives minimizes, in its order; the last is the one of a study of one."""

FEWEST = {"history": 2, "importances": 6, "contour": 4, "slice": 2}
"""Finished trials that a figure needs: fewer say nothing, or what lies between them would be made up."""

TITLES = {
    "history": "Utility of the finished trials",
    "importances": "What decides the utility of the finished trials",
    "contour": "Utility between the finished trials (grey: outside the limits)",
    "slice": "Utility of the finished trials over each setting (grey: outside the limits)",
    "parallel": "The finished trials, a line each",
    "front": "ASR, over-refusal and utility (red: no other trial beats it)",
}
TRACES = {
    UTILITY: {"name": "inside the limits"},
    "Best Value": {"name": "best inside so far", "line": {"shape": "hv"}},
    "Infeasible Trial": {"name": "outside the limits"},
    "Feasible": {"name": "inside the limits"},
    "Infeasible": {"name": "outside the limits"},
}
"""Optuna's name of a trace -> what to change in it."""


def figures_of(study: optuna.Study) -> list[Any]:
    """Plotly figures of what a study minimizes; of three objectives the utility, and the front.

    A figure that there is too little to draw for is left out.
    """
    with _quiet():
        copy = copied(study)
        drawn = dict(_drawn(copy))
        if drawn and len(study.directions) == len(RATES):
            whole = copied(study, all_objectives=True)
            drawn["front"] = plots.plot_pareto_front(whole, target_names=list(RATES))
    for name, figure in drawn.items():
        figure.update_layout(
            title={"text": TITLES[name]}, height=480, width=None, template="plotly_white", margin={"t": 90}
        )
        for update in (figure.update_xaxes, figure.update_yaxes):  # Plotly would name 2e-4 as 200µ, or only its digit.
            update({"tickformat": "~g", "dtick": "D2"}, selector={"type": "log"})
        figure.for_each_trace(lambda trace: trace.update(TRACES.get(trace.name, {})))
    if "history" in drawn:
        drawn["history"].update_traces(showlegend=True)
    return list(drawn.values())


def copied(study: optuna.Study, *, all_objectives: bool = False) -> optuna.Study:
    """The study as it can be drawn: a copy in memory, of trials with the same numbers.

    Finished trials keep their values, limits and the settings that vary between them; of all others the number alone
    is kept. So no text of a user attribute, which Optuna shows unescaped, gets into a figure. A search for a Pareto
    front sets no limits: there, the utility alone is drawn with what the attribute "inside" says.

    Args:
        study: Of one objective, or of ASR, over-refusal and utility.
        all_objectives: Keep all values; else the last one, the utility.
    """
    trials = study.get_trials(deepcopy=False)
    vary = _varying([trial for trial in trials if _is_finished(trial)])
    first = 0 if all_objectives else -1
    copy = optuna.create_study(directions=study.directions[first:])
    for trial in trials:
        copy.add_trial(_stripped(trial, vary, first))
    return copy


def _drawn(study: optuna.Study) -> Iterator[tuple[str, Any]]:
    """Name and figure of what there is enough to draw for in a copied study.

    But for the history, that is a setting that varies between finished trials (for importances and contours two, and
    two different values), and `FEWEST` of these.
    """
    finished = [trial for trial in study.get_trials(deepcopy=False) if _is_finished(trial)]
    settings = _varying(finished)
    differ = len({trial.value for trial in finished}) > 1 and len(settings) > 1
    if len(finished) >= FEWEST["history"]:
        yield "history", plots.plot_optimization_history(study, target_name=UTILITY)
    pair = settings[:2]
    if len(finished) >= FEWEST["importances"] and differ:
        pair = list(optuna.importance.get_param_importances(study))[:2]
        yield "importances", plots.plot_param_importances(study, target_name=UTILITY)
    if len(finished) >= FEWEST["contour"] and differ:
        yield "contour", plots.plot_contour(study, params=pair, target_name=UTILITY)
    if len(finished) >= FEWEST["slice"] and settings:
        yield "slice", plots.plot_slice(study, target_name=UTILITY)
        yield "parallel", plots.plot_parallel_coordinate(study, target_name=UTILITY)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's log, and its warnings that a figure is experimental."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with quietly():
            yield
    finally:
        optuna.logging.set_verbosity(level)


def _is_finished(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE and all(map(math.isfinite, trial.values))


def _varying(trials: list[FrozenTrial]) -> list[str]:
    """Settings that all these trials have, with more than one value, in the order of the first trial."""
    names = trials[0].params if trials else {}
    values = {name: {trial.params.get(name) for trial in trials} for name in names}
    return [name for name in names if len(values[name]) > 1 and None not in values[name]]


def _stripped(trial: FrozenTrial, vary: list[str], first: int) -> FrozenTrial:
    if not _is_finished(trial):
        return create_trial(state=TrialState.FAIL)
    limits = trial.constraints
    if first and not limits and "inside" in trial.user_attrs:
        limits = {"inside": 0.0 if trial.user_attrs["inside"] else 1.0}
    return create_trial(
        values=trial.values[first:],
        params={name: trial.params[name] for name in vary},
        distributions={name: trial.distributions[name] for name in vary},
        constraints=limits,
    )
