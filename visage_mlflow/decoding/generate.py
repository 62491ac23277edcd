"""Batched greedy decoding by a model's own `generate`: for models that `respond` does not support, and to compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from visage_mlflow.language.written import end_tokens, texts


def generated(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    check: Callable[[], None] = lambda: None,
) -> list[str | None]:
    """Responses by the model's own `generate`, in left-padded batches of prompts of similar length.

    Takes and returns the same as `respond`, but each response goes on to end of turn or `max_new_tokens`.
    """
    ends = end_tokens(model, tokenizer)
    found: list[str | None] = [None] * len(prompts)
    by_length = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for first in range(0, len(prompts), batch_size):
        rows = by_length[first : first + batch_size]
        tokens = [torch.tensor(list(prompts[row]), device=model.device) for row in rows]
        masks = [torch.ones_like(row) for row in tokens]
        failed = torch.zeros(len(rows), dtype=torch.bool, device=model.device)

        def watch(_: Tensor, scores: Tensor, failed: Tensor = failed) -> Tensor:
            check()
            failed |= ~scores.amax(dim=1).isfinite()
            return scores

        padded = pad_sequence(tokens, batch_first=True, padding_side="left")
        out = model.generate(
            input_ids=padded,
            attention_mask=pad_sequence(masks, batch_first=True, padding_side="left"),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=ends or None,
            pad_token_id=tokenizer.pad_token_id,
            logits_processor=[watch],
        )
        answers = texts(tokenizer, [up_to_end(row, ends) for row in out[:, padded.shape[1] :].tolist()])
        for row, answer, broken in zip(rows, answers, failed.tolist(), strict=True):
            found[row] = None if broken else answer
    return found


def up_to_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """The tokens before the first that ends the turn."""
    return tokens[: next((place for place, token in enumerate(tokens) if token in ends), len(tokens))]
