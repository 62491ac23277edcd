"""How likely a model finds given answers: shows whether it kept its abilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@torch.inference_mode()
def answer_nll(
    model: Any, prompts: Sequence[Sequence[int]], answered: Sequence[Sequence[int]], *, batch_size: int
) -> float:
    """Mean negative log-likelihood of the answers' tokens, end of turn included; all tokens have equal weight.

    Args:
        model: A causal language model.
        prompts: Token ids of each chat up to where the assistant's turn begins (`tokens.encode`).
        answered: Token ids of each chat with its answer (`tokens.encode_answered`). What follows the first
            ``len(prompt)`` of them is the answer.
        batch_size: Chats per forward pass.

    Returns:
        Nats per token, 0 or more; NaN where the model's output is not finite.
    """
    rows = sorted(zip(answered, map(len, prompts), strict=True), key=lambda row: len(row[0]))
    total, count = 0.0, 0
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        # Padded on the right: a causal model's tokens never see what follows them.
        tokens = padded([list(ids) for ids, _ in batch], 0)
        labels = padded([[-100] * n_prompt + list(ids[n_prompt:]) for ids, n_prompt in batch], -100)
        mask = padded([[1] * len(ids) for ids, _ in batch], 0)
        wanted = labels[:, 1:] != -100
        logits = model(tokens, attention_mask=mask, use_cache=False).logits[:, :-1][wanted]  # (answer tokens, vocab)
        total += float(torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:][wanted], reduction="sum"))
        count += int(wanted.sum())
    return total / count


def padded(rows: list[list[int]], value: int) -> Tensor:
    """Rows of different lengths as one tensor, filled up with `value`."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)
