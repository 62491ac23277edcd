"""A search over mixtures becomes a page to explore: its trials in a table, and Optuna's own figures."""

from __future__ import annotations

import html
import math

import optuna

from visage_mlflow.figures.search import mixture
from visage_mlflow.figures.style import clean, number, short
from visage_mlflow.pages.optuna_figures import figures_of
from visage_mlflow.pages.shell import page_of
from visage_mlflow.results import Search, Trial
from visage_mlflow.results.search import KINDS
from visage_mlflow.search import words


def page(result: Search, study: optuna.Study) -> str:
    """One file, which needs no network: texts and table from the result, Optuna's figures from its study."""
    inside = sum(trial.inside for trial in result.trials)
    title = f"{short(result.model)}, study {result.study}: {inside} of {len(result.trials)} trials inside"
    return page_of(title, _about(result), figures_of(study), _table(result))


def _about(result: Search) -> list[str]:
    """What was searched, what came out; not yet escaped."""
    margin = "" if result.margin_min is None else f", a margin of {result.margin_min:g} or more"
    whose = result.utility_name.removesuffix("_nll")
    sought = "ASR, over-refusal and utility at once" if result.objective == "pareto" else "utility"
    paragraphs = [
        f"Model: {result.model}. Minimized: {sought}; utility is the negative log-likelihood of held-out {whose} "
        "answers in nats per token.",
        f"Inside are an ASR of at most {result.max_asr:g} % and an over-refusal of at most "
        f"{result.max_over_refusal:g} %, both by their intervals' upper ends{margin}. Rates are those of a trial's "
        f"last measured checkpoint; in brackets what they are at most with {100 * result.certainty:g} % certainty. "
        "The edge, where half of the attacks succeed, is another line. "
        "Below, Optuna calls the trials inside feasible; it shows the others in grey.",
        f"Searched: {', '.join(f'{name} {values}' for name, values in result.space.items())}.",
    ]
    if result.best is not None:
        paragraphs.append(f"Best: trial {result.best}, {mixture(result.trial(result.best))}.")
    elif result.nearest is not None:
        nearest = result.trial(result.nearest)
        none = "No trial is inside" if result.leading is None else "No check holds" if result.checks else "Not checked"
        paragraphs.append(f"{none}. Nearest to the limits: trial {nearest.number}, {mixture(nearest)}.")
    else:
        paragraphs.append("No trial is inside.")
    paragraphs += [f"{words.check(result, one)}." for one in result.checks]
    paragraphs += [said] if (said := words.ahead(result)) else []
    return paragraphs


def _table(result: Search) -> str:
    """The trials as markup, in order of number; the best one, or the nearest, is shaded."""
    if not result.trials:
        return ""
    kinds = [kind for kind in KINDS if any(trial.counts.get(kind) for trial in result.trials)]
    params = list(dict.fromkeys(name for trial in result.trials for name in trial.params if name not in KINDS))
    rates = ("ASR %", "over-refusal %", "nats per token", "margin", "inside", "check")
    heads = ("trial", "state", *kinds, *params, *rates, "remark")
    chosen = result.nearest if result.best is None else result.best
    rows = []
    for trial in result.trials:
        cells = [
            str(trial.number),
            trial.state,
            *(str(trial.counts.get(kind, 0)) for kind in kinds),
            *(f"{trial.params[name]:.3g}" if name in trial.params else "" for name in params),
            _rate(trial.asr, trial.asr_upper),
            _rate(trial.over_refusal, trial.over_refusal_upper),
            "" if math.isnan(trial.utility) else number(trial.utility, 3),
            "" if math.isnan(trial.margin) else trial.margin_in_words.replace("-", "−"),
            "yes" if trial.inside else "no",
            _checked(result, trial),
        ]
        marked = "".join(f"<td>{html.escape(clean(cell))}</td>" for cell in cells)
        look = ' class="chosen"' if trial.number == chosen else ""
        rows.append(
            f'<tr{look}>{marked}<td class="text">{html.escape(clean(trial.reason or trial.margin_remark))}</td></tr>'
        )
    head = "".join(f"<th>{html.escape(clean(name))}</th>" for name in heads)
    return f'<div class="wide"><table><tr>{head}</tr>\n{chr(10).join(rows)}</table></div>'


def _checked(result: Search, trial: Trial) -> str:
    check = result.check_of(trial.number)
    return "" if check is None else "holds" if check.holds else "does not hold"


def _rate(rate: float, upper: float) -> str:
    return "" if math.isnan(rate) else f"{rate:.1f} (≤ {upper:.1f})"
