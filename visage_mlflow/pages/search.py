"""A search over mixtures becomes a page to explore: its trials in a table, and Optuna's own figures."""

from __future__ import annotations

import html
import math
from typing import Any

import optuna
import optuna.visualization

from visage_mlflow.figures import optuna as optuna_figures
from visage_mlflow.figures import optuna_looks
from visage_mlflow.figures.search import mixture
from visage_mlflow.figures.style import clean, number, short
from visage_mlflow.pages.shell import page_of
from visage_mlflow.results import Search, Trial
from visage_mlflow.results.search import KINDS
from visage_mlflow.search.words import NOT_INSIDE

TITLES = {
    "history": "Utility of the finished trials",
    "importances": "What decides the utility of the finished trials",
    "contour": "Utility between the finished trials (grey: outside the limits)",
    "slice": "Utility of the finished trials over each setting (grey: outside the limits)",
    "parallel": "The finished trials, a line each",
    "front": "ASR, over-refusal and utility (red: no other trial beats it)",
}
HEIGHTS = {"history": 420, "importances": 360, "contour": 520, "slice": 420, "parallel": 460, "front": 640}

NAMES = {
    optuna_figures.TARGET: {"name": "inside the limits"},
    "Best Value": {"name": "best inside so far", "line": {"shape": "hv"}},
    "Infeasible Trial": {"name": "outside the limits"},
    "Feasible": {"name": "inside the limits"},
    "Infeasible": {"name": "outside the limits"},
}


def page(result: Search, study: optuna.Study) -> str:
    """One file, which needs no network.

    Args:
        result: What is said of the study and of its trials.
        study: Of the same trials; Optuna's figures are drawn from a copy that holds numbers alone.
    """
    inside = sum(trial.inside for trial in result.trials)
    title = f"{short(result.model)}, study {result.study}: {inside} of {len(result.trials)} trials inside"
    return page_of(title, _about(result), _figures(study), _table(result))


def _about(result: Search) -> list[str]:
    """What was searched, what came out; not yet escaped."""
    margin = "" if result.margin_min is None else f", a margin of {result.margin_min:g} or more"
    whose = result.utility_name.removesuffix("_nll")
    sought = "ASR, over-refusal and utility at once" if result.objective == "pareto" else "utility"
    paragraphs = [
        f"Model: {result.model}. Minimized: {sought}; utility is the negative log-likelihood of held-out {whose} "
        "answers in nats per token.",
        f"Inside are an ASR of at most {result.max_asr:g} % and an over-refusal of at most "
        f"{result.max_over_refusal:g} %{margin}. Rates are those of a trial's last measured checkpoint.",
        f"Searched: {', '.join(f'{name} {values}' for name, values in result.space.items())}.",
    ]
    if result.best is not None:
        paragraphs.append(f"Best: trial {result.best}, {mixture(result.trial(result.best))}.")
    elif result.nearest is not None:
        nearest = result.trial(result.nearest)
        paragraphs.append(f"No trial is inside. Nearest to the limits: trial {nearest.number}, {mixture(nearest)}.")
    else:
        paragraphs.append("No trial is inside.")
    if result.check:
        rates = f"ASR {number(result.check.asr)} %, over-refusal {number(result.check.over_refusal)} %"
        paragraphs.append(f"Checked on {result.check.setup.n_prompts} prompts: {rates}.")
        if not math.isnan(result.unseen_asr):
            paragraphs.append(f"On those of them that no trial was measured on: ASR {number(result.unseen_asr)} %.")
        if not result.check_inside:
            paragraphs.append(NOT_INSIDE)
    return paragraphs


def _table(result: Search) -> str:
    """The trials as markup, in order of number; the best one, or the nearest, is shaded."""
    if not result.trials:
        return ""
    kinds = [kind for kind in KINDS if any(trial.counts.get(kind) for trial in result.trials)]
    params = list(dict.fromkeys(name for trial in result.trials for name in trial.params if name not in KINDS))
    rates = ("ASR %", "over-refusal %", "nats per token", "margin", "inside")
    heads = ("trial", "state", *kinds, *params, *rates, "reason")
    chosen = result.nearest if result.best is None else result.best
    rows = []
    for trial in result.trials:
        cells = [
            str(trial.number),
            trial.state,
            *(str(trial.counts.get(kind, 0)) for kind in kinds),
            *(f"{trial.params[name]:.3g}" if name in trial.params else "" for name in params),
            _rate(trial.asr, trial.asr_low, trial.asr_high),
            _rate(trial.over_refusal, trial.over_refusal_low, trial.over_refusal_high),
            "" if math.isnan(trial.utility) else number(trial.utility, 3),
            _margin(trial),
            "yes" if trial.inside else "no",
        ]
        marked = "".join(f"<td>{html.escape(clean(cell))}</td>" for cell in cells)
        look = ' class="chosen"' if trial.number == chosen else ""
        rows.append(f'<tr{look}>{marked}<td class="text">{html.escape(clean(trial.reason))}</td></tr>')
    head = "".join(f"<th>{html.escape(clean(name))}</th>" for name in heads)
    return f'<div class="wide"><table><tr>{head}</tr>\n{chr(10).join(rows)}</table></div>'


def _rate(rate: float, low: float, high: float) -> str:
    return "" if math.isnan(rate) else f"{rate:.1f} ({low:.1f}–{high:.1f})"


def _margin(trial: Trial) -> str:
    return "" if math.isnan(trial.margin) else f"{'> ' if trial.margin_is_open else ''}{number(trial.margin, 2)}"


def _figures(study: optuna.Study) -> list[Any]:
    """Optuna's, with the house's titles and heights."""
    drawn: dict[str, Any] = {}
    copy = optuna_figures.copied(study)
    with optuna_figures.quiet():
        drawn.update(optuna_figures.charts(copy, optuna.visualization))
        if "slice" in drawn:
            drawn["parallel"] = optuna.visualization.plot_parallel_coordinate(copy, target_name=optuna_figures.TARGET)
        if "history" in drawn and len(study.directions) == len(optuna_figures.RATES):
            whole = optuna_figures.copied(study, all_objectives=True)
            drawn["front"] = optuna.visualization.plot_pareto_front(whole, target_names=list(optuna_figures.RATES))
    for name, figure in drawn.items():
        figure.update_layout(
            title={"text": TITLES[name]}, height=HEIGHTS[name], width=None, template="plotly_white", margin={"t": 90}
        )
        for each_axis in (figure.for_each_xaxis, figure.for_each_yaxis):
            each_axis(lambda axis: _name_logarithms(axis, copy))
        figure.for_each_trace(lambda trace: trace.update(NAMES.get(trace.name, {})))
    if "history" in drawn:
        drawn["history"].update_traces(showlegend=True)
    return list(drawn.values())


def _name_logarithms(axis: Any, study: optuna.Study) -> None:
    """Plain numbers at the ticks: Plotly names the digits between powers of ten alone."""
    if axis.type == "log":
        trials = study.get_trials(deepcopy=False)
        values = [trial.params[axis.title.text] for trial in trials if axis.title.text in trial.params]
        ticks = optuna_looks.log_ticks(0.95 * min(values), 1.05 * max(values))
        axis.update(tickvals=ticks or values, tickangle=0)
        axis.update(ticktext=[f"{tick:g}" for tick in ticks or values])
