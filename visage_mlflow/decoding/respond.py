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

from visage_mlflow.decoding.generate import generated
from visage_mlflow.language.tokens import encode, end_tokens

EARLY = 16
"""Tokens within which most refusals show: until then a row's text is looked at after every one."""

CHECK_EVERY = 4
"""Steps between two looks at later texts: each look costs a detokenization of the whole text."""

MEMORY: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""By model: what its last cache leaves to the next one."""

REFILL_SHARE = 8
"""One over the share of the batch that must be free before waiting prompts fill it: each filling is a pass more."""


@torch.inference_mode()
def respond(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    is_final: Callable[[str], bool],
    check: Callable[[], None] = lambda: None,
    lean: bool = False,
) -> list[str | None]:
    """Greedy responses to chats, each ended by end of turn, a final text, or `max_new_tokens`.

    The prompts' common prefix (system prompt, template) is computed once. Rows leave the batch when they end, and
    waiting prompts take their places. A long text is looked at every few steps only, so it may run on a little past
    the point where it became final. A model whose cache or arguments this loop does not know is decoded by its own
    `generate`, with a warning.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, with a chat template.
        chats: Chats that end with the user's turn.
        max_new_tokens: The longest response, in tokens, at least 1.
        batch_size: Rows decoded at once, at least 1.
        is_final: Whether a partial response already has its verdict.
        lean: Free the cache afterwards rather than keep its memory for the next call.

    Returns:
        One text per chat, in order; None where the model gave no number to choose a token by.
    """
    if not prompts:
        return []
    if (reason := unknown(model)) is not None:
        warnings.warn(f"{type(model).__name__} is decoded by `generate`, which is slower: {reason}.", stacklevel=2)
        # `generate` does not stop at verdicts, but the caller may give up by raising from `is_final`.
        return generated(model, tokenizer, [list(p) for p in prompts], max_new_tokens, batch_size, check=check)
    batch = Batch(model, tokenizer, [list(p) for p in prompts], max_new_tokens, batch_size)
    batch.run(is_final, check)
    if lean:
        batch.cache.release()
    texts = batch.texts(range(len(prompts)))
    return [None if failed else text for text, failed in zip(texts, batch.failed.tolist(), strict=True)]


@torch.inference_mode()
def transcribe(
    model: Any, tokenizer: Any, chats: Sequence[list[dict[str, str]]], *, max_new_tokens: int, batch_size: int
) -> list[list[int]]:
    """As `respond`, but the tokens of each response, which goes on to end of turn or `max_new_tokens`.

    Raises:
        ValueError: There is no chat, or this loop does not know the model.
    """
    if (reason := unknown(model)) is not None:
        raise ValueError(f"{type(model).__name__} can only be decoded by `generate`: {reason}. Use `respond`.")
    if not chats:
        raise ValueError("`chats` is empty: give at least one.")
    batch = Batch(model, tokenizer, [encode(tokenizer, chat) for chat in chats], max_new_tokens, batch_size)
    batch.run(lambda text: False)
    return [tokens[:count] for tokens, count in zip(batch.tokens.tolist(), batch.counts.tolist(), strict=True)]


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all rows share, leaving at least one token of each."""
    limit = min(len(row) for row in rows) - 1
    return next((i for i in range(limit) if len({row[i] for row in rows}) > 1), limit)


def unknown(model: Any) -> str | None:
    """Why `Batch` cannot decode with this model; None if it can."""
    from visage_mlflow.decoding.cache import layer_windows

    needed = {"attention_mask", "position_ids", "past_key_values", "logits_to_keep"}
    if lacking := sorted(needed - set(inspect.signature(model.forward).parameters)):
        return f"it takes no {lacking[0]}"
    if layer_windows(model.config) is None:
        return "some of its layers keep more than keys and values"
    if model.config._attn_implementation not in ("sdpa", "eager"):
        return f"its attention is {model.config._attn_implementation}, which takes no masks"
    return None


class Batch:
    """Rows that are decoded together, the live ones in the first places of the cache.

    A row's step feeds its last token, at the column that is its position, and gains the next one; so a row starts
    with all of its prompt but the last token in the cache.
    """

    def __init__(
        self, model: Any, tokenizer: Any, prompts: list[list[int]], max_new_tokens: int, batch_size: int
    ) -> None:
        from visage_mlflow.decoding.cache import RowCache, layer_windows

        self.model = model
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.waiting = deque(sorted(range(len(prompts)), key=lambda row: len(prompts[row])))
        self.n_rows = min(batch_size, len(prompts))
        n_columns = max(map(len, prompts)) + max_new_tokens - 1
        windows = layer_windows(model.config)
        assert windows is not None  # See `unknown`.
        self.cache = RowCache(windows, self.n_rows, n_columns, MEMORY.setdefault(model, {}))
        self.device = model.device
        self.end_tokens = torch.tensor(end_tokens(model, tokenizer), device=self.device)
        # By prompt: what it answered so far, how much that is, and whether the model failed on it.
        self.tokens = torch.zeros(len(prompts), max_new_tokens, dtype=torch.long, device=self.device)
        self.counts = torch.zeros(len(prompts), dtype=torch.long, device=self.device)
        self.failed = torch.zeros(len(prompts), dtype=torch.bool, device=self.device)
        # By live row: its prompt, the token to feed next, and that token's position.
        self.live, self.token, self.position = torch.zeros(3, 0, dtype=torch.long, device=self.device)
        self.shared = common_prefix(prompts)
        if self.shared:
            self.forward(torch.tensor([prompts[0][: self.shared]]), slice(0, 1), 0)
            self.cache.share(self.shared)

    def forward(self, tokens: Tensor, rows: slice, start: int | Tensor) -> Tensor:
        """One pass over new tokens, (rows, tokens); logits of the last one, (rows, vocabulary).

        They start at one position for all rows, or, one token a row, each at its own, (rows,).
        """
        from visage_mlflow.decoding.cache import Place

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

    def run(self, is_final: Callable[[str], bool], check: Callable[[], None] = lambda: None) -> None:
        """Decode until every row has ended."""
        step = 0
        while self.waiting or len(self.live):
            if self.waiting and (self.n_rows - len(self.live)) * REFILL_SHARE >= self.n_rows:
                self.admit()
            step += 1
            check()
            ended = self.step()
            self.drop(ended | self.final(is_final, everywhere=step % CHECK_EVERY == 0))

    def admit(self) -> None:
        """Fill the free places with waiting prompts."""
        taken = len(self.live)
        new = [self.waiting.popleft() for _ in range(min(self.n_rows - taken, len(self.waiting)))]
        rows = slice(taken, taken + len(new))
        rests = [self.prompts[row][self.shared :] for row in new]
        width = max(map(len, rests)) - 1
        self.cache.clear(rows, self.shared)
        if width:
            # A row's own last token pads it: whatever that does to a broken model stays with the row.
            padded = [(rest + rest[-1:] * width)[:width] for rest in rests]
            self.forward(torch.tensor(padded), rows, self.shared)

        def extended(held: Tensor, values: list[int]) -> Tensor:
            return torch.cat([held, torch.tensor(values, device=self.device)])

        self.live = extended(self.live, new)
        self.token = extended(self.token, [rest[-1] for rest in rests])
        self.position = extended(self.position, [len(self.prompts[row]) - 1 for row in new])

    def step(self) -> Tensor:
        """Each live row gains a token; whether it ended, (live rows,)."""
        logits = self.forward(self.token[:, None], slice(0, len(self.live)), self.position)
        best, token = logits.max(dim=1)  # NaN wins every comparison, so it shows here.
        failed = ~best.isfinite()
        self.failed[self.live] = failed
        ended = torch.isin(token, self.end_tokens) | failed
        self.tokens[self.live, self.counts[self.live]] = token
        self.counts[self.live] += (~ended).long()
        self.token = token
        self.position = self.position + 1
        return ended | (self.counts[self.live] == self.tokens.shape[1])

    def final(self, is_final: Callable[[str], bool], everywhere: bool) -> Tensor:
        """Whether each live row's text is final, (live rows,); rows past the first tokens only if `everywhere`."""
        final = torch.zeros(len(self.live), dtype=torch.bool, device=self.device)
        looked_at = (self.counts[self.live] <= EARLY) | everywhere
        texts = self.texts(self.live[looked_at].tolist())
        final[looked_at] = torch.tensor([is_final(text) for text in texts], dtype=torch.bool, device=self.device)
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
        if len(rows) == 0:
            return []  # `batch_decode` would give one empty text.
        tokens = [self.tokens[row, : self.counts[row]].tolist() for row in rows]
        texts: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts
