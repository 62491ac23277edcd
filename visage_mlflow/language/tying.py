"""Input embedding and output head: one matrix in many models, and two in some that were finetuned from these."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from visage_mlflow.geometry.identity import Weights
from visage_mlflow.language.adapters import is_tied
from visage_mlflow.language.models import Chat
from visage_mlflow.text.printing import tell


@contextmanager
def alike(chat: Chat, others: Sequence[Mapping[str, Tensor]]) -> Iterator[tuple[Chat, list[Mapping[str, Tensor]]]]:
    """Inside, a model and others have tensors of the same names: where one has a head of its own, all have.

    A head that is shared has the values of the embedding, so no model answers otherwise; but there is one matrix more
    that can move, and that counts in norms.

    Args:
        chat: The model; after the block it is as it was.
        others: Weights of others.

    Yields:
        The model and the others, each with a head of its own if one of them has one; else as they were.
    """
    if all(set(weights) == set(chat.weights) for weights in others):
        yield chat, list(others)
        return
    model = chat.model
    head_name, embedding_name = _names(model)
    apart = bool(head_name) and any(head_name in weights for weights in (chat.weights, *others))

    def with_head(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if not apart or head_name in weights or embedding_name not in weights:
            return weights
        return Weights({**weights, head_name: weights[embedding_name]})

    completed = {id(weights): with_head(weights) for weights in others}  # One for each, however often it is named.
    matched = [completed[id(weights)] for weights in others]
    if not apart or not is_tied(model):
        yield chat, matched
        return
    tell(
        f"{chat.uri} shares one matrix between input embedding and output head, and a model beside it does not: it "
        "has one matrix more here.",
        sys.stderr,
    )
    head = model.get_output_embeddings()
    shared = head.weight
    head.weight = nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad)
    try:
        yield replace(chat, weights=with_head(chat.weights)), matched
    finally:
        head.weight = shared


def _names(model: Any) -> tuple[str, str]:
    """Names of the weights of output head and input embedding; "" for what there is not."""
    modules = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return modules.get(id(head), ""), modules.get(id(embedding), "")
