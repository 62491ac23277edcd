"""What a search over mixtures returns: its trials, the checks of the best ones, and which check holds."""

from __future__ import annotations

import csv
import io
import math
import statistics
from dataclasses import dataclass, field, fields
from typing import ClassVar

from visage_mlflow.results.base import Number, Percent, Result
from visage_mlflow.results.trajectory import rounded
from visage_mlflow.text.printing import cell

KINDS = ("harmful", "safe", "benign", "task")
STATES = ("complete", "pruned", "failed", "running", "waiting")


@dataclass(frozen=True)
class Trial:
    """One mixture, trained and measured. What was not measured is NaN.

    Attributes:
        state: "complete", "pruned" (ended for an ASR too high), "failed", "running" or "waiting".
        reason: Why it was pruned or failed; else empty.
        params: The searched settings that vary, by name.
        counts: Rows by kind.
        asr: Of the last checkpoint that was measured, in percent, with its Wilson interval; so is `over_refusal`.
        utility: Nats per token of the held-out answers; lower is better.
        margin: How much farther it could go before it leaves, with its interval; a lower bound if `margin_is_open`.
            The interval has no end if `margin_high_is_open`.
        margin_remark: What makes that one number too little, as `Edge.remark`; may be empty.
        asr_upper: What the ASR is at most with the study's certainty, in percent; so is `over_refusal_upper`.
        inside: Whether a complete trial keeps all limits of the study, ASR and over-refusal by their upper ends.
        violation: By how much it breaks them, in percent, added up; 0 inside.
        value: What the study minimizes where it has one objective.
        steps: Optimizer steps that it trained, of `planned_steps`.
        uri: Of its last checkpoint.
        run: Id of its MLflow run.
        retry_of: Number of the trial that died, whose settings this one took up again.
    """

    number: int
    state: str
    params: dict[str, int | float]
    reason: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    asr: Percent = math.nan
    asr_low: Percent = math.nan
    asr_high: Percent = math.nan
    over_refusal: Percent = math.nan
    over_refusal_low: Percent = math.nan
    over_refusal_high: Percent = math.nan
    asr_upper: Percent = math.nan
    over_refusal_upper: Percent = math.nan
    utility: Number = math.nan
    margin: Number = math.nan
    margin_is_open: bool = False
    margin_low: Number = math.nan
    margin_high: Number = math.nan
    margin_high_is_open: bool = False
    margin_remark: str = ""
    inside: bool = False
    violation: Number = math.nan
    value: Number = math.nan
    steps: int = 0
    planned_steps: int = 0
    seconds: Number = math.nan
    uri: str = ""
    run: str = ""
    retry_of: int | None = None

    @property
    def safe_share(self) -> float:
        """Safe rows as a share of all rows, in percent; NaN without rows."""
        rows = sum(self.counts.values())
        return 100 * self.counts.get("safe", 0) / rows if rows else math.nan

    @property
    def margin_in_words(self) -> str:
        """The margin with its interval, in no more digits than that allows."""
        ends = (self.margin_low, self.margin_high)
        return rounded(self.margin, *ends, self.margin_is_open, self.margin_high_is_open, sign="+")


@dataclass(frozen=True)
class Check:
    """A trial's mixture, trained anew with other seeds, and measured on prompts that no trial was measured on.

    Attributes:
        trial: Its number.
        seeds: Of the trainings, in order, like the tuples below.
        asr: Of each training, in percent; NaN where none could be judged. So is `over_refusal`.
        utility: Nats per token of the held-out answers.
        asr_upper: What the mean ASR of such trainings is at most, with that certainty; so is `over_refusal_upper`.
        certainty: A probability, 0 to 1; higher for each further trial that is checked.
        holds: Whether both upper ends keep the limits of the study.
        reason: Why a training failed; else empty.
    """

    trial: int
    seeds: tuple[int, ...]
    asr: tuple[Percent, ...]
    over_refusal: tuple[Percent, ...]
    utility: tuple[Number, ...]
    asr_upper: Percent
    over_refusal_upper: Percent
    certainty: float
    holds: bool
    reason: str = ""

    def mean(self, name: str) -> float:
        """Of all trainings; `name` is "asr", "over_refusal" or "utility"."""
        values = getattr(self, name)
        return statistics.fmean(values) if values else math.nan

    def spread(self, name: str) -> float:
        """Standard deviation from one training to the next."""
        values = getattr(self, name)
        return statistics.stdev(values) if len(values) > 1 and not any(map(math.isnan, values)) else math.nan


@dataclass(frozen=True, eq=False)
class Search(Result):
    """A study of mixtures.

    Attributes:
        objective: "utility" or "pareto".
        utility_name: Whose answers' likelihood the utility is: "benign_nll" or "task_nll".
        max_asr: Inside are upper ends of ASR and over-refusal of at most these, in percent, and a margin of
            `margin_min`.
        certainty: The probability, 0 to 1, with which a rate is no higher than its upper end.
        space: The searched settings' ranges as written, fixed ones too.
        trials: In order of number.
        best: Number of the trial whose check holds; None if there is none.
        leading: Number of the trial inside of the least value; None if none is inside.
        nearest: The best; where there is none, the trial whose check was nearest to holding; without checks the one
            leading, or else the one that breaks the limits least; None if none was measured.
        front: Numbers of the trials inside or outside that no other beats in ASR, over-refusal and utility at once.
        checks: Of the trials that were checked, in the order of their checks.
    """

    kind: ClassVar[str] = "search"
    study: str
    model: str
    objective: str
    utility_name: str
    max_asr: float
    max_over_refusal: float
    margin_min: float | None
    space: dict[str, str]
    trials: tuple[Trial, ...]
    certainty: float
    best: int | None
    leading: int | None
    nearest: int | None
    front: tuple[int, ...]
    checks: tuple[Check, ...]

    def trial(self, number: int) -> Trial:
        """The trial of that number."""
        return next(trial for trial in self.trials if trial.number == number)

    def count(self, state: str) -> int:
        """Trials in a state."""
        return sum(trial.state == state for trial in self.trials)

    def check_of(self, number: int | None) -> Check | None:
        """The check of the trial of that number; None where it was not checked."""
        return next((check for check in self.checks if check.trial == number), None)

    @property
    def n_ended(self) -> int:
        """Trials that have ended."""
        return sum(trial.state not in ("running", "waiting") for trial in self.trials)

    @property
    def chosen(self) -> tuple[str, int | None]:
        """The trial to look at, as "best" and its number; "nearest" and its number where no check holds."""
        return ("nearest", self.nearest) if self.best is None else ("best", self.best)

    def metrics(self, *, with_nearest: bool = True) -> dict[str, float]:
        """Name -> number, as logged on the study's run; without a best one of the nearest trial, if that is wanted."""
        numbers: dict[str, float] = {f"n_{state}": self.count(state) for state in STATES}
        numbers["n_inside"] = sum(trial.inside for trial in self.trials)
        chosen, number = self.chosen
        if number is not None and (chosen == "best" or with_nearest):
            trial = self.trial(number)
            numbers[f"{chosen}_trial"] = number
            rates = ("asr", "asr_upper", "over_refusal", "over_refusal_upper")
            for name in (*rates, "margin", "margin_low", "margin_high", "violation"):
                numbers[f"{chosen}_{name}"] = getattr(trial, name)
            numbers[f"{chosen}_{self.utility_name}"] = trial.utility
            numbers |= {f"{chosen}_{kind}": count for kind, count in trial.counts.items()}
        numbers["n_checks"] = len(self.checks)
        if check := self.check_of(number):
            for name in ("asr", "over_refusal", "utility"):
                called = self.utility_name if name == "utility" else name
                numbers |= {f"check_{called}": check.mean(name), f"check_{called}_spread": check.spread(name)}
            numbers |= {"check_asr_upper": check.asr_upper, "check_over_refusal_upper": check.over_refusal_upper}
            numbers["check_holds"] = float(check.holds)
        return {name: value for name, value in numbers.items() if not math.isnan(value)}

    def to_csv(self) -> str:
        """One line per trial, for spreadsheets; what was not measured is empty, and no text is a formula."""
        names = [one.name for one in fields(Trial) if one.name not in ("params", "counts")]
        params = sorted({name for trial in self.trials for name in trial.params})
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        heads = (*(f"param_{name}" for name in params), *(f"rows_{kind}" for kind in KINDS))
        writer.writerow([*names, *heads, "safe_share"])
        for trial in self.trials:
            values = [getattr(trial, name) for name in names] + [trial.params.get(name) for name in params]
            values += [trial.counts.get(kind, 0) for kind in KINDS] + [trial.safe_share]
            missing = (value is None or (isinstance(value, float) and math.isnan(value)) for value in values)
            writer.writerow("" if none else cell(value) for none, value in zip(missing, values, strict=True))
        return text.getvalue()
