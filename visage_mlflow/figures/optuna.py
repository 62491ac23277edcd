"""Optuna's own figures of a study, by either of its drawing modules, and which of them there is enough to draw for."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import optuna
import optuna.visualization.matplotlib
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState, create_trial

from visage_mlflow.figures import optuna_looks

TARGET = "utility (nats per token)"
RATES = ("ASR (%)", "over-refusal (%)", TARGET)
"""What a study of three objectives minimizes, in its order; the last is the one of a study of one."""

FEWEST = {"history": 2, "importances": 6, "contour": 4, "slice": 2}
"""Finished trials that a figure needs: fewer say nothing, or what lies between them would be made up."""


def of_study(study: optuna.Study) -> dict[str, Figure]:
    """Optuna's figures of what a study minimizes: "history", "importances", "contour" and "slice".

    Of three objectives, the last. A figure that there is too little to draw for is left out: see `charts`.
    """
    figures = {}
    # Optuna draws by pyplot, which keeps figures, and changes its style for good.
    with quiet(), matplotlib.rc_context({"figure.constrained_layout.use": True, "figure.dpi": 150}):
        for name, drawn in charts(copied(study), optuna.visualization.matplotlib):
            panels: list[Any] = list(drawn.flat) if hasattr(drawn, "flat") else [drawn]
            figure: Figure = panels[0].figure
            pyplot.close(figure)
            FigureCanvasAgg(figure)
            figure.set(layout_engine="constrained", size_inches=(6.4, 4.4))
            optuna_looks.tidy(name, figure, panels)
            figures[name] = figure
    return figures


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's log, and its warnings that a figure is experimental."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


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
    with quiet():
        copy = optuna.create_study(directions=study.directions[first:])
        for trial in trials:
            copy.add_trial(_stripped(trial, vary, first))
    return copy


def charts(study: optuna.Study, module: Any) -> Iterator[tuple[str, Any]]:
    """Name of a figure, and what the module made of a copied study; those that cannot be drawn are left out.

    A history needs two finished trials, any other figure a setting that varies between them (of a contour: two),
    `FEWEST` finished trials, and importances and contours two different values.

    Args:
        study: From `copied`.
        module: `optuna.visualization` or `optuna.visualization.matplotlib`.
    """
    finished = [trial for trial in study.get_trials(deepcopy=False) if _is_finished(trial)]
    vary = _varying(finished)
    differ = len({trial.value for trial in finished}) > 1
    pair = vary[:2]
    named = {"target_name": TARGET}
    if len(finished) >= FEWEST["history"]:
        yield "history", module.plot_optimization_history(study, **named)
    if len(finished) >= FEWEST["importances"] and differ and len(vary) > 1:
        pair = list(optuna.importance.get_param_importances(study))[:2]
        yield "importances", module.plot_param_importances(study, **named)
    if len(finished) >= FEWEST["contour"] and differ and len(pair) == 2:
        yield "contour", module.plot_contour(study, params=pair, **named)
    if len(finished) >= FEWEST["slice"] and vary:
        yield "slice", module.plot_slice(study, **named)


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
