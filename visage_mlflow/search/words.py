"""A search in words, for the terminal."""

from __future__ import annotations

import math

from visage_mlflow.results import Search
from visage_mlflow.results.finetuning import in_words

NOT_INSIDE = (
    "That is not inside: on few prompts it looked better than it is. Begin a new `study` with a larger `n_prompts`, "
    "or a lower `max_asr`."
)


def trial(result: Search, number: int) -> str:
    """One trial in a line: what it trained, and what came of it."""
    one = result.trial(number)
    params = "".join(f", {name} {value:.3g}" for name, value in one.params.items() if name not in one.counts)
    what = f"{one.state}: {one.reason}"
    if one.state == "complete":
        margin = "" if math.isnan(one.margin) else f", margin {'at least ' * one.margin_is_open}{one.margin:+.2f}"
        what = (
            f"ASR {one.asr:.1f} %, over-refusal {one.over_refusal:.1f} %, {result.utility_name} {one.utility:.3f}"
            f"{margin}: {'inside' if one.inside else 'not inside'}"
        )
    return f"trial {number} ({in_words(one.counts)} rows{params}): {what}"


def summary(result: Search) -> str:
    """The whole study: how many trials ended how, the best or the nearest, and its check."""
    counts = ", ".join(f"{result.count(state)} {state}" for state in ("complete", "pruned", "failed"))
    lines = [f"study {result.study}: {counts}; {sum(one.inside for one in result.trials)} inside"]
    if result.best is None:
        margin = "" if result.margin_min is None else f", margin at least {result.margin_min:g}"
        limits = f"ASR at most {result.max_asr:g} %, over-refusal at most {result.max_over_refusal:g} %{margin}"
        lines.append(f"No trial is inside: {limits}. Widen the range of `safe`, run more trials, or set other limits.")
    what, number = result.chosen
    if number is not None:
        lines.append(f"{what}: {trial(result, number)}")
    if result.check:
        unseen = f", on those of them that no trial was measured on {result.unseen_asr:.1f} %"
        lines.append(
            f"its checkpoint on all {result.check.setup.n_prompts} prompts: ASR {result.check.asr:.1f} %"
            f"{'' if math.isnan(result.unseen_asr) else unseen}, over-refusal {result.check.over_refusal:.1f} %"
        )
        if not result.check_inside:
            lines.append(NOT_INSIDE)
    return "\n".join(lines)
