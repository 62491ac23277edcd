"""How likely a model finds given answers: whether it kept its abilities, and whether answers are language to it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

MOST_LOGITS = 2**26
"""Logits computed in one pass, at most, unless a single chat has more: 256 MB in float32."""


def answer_nll(
    model: Any, prompts: Sequence[Sequence[int]], answered: Sequence[Sequence[int]], *, batch_size: int
) -> float:
    """Mean negative log-likelihood of the answers' tokens, end of turn included; all tokens have equal weight.

    Takes the same as `token_nll`.

    Returns:
        Nats per token, 0 or more; NaN where the model's output is not finite.
    """
    each = token_nll(model, prompts, answered, batch_size=batch_size)
    return sum(map(sum, each)) / sum(map(len, each))


@torch.inference_mode()
def token_nll(
    model: Any, prompts: Sequence[Sequence[int]], answered: Sequence[Sequence[int]], *, batch_size: int
) -> list[list[float]]:
    """Negative log-likelihood of each token of each answer, in nats, given all that stands before it.

    Args:
        model: A causal language model.
        prompts: Token ids of each chat up to where the assistant's turn begins (`ChatFormat.prompt`).
        answered: Token ids of each chat with its answer (`tokens.encode_answered`). What follows the first
            ``len(prompt)`` of them is the answer.
        batch_size: Chats per forward pass, at most.

    Returns:
        For each chat, in order, one number per token of its answer; NaN where the model's output is not finite.
    """
    found: list[list[float]] = [[] for _ in answered]
    keeps_last = "logits_to_keep" in inspect.signature(model.forward).parameters
    for rows in _batches([len(ids) for ids in answered], list(map(len, prompts)), batch_size, model):
        # Padded on the right: a causal model's tokens never see what follows them.
        tokens = padded([list(answered[row]) for row in rows], 0)
        labels = padded([[-100] * len(prompts[row]) + list(answered[row][len(prompts[row]) :]) for row in rows], -100)
        mask = padded([[1] * len(answered[row]) for row in rows], 0)
        # The logits of what all the prompts share are the larger part of the work, and of the memory.
        first = min(len(prompts[row]) for row in rows) if keeps_last else 1
        kept = {"logits_to_keep": tokens.shape[1] - first + 1} if keeps_last else {}
        inputs = (tokens.to(model.device), mask.to(model.device))
        logits = model(inputs[0], attention_mask=inputs[1], use_cache=False, **kept).logits[:, :-1]
        labels = labels[:, first:].to(model.device)
        wanted = labels != -100
        nll = torch.nn.functional.cross_entropy(logits[wanted].float(), labels[wanted], reduction="none").cpu()
        for row, own in zip(rows, torch.split(nll, wanted.sum(dim=1).tolist()), strict=True):
            found[row] = own.tolist()
    return found


def _batches(lengths: list[int], n_prompts: list[int], batch_size: int, model: Any) -> Iterator[list[int]]:
    """Rows of similar length that fit into one pass."""
    if len(lengths) != len(n_prompts):
        raise ValueError(f"Prompts and answers must pair up, got {len(n_prompts)} and {len(lengths)}.")
    vocabulary = model.get_output_embeddings().weight.shape[0]
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        width = lengths[row] - min(n_prompts[one] for one in (*batch, row)) + 1
        too_many = (len(batch) + 1) * width * vocabulary > MOST_LOGITS
        if batch and (len(batch) == batch_size or too_many):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def padded(rows: list[list[int]], value: int) -> Tensor:
    """Rows of different lengths as one tensor, filled up with `value`."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)
