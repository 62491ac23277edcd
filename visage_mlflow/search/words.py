"""A search in words, for the terminal."""

from __future__ import annotations

import math

from visage_mlflow.results import Check, Search
from visage_mlflow.results.finetuning import in_words


def limits(result: Search) -> str:
    """What is asked of a mixture."""
    margin = "" if result.margin_min is None else f", margin at least {result.margin_min:g}"
    return (
        f"ASR at most {result.max_asr:g} % and over-refusal at most {result.max_over_refusal:g} % by their intervals' "
        f"upper ends{margin}"
    )


def check(result: Search, one: Check) -> str:
    """A check in a line: mean and spread of its trainings, their upper ends, and whether it holds."""
    if one.reason:
        return f"check of trial {one.trial}: does not hold, a retraining failed: {one.reason}"
    rates = ", ".join(
        f"{called} {one.mean(name):.1f} % (spread {one.spread(name):.1f}, at most {getattr(one, f'{name}_upper'):.1f})"
        for name, called in (("asr", "ASR"), ("over_refusal", "over-refusal"))
    )
    excess = {"ASR": one.asr_upper - result.max_asr, "over-refusal": one.over_refusal_upper - result.max_over_refusal}
    missed = " and ".join(f"{name} by {by:.1f}" for name, by in excess.items() if by > 0)
    verdict = "holds" if one.holds else f"does not hold, its upper end misses the limit of {missed}"
    return f"check of trial {one.trial}: {len(one.seeds)} retrainings on prompts that no trial saw: {rates}: {verdict}"


def about(result: Search, number: int) -> str:
    """One line for the head of the chosen mixture's recipe: whether its check held, and by how much it did not."""
    done = result.check_of(number)
    if done:
        return f"{check(result, done)}."
    one = result.trial(number)
    if one.inside:
        return f"Trial {number} of study {result.study}, not checked."
    return f"Not inside: trial {number} of study {result.study} misses the limits by {one.violation:.1f} in all."


def ahead(result: Search) -> str:
    """Which trial is to be checked, although there is a best one; "" where none is."""
    if result.best is None or result.leading == result.best or result.check_of(result.leading):
        return ""
    return (
        f"Trial {result.leading} has a lesser value than the best, but is not checked: raise `max_checks` to check it "
        "as well."
    )


def trial(result: Search, number: int) -> str:
    """One trial in a line: what it trained, and what came of it."""
    one = result.trial(number)
    params = "".join(f", {name} {value:.3g}" for name, value in one.params.items() if name not in one.counts)
    what = f"{one.state}: {one.reason}"
    if one.state == "complete":
        margin = "" if math.isnan(one.margin) else f", margin {one.margin_in_words}"
        remark = f". {one.margin_remark.removesuffix('.')}" if one.margin_remark else ""
        what = (
            f"ASR {one.asr:.1f} % (at most {one.asr_upper:.1f}), over-refusal {one.over_refusal:.1f} % "
            f"(at most {one.over_refusal_upper:.1f}), {result.utility_name} {one.utility:.3f}"
            f"{margin}: {'inside' if one.inside else 'not inside'}{remark}"
        )
    return f"trial {number} ({in_words(one.counts)} rows{params}): {what}"


def summary(result: Search) -> str:
    """The whole study: how many trials ended how, the checks, and the best or the nearest."""
    counts = ", ".join(f"{result.count(state)} {state}" for state in ("complete", "pruned", "failed"))
    lines = [f"study {result.study}: {counts}; {sum(one.inside for one in result.trials)} inside"]
    if result.leading is None:
        cure = "Widen the range of `safe`, run more trials, or set other limits."
        lines.append(f"No trial is inside: {limits(result)}. {cure}")
    lines += [check(result, one) for one in result.checks]
    if result.checks and result.best is None:
        lines.append("No check holds: raise `max_checks` or `n_trials`, or set other limits in a new `study`.")
    what, number = result.chosen
    if number is not None:
        lines.append(f"{what}: {trial(result, number)}")
    lines += [said] if (said := ahead(result)) else []
    return "\n".join(lines)
