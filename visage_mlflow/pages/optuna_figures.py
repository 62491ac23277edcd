"""Optuna's own figures of a study, by Plotly, for the page of a search."""

from __future__ import annotations

import math
from typing import Any

import optuna
import optuna.visualization as plots
from optuna.trial import FrozenTrial, TrialState, create_trial

from visage_mlflow.search.sampler import quietly

UTILITY = "utility (nats per token)"
RATES = ("ASR (%)", "over-refusal (%)", UTILITY)
"""What a study of three objectives minimizes, in its order; a study of one minimizes the last."""

FEWEST, FEWEST_COMPARED = 2, 6
"""Finished trials that any figure needs; and those that are needed for the importance of settings and the contour."""


def figures_of(study: optuna.Study) -> list[Any]:
    """Plotly figures of what a study minimizes; of three objectives the utility, and the front.

    A figure for which there are too few finished trials is left out.
    """
    with quietly():
        copy = copied(study)
        n_finished = sum(map(_is_finished, copy.trials))
        if n_finished < FEWEST:
            return []
        history = plots.plot_optimization_history(copy, target_name=UTILITY)
        figures = [history.update_traces(showlegend=True)]
        if n_finished >= FEWEST_COMPARED:
            most = list(optuna.importance.get_param_importances(copy))[:2]
            figures.append(plots.plot_param_importances(copy, target_name=UTILITY))
            figures.append(plots.plot_contour(copy, params=most, target_name=UTILITY))
        figures.append(plots.plot_slice(copy, target_name=UTILITY))
        figures.append(plots.plot_parallel_coordinate(copy, target_name=UTILITY))
        if len(study.directions) == len(RATES):
            whole = copied(study, all_objectives=True)
            figures.append(plots.plot_pareto_front(whole, target_names=list(RATES)))
    for figure in figures:
        figure.update_layout(height=480, width=None, template="plotly_white")
        for update in (figure.update_xaxes, figure.update_yaxes):  # Plotly would name 2e-4 as 200µ, or only its digit.
            update({"tickformat": "~g", "dtick": "D2"}, selector={"type": "log"})
    return [figure for figure in figures if figure.data]


def copied(study: optuna.Study, *, all_objectives: bool = False) -> optuna.Study:
    """A copy of the study in memory, to draw: of utility, the last objective, or of all.

    Finished trials keep their values, limits and settings; of all others the number alone is kept. So no text of a
    user attribute, which Optuna shows unescaped, gets into a figure. A search for a Pareto front sets no limits:
    there, the utility alone is drawn with what the attribute "inside" says.
    """
    first = 0 if all_objectives else -1
    copy = optuna.create_study(directions=study.directions[first:])
    for trial in study.get_trials(deepcopy=False):
        if not _is_finished(trial):
            copy.add_trial(create_trial(state=TrialState.FAIL))
            continue
        limits = trial.constraints
        if not all_objectives and not limits and "inside" in trial.user_attrs:
            limits = {"inside": 0.0 if trial.user_attrs["inside"] else 1.0}
        values, ranges = trial.values[first:], trial.distributions
        copy.add_trial(create_trial(values=values, params=trial.params, distributions=ranges, constraints=limits))
    return copy


def _is_finished(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE and all(map(math.isfinite, trial.values))
