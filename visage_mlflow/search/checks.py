"""Whether the best mixture holds: trained anew with other seeds, and measured on prompts that no trial saw.

The best of many trials looks better than it is, as it was chosen for it. So its own measurements do not count here.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence

import optuna
from pydantic import TypeAdapter

from visage_mlflow.config.search import SearchConfig, utility_name
from visage_mlflow.language.prompts import Row
from visage_mlflow.results import Check, Evaluation, Trial
from visage_mlflow.search.limits import certainty_of_check, judged_in, pooled
from visage_mlflow.text.errors import Mistake, one_line
from visage_mlflow.training.sft import Diverged, Unmoved

CHECKED = "checked"
"""Noted on a study: the numbers of the trials whose check began, in order."""
UNKNOWN_UTILITY = "the likelihood of held-out answers could not be measured"

Retrain = Callable[[int, int], Evaluation]
"""Trains the mixture of the trial of a number anew with a seed, and measures it on what was kept back."""


def split(rows: Sequence[Row], seen: int, kept: int, seed: int, *, setting: str, kept_setting: str) -> list[list[Row]]:
    """The prompts that trials are measured on, and those that are kept back from them, drawn with the seed.

    A prompt that a set has twice counts once, so that none is on both sides.

    Raises:
        Mistake: There are too few.
    """
    different = list({row.prompt.strip().casefold(): row for row in reversed(rows)}.values())[::-1]
    if seen + kept > len(different):
        raise Mistake(
            f"`{setting}` {seen} and `{kept_setting}` {kept} are {seen + kept} prompts, but the set has "
            f"{len(different)} different ones. Lower one of them, or use a larger set."
        )
    random.Random(seed).shuffle(different)
    return [different[:seen], different[seen : seen + kept]]


def seeds_of(config: SearchConfig) -> tuple[int, ...]:
    """The seeds of each check's trainings: those after the study's own."""
    return tuple(config.seed + 1 + index for index in range(config.check_seeds))


def run(study: optuna.Study, config: SearchConfig, trials: Callable[[], Sequence[Trial]], retrain: Retrain) -> None:
    """Check trials inside, one after the other, as long as `next_trial` names one.

    Each training is noted on the study as it ends, so that the next call goes on after it.
    """
    while (number := next_trial(config, trials(), checks_of(study, config), begun(study))) is not None:
        if number not in begun(study):
            study.set_user_attr(CHECKED, [*begun(study), number])
        for seed in seeds_of(config):
            if _name(number, seed) not in study.user_attrs:
                try:
                    found = {"evaluation": json.loads(retrain(number, seed).to_json())}
                except (Diverged, Unmoved) as error:  # It would again: the mixture does not hold.
                    found = {"reason": one_line(error)}
                study.set_user_attr(_name(number, seed), found)


def next_trial(
    config: SearchConfig, trials: Sequence[Trial], checks: Sequence[Check], begun: Sequence[int]
) -> int | None:
    """The number of the trial to check next; None where there is none, or no check is left.

    That of the least value comes first, even where a study that went on found it after a check that holds. The
    mixtures of about the same value as one whose check failed are likely to fail, too, so the next one is in the
    middle of those of greater values: each failure leaves half of them.
    """
    done = {check.trial: check for check in checks}
    if unfinished := [number for number in begun if number not in done]:
        return unfinished[0]
    left = [trial.number for trial in candidates(trials)]
    if not left or len(begun) >= config.max_checks:
        return None
    if left[0] not in done:
        return left[0]
    if any(check.holds for check in checks):
        return None
    rest = left[1 + max(place for place, number in enumerate(left) if number in done) :]
    return rest[len(rest) // 2] if rest else None


def candidates(trials: Sequence[Trial]) -> list[Trial]:
    """The trials inside, in the order in which they are checked."""
    return sorted((trial for trial in trials if trial.inside), key=lambda trial: (trial.value, trial.number))


def begun(study: optuna.Study) -> list[int]:
    """Numbers of the trials whose check began, in order."""
    return list(study.user_attrs.get(CHECKED, []))


def checks_of(study: optuna.Study, config: SearchConfig) -> tuple[Check, ...]:
    """The checks that are complete, in order."""
    notes = study.user_attrs
    seeds = seeds_of(config)
    return tuple(
        decided(config, number, turn, [notes[_name(number, seed)] for seed in seeds])
        for turn, number in enumerate(begun(study))
        if all(_name(number, seed) in notes for seed in seeds)
    )


def decided(config: SearchConfig, number: int, turn: int, found: Sequence[dict[str, object]]) -> Check:
    """Hold the trainings of a trial's check against the limits; it is the check in that turn, from 0."""
    read = TypeAdapter(Evaluation).validate_python
    measured = [read(each["evaluation"]) for each in found if "evaluation" in each]
    utilities = [getattr(one, utility_name(config)) for one in measured]
    utilities = [math.nan if each is None else each for each in utilities]  # So a file keeps what is NaN.
    reasons = [str(each["reason"]) for each in found if "reason" in each]
    reasons += [UNKNOWN_UTILITY for each in utilities if math.isnan(each)]
    certainty = certainty_of_check(config, turn)
    rates = {name: tuple(getattr(one, name) for one in measured) for name in ("asr", "over_refusal")}
    ends = {}
    for name, values in rates.items():
        counts = [judged_in(one, name) for one in measured]
        ends[name] = 100.0 if reasons else pooled(values, counts, certainty)
    return Check(
        trial=number,
        seeds=seeds_of(config),
        asr=rates["asr"],
        over_refusal=rates["over_refusal"],
        utility=tuple(utilities),
        asr_upper=ends["asr"],
        over_refusal_upper=ends["over_refusal"],
        certainty=certainty,
        holds=not reasons and ends["asr"] <= config.max_asr and ends["over_refusal"] <= config.max_over_refusal,
        reason=reasons[0] if reasons else "",
    )


def missed(check: Check, config: SearchConfig) -> float:
    """By how much a check misses the limits, in percent, added up."""
    return max(0.0, check.asr_upper - config.max_asr) + max(0.0, check.over_refusal_upper - config.max_over_refusal)


def _name(number: int, seed: int) -> str:
    return f"check of trial {number}, seed {seed}"
