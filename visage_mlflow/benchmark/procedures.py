"""The ways to measure points of a line that a benchmark compares: the published one, `generate`, and ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from visage_mlflow.config import LandscapeConfig
from visage_mlflow.decoding.generate import generated
from visage_mlflow.geometry.directions import Direction
from visage_mlflow.geometry.perturb import perturbed
from visage_mlflow.language.judges import JUDGES
from visage_mlflow.language.models import Chat
from visage_mlflow.language.prompts import Row
from visage_mlflow.measuring.measure import Held, Measurer
from visage_mlflow.studies.crew import crew

PUBLISHED_BATCH = 4
Verdicts = dict[float, list[str]]
"""Step -> the verdict on each prompt."""
Way = Callable[[Sequence[float]], Verdicts]
"""Measures some steps; returns the verdicts by step."""


@dataclass(frozen=True)
class Work:
    """What every way measures."""

    rows: list[Row]
    direction: Direction
    max_new_tokens: int


def published(chat: Chat, work: Work) -> Way:
    """The procedure of the paper's code, as it is described.

    At each point a float32 model loads a state dict of base plus step times direction. Then `generate` answers in
    batches of 4, each until its last row ends or reaches the limit. Batches hold prompts of similar length, which is
    faster than the published order.
    """
    prompts = asked(chat, work)
    deltas = {name: work.direction.delta(name, weight) for name, weight in chat.weights.items()}

    def run(steps: Sequence[float]) -> Verdicts:
        verdicts = {}
        for step in steps:
            state = {name: weight + step * deltas[name] for name, weight in chat.weights.items()}
            chat.model.load_state_dict(state, strict=False)
            verdicts[step] = answered(chat, work, prompts, PUBLISHED_BATCH)
        chat.model.load_state_dict(chat.weights, strict=False)
        return verdicts

    return run


def plain(chat: Chat, work: Work) -> Way:
    """`generate` on all prompts in one batch, the model moved in place."""
    prompts = asked(chat, work)

    def run(steps: Sequence[float]) -> Verdicts:
        verdicts = {}
        for step in steps:
            with perturbed(chat.model, [work.direction], [step], weights=chat.weights):
                verdicts[step] = answered(chat, work, prompts, len(prompts))
        return verdicts

    return run


def asked(chat: Chat, work: Work) -> list[list[int]]:
    """The prompts as tokens."""
    return [chat.format.prompt(row.prompt) for row in work.rows]


def answered(chat: Chat, work: Work, prompts: list[list[int]], batch_size: int) -> list[str]:
    """The verdicts on what `generate` answers."""
    texts = generated(chat.model, chat.tokenizer, prompts, work.max_new_tokens, batch_size)
    verdict, rows = JUDGES["advbench_keywords"].verdict, work.rows
    return ["unjudged" if text is None else verdict(row.prompt, text) for row, text in zip(rows, texts, strict=True)]


def ours(chat: Chat, work: Work, config: LandscapeConfig) -> Way:
    """The way of `landscape`, once it is known what is language to the model: that costs the same for any grid."""
    workers = crew(chat, config, config.n_points, Measurer(config))
    for own in workers.chats:
        workers.measure.scale(own)

    def ask(measure: Measurer, chat: Chat, step: float) -> list[str]:
        responses = measure(chat, Held([work.direction], (step,)), work.rows, config)
        return [response.verdict for response in responses]

    def run(steps: Sequence[float]) -> Verdicts:
        return dict(workers.run(sorted(steps, key=abs, reverse=True), ask))

    return run
