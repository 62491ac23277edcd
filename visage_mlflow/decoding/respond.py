"""Batched greedy decoding that stops at the verdict."""

from __future__ import annotations

import inspect
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from visage_mlflow.decoding.cache import Place, RowCache, layer_windows
from visage_mlflow.decoding.generate import generated
from visage_mlflow.language.written import end_tokens, texts

EARLY = 16
"""Tokens within which most refusals show: until then a row's text is judged after every token."""

CHECK_EVERY = 4
"""Steps between two looks at longer texts: each look costs a detokenization of the whole text."""

MEMORY: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""Model -> the memory that its last cache leaves to the next one."""

REFILL_SHARE = 8
"""Waiting prompts join the batch when one in so many of its places is free: each time costs an extra forward pass."""


def never(text: str) -> bool:
    """An `is_final` that lets every response go on to its end."""
    return False


@torch.inference_mode()
def respond(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    is_final: Callable[[str], bool] = never,
    check: Callable[[], None] = lambda: None,
    lean: bool = False,
) -> list[str | None]:
    """Greedy responses to prompts, each ended by end of turn, a final text, or `max_new_tokens`.

    The prompts' common prefix (system prompt, template) is computed once. Rows leave the batch when they end, and
    waiting prompts take their places. A long text is looked at every few steps only, so it may run on a little past
    the point where it became final. A model whose cache or arguments this loop does not support is decoded by its own
    `generate`, with a warning.

    Args:
        model: A causal language model.
        tokenizer: Its own.
        prompts: Token ids of each chat up to where the assistant's turn begins (`ChatFormat.prompt`).
        max_new_tokens: The longest response, in tokens, at least 1.
        batch_size: Rows decoded at once, at least 1.
        is_final: Whether a partial response already has its verdict; decoding stops there.
        check: Called after every token; raises to give up.
        lean: Free the cache afterwards rather than keep its memory for the next call.

    Returns:
        One text per prompt, in order; None where the model's output was not finite, so that no token could be chosen.
    """
    if not prompts:
        return []
    if (reason := unsupported(model)) is not None:
        warnings.warn(f"{type(model).__name__} is decoded by `generate`, which is slower: {reason}.", stacklevel=2)
        return generated(model, tokenizer, prompts, max_new_tokens, batch_size, check)
    batch = Batch(model, tokenizer, prompts, max_new_tokens, batch_size)
    batch.run(is_final, check)
    if lean:
        batch.cache.release()
    said = batch.texts(range(len(prompts)))
    return [None if failed else text for text, failed in zip(said, batch.failed.tolist(), strict=True)]


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all rows share, leaving at least one token of each."""
    limit = min(len(row) for row in rows) - 1
    return next((i for i in range(limit) if len({row[i] for row in rows}) > 1), limit)


def unsupported(model: Any) -> str | None:
    """Why `Batch` cannot decode with this model; None if it can."""
    needed = {"attention_mask", "position_ids", "past_key_values", "logits_to_keep"}
    if lacking := sorted(needed - set(inspect.signature(model.forward).parameters)):
        return f"it takes no {lacking[0]}"
    if layer_windows(model.config) is None:
        return "some of its layers keep more than keys and values"
    if model.config._attn_implementation not in ("sdpa", "eager"):
        return f"its attention is {model.config._attn_implementation}, which takes no masks"
    return None


class Batch:
    """Rows that are decoded together; those that have not ended ("live") are the first rows of the cache.

    Each step feeds a row's last token, at the cache column that is its position, and gains the next token. So a row
    starts with all of its prompt except the last token in the cache.
    """

    def __init__(
        self, model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.waiting = deque(sorted(range(len(prompts)), key=lambda row: len(prompts[row])))
        self.n_rows = min(batch_size, len(prompts))
        n_columns = max(map(len, prompts)) + max_new_tokens - 1
        windows = layer_windows(model.config)
        assert windows is not None  # See `unsupported`.
        self.cache = RowCache(windows, self.n_rows, n_columns, MEMORY.setdefault(model, {}))
        self.device = model.device
        self.end_tokens = torch.tensor(end_tokens(model, tokenizer), device=self.device)
        # For each prompt: the tokens of its response, how many there are, and whether the output was not finite.
        self.tokens = torch.zeros(len(prompts), max_new_tokens, dtype=torch.long, device=self.device)
        self.counts = torch.zeros(len(prompts), dtype=torch.long, device=self.device)
        self.failed = torch.zeros(len(prompts), dtype=torch.bool, device=self.device)
        # For each live row: the index of its prompt, the token to feed next, and the position of that token.
        self.live, self.token, self.position = torch.zeros(3, 0, dtype=torch.long, device=self.device)
        self.shared = common_prefix(prompts)
        if self.shared:
            self.forward(torch.tensor([prompts[0][: self.shared]]), slice(0, 1), 0)
            self.cache.share(self.shared)

    def forward(self, tokens: Tensor, rows: slice, start: int | Tensor) -> Tensor:
        """Logits of the last token, (rows, vocabulary), after one pass over new `tokens`, (rows, tokens).

        `rows` are their rows of the cache; `start` is the position of the first token, the same for all rows, or, with
        one token a row, that of each, (rows,).
        """
        if isinstance(start, Tensor):
            self.cache.place = Place(rows, start, int(start.max()) + 1)
            positions = start[:, None]
        else:
            end = start + tokens.shape[1]
            self.cache.place = Place(rows, slice(start, end), end)
            positions = torch.arange(start, end, device=self.device).expand(len(tokens), -1)
        out = self.model(
            tokens.to(self.device),
            attention_mask=self.cache.mask(positions, self.model.dtype),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1]
        return logits

    def run(self, is_final: Callable[[str], bool], check: Callable[[], None]) -> None:
        """Decode until every row has ended; `check` is called at every step."""
        step = 0
        while self.waiting or len(self.live):
            check()
            if self.waiting and (self.n_rows - len(self.live)) * REFILL_SHARE >= self.n_rows:
                self.admit()
            step += 1
            ended = self.step()
            self.drop(ended | self.final(is_final, everywhere=step % CHECK_EVERY == 0))

    def admit(self) -> None:
        """Fill the free places with waiting prompts."""
        taken = len(self.live)
        new = [self.waiting.popleft() for _ in range(min(self.n_rows - taken, len(self.waiting)))]
        rows = slice(taken, taken + len(new))
        rests = [list(self.prompts[row][self.shared :]) for row in new]
        width = max(map(len, rests)) - 1
        self.cache.clear(rows, self.shared)
        if width:
            # Padded with the row's own last token, so that a token with broken weights harms only its own row.
            padded = [[*rest, *rest[-1:] * width][:width] for rest in rests]
            self.forward(torch.tensor(padded), rows, self.shared)

        def extended(held: Tensor, values: list[int]) -> Tensor:
            return torch.cat([held, torch.tensor(values, device=self.device)])

        self.live = extended(self.live, new)
        self.token = extended(self.token, [rest[-1] for rest in rests])
        self.position = extended(self.position, [len(self.prompts[row]) - 1 for row in new])

    def step(self) -> Tensor:
        """Give each live row its next token; returns whether it ended, (live rows,)."""
        logits = self.forward(self.token[:, None], slice(0, len(self.live)), self.position)
        best, token = logits.max(dim=1)  # The maximum is NaN if any logit is.
        failed = ~best.isfinite()
        self.failed[self.live] = failed
        ended = torch.isin(token, self.end_tokens) | failed
        self.tokens[self.live, self.counts[self.live]] = token
        self.counts[self.live] += (~ended).long()
        self.token = token
        self.position = self.position + 1
        return ended | (self.counts[self.live] == self.tokens.shape[1])

    def final(self, is_final: Callable[[str], bool], everywhere: bool) -> Tensor:
        """Whether each live row's text is final, (live rows,); longer texts are looked at only if `everywhere`."""
        final = torch.zeros(len(self.live), dtype=torch.bool, device=self.device)
        looked_at = (self.counts[self.live] <= EARLY) | everywhere
        said = self.texts(self.live[looked_at].tolist())
        final[looked_at] = torch.tensor([is_final(text) for text in said], dtype=torch.bool, device=self.device)
        return final

    def drop(self, ended: Tensor) -> None:
        """Take ended rows out of the batch; the last rows move into their places."""
        n_kept = int((~ended).sum())
        if n_kept == len(ended):
            return
        source = n_kept + (~ended[n_kept:]).nonzero().squeeze(1)
        target = ended[:n_kept].nonzero().squeeze(1)
        self.cache.move(source, target)
        for held in (self.live, self.token, self.position):
            held[target] = held[source]
        self.live, self.token, self.position = self.live[:n_kept], self.token[:n_kept], self.position[:n_kept]

    def texts(self, rows: Sequence[int]) -> list[str]:
        """The texts of some prompts so far."""
        return texts(self.tokenizer, [self.tokens[row, : self.counts[row]].tolist() for row in rows])
