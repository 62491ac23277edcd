"""Whether two results may be compared: what differs in how they were measured."""

from __future__ import annotations

from dataclasses import fields

from visage_mlflow.results.evaluation import Evaluation, Setup
from visage_mlflow.results.landscape import Axis, Landscape, Visage

NAMES = {
    "n_prompts": "number of prompts",
    "max_new_tokens": "longest answer in tokens",
    "system_prompt": "system prompt",
    "special_tokens": "special tokens in prompts",
    "template": "arguments of the chat template",
    "too_long": "prompts beyond the context window",
    "judge_version": "version of the judge",
}
"""Of fields of `Setup`, in words; the others go by their own names."""

UNTOLD = ("model", "prompts", "prompts_digest", "dtype")
"""Fields of `Setup` that are what is compared, are told together, or follow from the weights: a finetuned model may
need a finer dtype than its base."""


def comparable(a: Evaluation | Landscape | Visage, b: Evaluation | Landscape | Visage) -> list[str]:
    """What differs between how two results were measured, in plain words; empty if their numbers compare.

    VISAGE falls with the number of prompts, and depends on judge, length of answers and extent as on the model.
    Not told are the models, and which random directions were drawn.

    >>> comparable(one, the_same_with_16_prompts)  # doctest: +SKIP
    ['number of prompts: 80 and 16', 'other prompts']
    """
    found = measured_differently(a, b)
    if isinstance(a, Evaluation) or isinstance(b, Evaluation):
        return found
    one, other = _skipped(_landscapes(a)), _skipped(_landscapes(b))
    if len(one) == len(other) and one != other:
        found.append(f"points skipped: {sum(one)} and {sum(other)}, so mean depth does not compare")
    return found


def measured_differently(a: Evaluation | Landscape | Visage, b: Evaluation | Landscape | Visage) -> list[str]:
    """As `comparable`, but how many points were skipped does not matter, as it does not for VISAGE."""
    found = asked_differently(_setup(a), _setup(b))
    if isinstance(a, Evaluation) and isinstance(b, Evaluation):
        found += _ordinary(a, b)
    if isinstance(a, Evaluation) or isinstance(b, Evaluation):
        return found
    return found + _grids(_landscapes(a), _landscapes(b))


def asked_differently(first: Setup, second: Setup) -> list[str]:
    """What differs between how two models were asked and judged, in plain words."""
    found = []
    for name in (field.name for field in fields(Setup) if field.name not in UNTOLD):
        mine, other = getattr(first, name), getattr(second, name)
        if mine != other:
            shown = ["the template's" if value is None else str(value) for value in (mine, other)]
            found.append(f"{NAMES.get(name, name)}: {shown[0]} and {shown[1]}")
    if first.prompts_digest != second.prompts_digest:
        found.append("other prompts" if first.prompts == second.prompts else f"{first.prompts} and {second.prompts}")
    return found


def _setup(result: Evaluation | Landscape | Visage) -> Setup:
    return result.landscapes[0].setup if isinstance(result, Visage) else result.setup


def _landscapes(result: Landscape | Visage) -> tuple[Landscape, ...]:
    return result.landscapes if isinstance(result, Visage) else (result,)


def _ordinary(a: Evaluation, b: Evaluation) -> list[str]:
    """What differs between the ordinary prompts; nothing is known of results from before these were kept."""
    if not (a.n_benign and b.n_benign) or a.benign_digest == b.benign_digest:
        return []
    if a.n_benign != b.n_benign:
        return [f"number of ordinary prompts: {a.n_benign} and {b.n_benign}"]
    return ["other ordinary prompts"]


def _grids(a: tuple[Landscape, ...], b: tuple[Landscape, ...]) -> list[str]:
    found = [] if len(a) == len(b) else [f"number of directions: {len(a)} and {len(b)}"]
    if a[0].plane != b[0].plane:
        return [*found, f"plane: {a[0].plane} and {b[0].plane}"]
    for one, other in zip(a[0].axes, b[0].axes, strict=True):
        if one.steps != other.steps:
            found.append(f"grid: {_reach(one)} and {_reach(other)}")
        if one.norm != other.norm:
            found.append(f"norm of random directions: {one.norm} and {other.norm}")
        if one.to != other.to:
            found.append(f"towards another model: {one.to} and {other.to}")
    return found


def _skipped(landscapes: tuple[Landscape, ...]) -> list[int]:
    """How many points of each were skipped; sorted, since which direction it was makes no difference."""
    return sorted(sum(not point.verdicts for point in one.points) for one in landscapes)


def _reach(axis: Axis) -> str:
    return f"{len(axis.steps)} points from {axis.steps[0]:g} to {axis.steps[-1]:g}"
