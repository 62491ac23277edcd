"""What a benchmark returns: how long each way takes, and what it is compared with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import ClassVar

from visage_mlflow.results.base import Number, Result

WAYS = {
    "published": "published procedure, float32",
    "generate": "batched `generate`, {dtype}",
    "float32": "visage_mlflow, float32",
    "auto": "visage_mlflow, {dtype}",
}
"""Way -> its description in tables; `dtype` is the one that the processor is fastest in."""


@dataclass(frozen=True)
class Timing:
    """How long one way takes on the points of one region.

    `seconds` are per point, one number for each repeat; `agreement` is the percentage of verdicts in which the attack
    succeeds or fails as in the published procedure.
    """

    way: str
    region: str
    n_points: int
    seconds: tuple[Number, ...]
    agreement: Number


@dataclass(frozen=True)
class Cost:
    """How long one worker takes for some prompts at some points outside the basin."""

    n_prompts: int
    n_points: int
    max_new_tokens: int
    seconds: Number


@dataclass(frozen=True)
class Length:
    """At one step, for answers of `tokens` new tokens: how many verdicts are the same as for the longest answers, and
    the ASR, both in percent."""

    step: float
    tokens: int
    agreement: Number
    asr: Number


@dataclass(frozen=True, eq=False)
class Benchmark(Result):
    """Times of a landscape.

    Rates are in GFLOP/s, shares and agreements in percent. Memory ratios are peak memory over the size of the model's
    float32 weights.
    """

    kind: ClassVar[str] = "benchmark"
    dtype: str
    asr: dict[str, Number]
    timings: tuple[Timing, ...]
    costs: tuple[Cost, ...]
    lengths: tuple[Length, ...]
    speedup_float32: Number
    speedup_bfloat16: Number
    speedup_outside_generate: Number
    verdict_agreement: Number
    verdict_agreement_float32: Number
    matrix_rate: Number
    decoding_rate: Number
    matrix_rate_share: Number
    perturb_share: Number
    peak_memory_ratio: Number
    peak_memory_ratio_lean: Number

    def metrics(self) -> dict[str, float]:
        """Name -> number, as logged."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, float)}

    def table(self) -> str:
        """All of it as Markdown."""
        regions = {timing.region: timing.n_points for timing in self.timings}
        lines = ["| seconds per point | " + " | ".join(f"{name} ({n})" for name, n in regions.items()) + " |"]
        lines.append("| --- |" + " --- |" * len(regions))
        for way, text in WAYS.items():
            cells = [_median_and_range(timing.seconds) for timing in self.timings if timing.way == way]
            lines.append(f"| {text.format(dtype=self.dtype)} | " + " | ".join(cells) + " |")
        lines += ["", "| | |", "| --- | --- |"]
        lines += [f"| {name} | {value:.3g} |" for name, value in self.metrics().items()]
        if self.costs:
            lines += ["", "| prompts | points outside | new tokens | seconds |", "| --- | --- | --- | --- |"]
            lines += [f"| {c.n_prompts} | {c.n_points} | {c.max_new_tokens} | {c.seconds:.2f} |" for c in self.costs]
        if self.lengths:
            lines += ["", "| step | new tokens | verdicts that agree (%) | ASR (%) |", "| --- | --- | --- | --- |"]
            lines += [
                f"| {row.step:+.2f} | {row.tokens} | {row.agreement:.1f} | {row.asr:.1f} |" for row in self.lengths
            ]
        return "\n".join(lines) + "\n"


def _median_and_range(seconds: tuple[float, ...]) -> str:
    middle = f"{median(seconds):.2f}"
    return middle if len(seconds) == 1 else f"{middle} ({min(seconds):.2f} to {max(seconds):.2f})"
