"""Batched greedy decoding that stops at the verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

CHECK_EVERY = 4
"""Steps between two looks at the texts so far: looking costs a detokenization of every row."""


@torch.inference_mode()
def respond(
    model: Any,
    tokenizer: Any,
    chats: Sequence[list[dict[str, str]]],
    *,
    max_new_tokens: int,
    batch_size: int,
    is_final: Callable[[str], bool],
) -> list[str | None]:
    """Greedy responses to chats, each ended by end of turn, a final text, or `max_new_tokens`.

    Rows are left-padded, share their common prefix (system prompt, template; not under a sliding window), and leave
    the batch when they end. A row is looked at every few steps, so a text may run on a little past the point where
    it became final.

    Args:
        model: A causal language model with a dynamic cache.
        tokenizer: Its tokenizer, with a chat template.
        chats: Chats that end with the user's turn.
        max_new_tokens: The longest response, in tokens, at least 1.
        batch_size: Rows decoded at once, at least 1.
        is_final: Whether a partial response already has its verdict.

    Returns:
        One text per chat, in order; None where the model gave no number to choose a token by.
    """
    prompts = [encode(tokenizer, chat) for chat in chats]
    by_length = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    responses: list[str | None] = [None] * len(prompts)
    for start in range(0, len(by_length), batch_size):
        rows = by_length[start : start + batch_size]
        batch = Batch(model, tokenizer, [prompts[row] for row in rows])
        for row, text in zip(rows, batch.run(max_new_tokens, is_final), strict=True):
            responses[row] = text
    return responses


def encode(tokenizer: Any, chat: list[dict[str, str]]) -> list[int]:
    """The token ids of a chat, up to where the assistant's turn begins."""
    ids: list[int] = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
    return ids


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all rows share, leaving at least one token of each."""
    limit = min(len(row) for row in rows) - 1
    return next((i for i in range(limit) if len({row[i] for row in rows}) > 1), limit)


class Batch:
    """Rows that are decoded together; `live` are the places of those still in the running."""

    def __init__(self, model: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.live = torch.arange(len(prompts))
        self.tokens: list[list[int]] = [[] for _ in prompts]
        self.failed: set[int] = set()
        ends = [model.generation_config.eos_token_id, tokenizer.eos_token_id]
        flat = {token for end in ends for token in (end if isinstance(end, list) else [end])}
        self.end_tokens = torch.tensor(sorted(flat - {None}))  # Not every generation config names one.
        self.logits = self.prefill(prompts)

    def prefill(self, prompts: list[list[int]]) -> Tensor:
        """Fill the cache; returns the logits of the first new token, (rows, vocabulary)."""
        from transformers import DynamicCache

        self.cache = DynamicCache(config=self.model.config)
        # Padding stands between prefix and rest. A sliding window counts it as tokens, and would lose the prefix.
        shared = 0 if any(self.cache.is_sliding) else common_prefix(prompts)
        width = max(len(prompt) for prompt in prompts) - shared
        if shared:
            prefix = torch.tensor([prompts[0][:shared]])
            self.model(prefix, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
            self.cache.batch_repeat_interleave(len(prompts))
        rest = torch.zeros(len(prompts), width, dtype=torch.long)
        self.mask = torch.ones(len(prompts), shared + width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            padding = shared + width - len(prompt)
            rest[row, padding:] = torch.tensor(prompt[shared:])
            self.mask[row, shared : shared + padding] = 0
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, shared:]
        return self.forward(rest, positions)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """One pass over new tokens; logits of the last one, (rows, vocabulary)."""
        out = self.model(
            tokens,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1]
        return logits

    def run(self, max_new_tokens: int, is_final: Callable[[str], bool]) -> list[str | None]:
        """Decode until every row has ended; the texts in the order of the prompts."""
        for step in range(1, max_new_tokens + 1):
            best, token = self.logits.max(dim=1)  # NaN wins every comparison, so it shows here.
            ended = torch.isin(token, self.end_tokens) | ~best.isfinite()
            self.failed |= set(self.live[~best.isfinite()].tolist())
            for row, value, stop in zip(self.live.tolist(), token.tolist(), ended.tolist(), strict=True):
                if not stop:
                    self.tokens[row].append(value)
            if step % CHECK_EVERY == 0:
                texts = self.texts(self.live.tolist())
                ended |= torch.tensor([is_final(text) for text in texts])
            if ended.all() or step == max_new_tokens:
                break
            token = self.drop(ended, token)
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.live), 1)], dim=1)
            self.logits = self.forward(token[:, None], self.mask.sum(1, keepdim=True) - 1)
        texts = self.texts(list(range(len(self.tokens))))
        return [None if row in self.failed else text for row, text in enumerate(texts)]

    def drop(self, ended: Tensor, token: Tensor) -> Tensor:
        """Take ended rows out of the batch; the tokens of those that stay."""
        if not ended.any():
            return token
        keep = (~ended).nonzero().squeeze(1)
        self.cache.batch_select_indices(keep)
        self.live, self.mask = self.live[keep], self.mask[keep]
        return token[keep]

    def texts(self, rows: list[int]) -> list[str]:
        """The texts of some rows so far."""
        texts: list[str] = self.tokenizer.batch_decode([self.tokens[row] for row in rows], skip_special_tokens=True)
        return texts
