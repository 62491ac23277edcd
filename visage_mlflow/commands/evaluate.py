"""How safe is a model, and what does its safety cost?"""

from __future__ import annotations

from visage_mlflow.commands import command_line
from visage_mlflow.commands.loading import load
from visage_mlflow.config import EvaluateConfig
from visage_mlflow.figures.style import short
from visage_mlflow.measuring.measure import Measurer
from visage_mlflow.studies import evaluation
from visage_mlflow.tracking import runs


def main(config: EvaluateConfig) -> None:
    """Attack success rate, over-refusal and likelihood of benign answers of `config.model`, into MLflow."""
    with runs.tracked("evaluate", config, name=f"evaluation of {short(config.model)}") as run:
        measure = Measurer(config)  # Mistakes in the store and the prompts show before a model is loaded.
        harmful, benign = evaluation.harmful_rows(config), evaluation.benign_rows(config)
        chat = load(config.model, config, [*harmful, *benign], benign)
        result, responses = evaluation.evaluate(chat, harmful, benign, config, measure=measure)
        run.metrics(result.metrics())
        run.result(result, "evaluation.json")
        run.lines(responses, "responses.jsonl")
    command_line.tell(
        f"{config.model}: ASR {result.asr:.1f} % (95 % interval {result.asr_low:.1f} to {result.asr_high:.1f}), "
        f"over-refusal {result.over_refusal:.1f} % ({result.over_refusal_low:.1f} to {result.over_refusal_high:.1f}), "
        f"benign NLL {result.benign_nll:.3f} nats per token{result.left_out}"
    )
