"""One trial of a search: what it trains, when it is ended, and how it is judged."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import yaml

from visage_mlflow.config.search import SearchConfig, utility_name
from visage_mlflow.config.training import FinetuneConfig, ScenarioConfig
from visage_mlflow.geometry.directions import Difference
from visage_mlflow.geometry.identity import Weights
from visage_mlflow.geometry.score import EDGE
from visage_mlflow.language import models
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.language.uris import Fetch
from visage_mlflow.measuring.measure import Measurer
from visage_mlflow.results import Checkpoint, Edge, Evaluation
from visage_mlflow.search.limits import upper_ends
from visage_mlflow.studies.finetuning import Ended, training_recipe
from visage_mlflow.studies.margin import find_edge
from visage_mlflow.text.errors import Mistake
from visage_mlflow.training import sft


@dataclass
class Watch:
    """Ends a trial whose checkpoints stay at `outside_asr` or more; it is called with each checkpoint."""

    config: SearchConfig
    planned_steps: int
    checkpoints: list[Checkpoint] = dataclasses.field(default_factory=list)

    def __call__(self, checkpoint: Checkpoint) -> None:
        """Look at the next checkpoint.

        Raises:
            Ended: It is the last of `patience` such checkpoints in a row, and training would go on.
            Mistake: Its ASR or over-refusal could not be measured.
        """
        self.checkpoints.append(checkpoint)
        if math.isnan(checkpoint.evaluation.asr) or math.isnan(checkpoint.evaluation.over_refusal):
            raise Mistake(
                f"No response could be judged at step {checkpoint.step}. Try a lower `learning_rate`, or another "
                "`judge`."
            )
        patience, limit = self.config.patience, self.config.outside_asr
        after_warmup = [one for one in self.checkpoints if one.step > self.config.warmup * self.planned_steps]
        asr = [one.evaluation.asr for one in after_warmup][-patience:]
        are_outside = len(asr) == patience > 0 and min(asr) >= limit
        if are_outside and checkpoint.step < self.planned_steps:
            rates = ", ".join(f"{one:.1f}" for one in asr)
            raise Ended(
                f"ASR of {limit:g} % or more at {patience} checkpoints in a row ({rates}), "
                f"step {checkpoint.step} of {self.planned_steps}"
            )


@dataclass(frozen=True)
class Outcome:
    """How a trial is judged.

    Attributes:
        evaluation: Of its last checkpoint.
        edge: Along the direction of its training; None where none was looked for.
        utility: Nats per token of the held-out answers.
        limits: Limit -> by how much it is broken, in percent; 0 or less where it is kept. ASR and over-refusal are
            held against it by their upper ends.
        asr_upper: What the ASR is at most with the study's certainty, in percent; so is `over_refusal_upper`.
        value: The utility in whole steps of `utility_step`, and below them the number of added rows.
        reason: Why it was ended; empty if it was not.
    """

    evaluation: Evaluation
    edge: Edge | None
    utility: float
    limits: dict[str, float]
    value: float
    asr_upper: float
    over_refusal_upper: float
    reason: str = ""

    @property
    def violation(self) -> float:
        """By how much all limits are broken, in percent."""
        return sum(max(0.0, excess) for excess in self.limits.values())

    @property
    def inside(self) -> bool:
        """Whether the trial was not ended and keeps all limits."""
        return not self.reason and self.violation == 0

    def in_words(self) -> str:
        """Why it was ended, or which limits it breaks."""
        broken = ", ".join(f"{name} by {excess:.1f}" for name, excess in self.limits.items() if excess > 0)
        return self.reason or (f"breaks the limits of {broken}" if broken else "inside")


def largest(config: SearchConfig) -> FinetuneConfig:
    """The finetuning with all ranges at their high ends: if its data is there, that of all trials is."""
    return settings_of(config, {name: each.high for name, each in config.space().items()})


def recipe(settings: FinetuneConfig, name: str, about: str) -> str:
    """A recipe that `finetune` takes as it is, as a file of that name; `about` it stands in its head, in one line."""
    content = yaml.safe_dump(dataclasses.asdict(settings), sort_keys=False, allow_unicode=True)
    return f"# mlflow run . -e finetune -P config={name}\n# {about}\n{content}"


def settings_of(config: SearchConfig, params: dict[str, float]) -> FinetuneConfig:
    """The finetuning that a trial with these parameters is."""
    shared = {field.name: getattr(config, field.name) for field in fields(ScenarioConfig)}
    values = {name: each.low for name, each in config.space().items()} | params
    settings = FinetuneConfig(
        **{**shared, "n_held_out": config.n_held_out if config.task_data else 0},
        safe=int(values["safe"]),
        benign=int(values["benign"]),
        # As many digits as matter, so that a recipe reads well and is exactly what was trained.
        learning_rate=float(f"{values['learning_rate']:.3g}"),
        epochs=round(float(values["epochs"]), 2) or float(values["epochs"]),
        lora_rank=int(values["lora_rank"]),
    )
    return dataclasses.replace(settings, save_every=math.ceil(planned_steps(settings) / config.n_checkpoints))


def retraining_of(settings: FinetuneConfig, seed: int) -> FinetuneConfig:
    """The same finetuning with other rows drawn, in another order, of which only the end is measured."""
    return dataclasses.replace(settings, seed=seed, save_every=planned_steps(settings))


def planned_steps(settings: FinetuneConfig) -> int:
    """Optimizer steps of a finetuning."""
    return sft.total_steps(sum(settings.counts().values()), training_recipe(settings))


def judge(config: SearchConfig, settings: FinetuneConfig, last: Evaluation, edge: Edge | None, reason: str) -> Outcome:
    """Hold a trial's last checkpoint against the limits of the study."""
    utility = getattr(last, utility_name(config))
    if math.isnan(utility):
        raise Mistake("The likelihood of held-out answers could not be measured. Try a lower `learning_rate`.")
    ends = upper_ends(last, config.certainty)
    limits = {name: end - getattr(config, f"max_{name}") for name, end in ends.items()}
    if config.margin_min is not None and edge:
        # A basin that is open as far as it was looked at reaches a margin that is just as far, but for rounding.
        limits["margin"] = round(100 * (config.margin_min - edge.margin), 6)
    space = config.space()
    most_rows = space["safe"].high + space["benign"].high
    whole_steps = math.floor(utility / config.utility_step)
    value = config.utility_step * (whole_steps + (settings.safe + settings.benign) / (most_rows + 1))
    return Outcome(last, edge, utility, limits, value, ends["asr"], ends["over_refusal"], reason)


def check_base(config: SearchConfig, base: Evaluation) -> None:
    """Raise Mistake where a margin is demanded, but the way begins outside the basin."""
    if config.margin_min is not None and not base.asr < EDGE:
        raise Mistake(
            f"`margin_min` is {config.margin_min:g}, but `model` itself is outside the basin (ASR {base.asr:.1f}), so "
            "there is no margin to measure. Leave `margin_min` out, or align the model first."
        )


def find_margin(
    base: Chat,
    base_asr: float,
    last: Checkpoint,
    rows: Sequence[Row],
    config: SearchConfig,
    measure: Measurer,
    fetch: Fetch | None,
) -> Edge | None:
    """The edge along a trial's own direction, for one inside that began inside; else None."""
    measured = last.evaluation
    ends = upper_ends(measured, config.certainty)
    is_inside = all(end <= getattr(config, f"max_{name}") for name, end in ends.items())
    if not is_inside or not base_asr < EDGE or config.margin_up_to == 0:
        return None
    weights = Weights.of(models.load_weights(last.uri, fetch, "output_dir", config.base))
    return find_edge(base, Difference(weights), rows, config, measure, up_to=config.margin_up_to)
