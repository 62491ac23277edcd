"""A cache of keys and values for rows of different lengths, in which a token's column is its position."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

COLUMNS_AT_ONCE = 32
"""Columns that are set to zero together, shortly before tokens reach them: pages beyond are never touched."""

Memory = dict[tuple[int, int], Tensor]
"""(heads, head size) -> one flat block that all layers of this shape share."""


@dataclass
class Place:
    """Where the current forward pass writes; the same for all layers.

    Attributes:
        rows: The rows of the cache that the pass computes.
        columns: A slice of columns, the same for all rows; or, for one token each, a column per row, (rows,).
        width: How many columns the pass can see, from the first on.
    """

    rows: slice
    columns: slice | Tensor
    width: int


class RowLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer: keys and values of shape (rows, heads, columns, head size)."""

    is_sliding = False

    def __init__(self, cache: RowCache) -> None:
        super().__init__()
        self.cache = cache
        self.clean = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = self.cache.allocate(key_states), self.cache.allocate(value_states)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store the new keys and values; returns views of all that the pass can see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place = self.cache.place
        if place.width > self.clean:
            # Columns past a row's end are masked, but a NaN left there would still spread, as 0 * NaN is NaN.
            fresh = slice(self.clean, place.width + COLUMNS_AT_ONCE)
            self.keys[:, :, fresh] = 0
            self.values[:, :, fresh] = 0
            self.clean = min(fresh.stop, self.cache.n_columns)
        keys, values = self.keys[place.rows], self.values[place.rows]
        if isinstance(place.columns, Tensor):
            row = torch.arange(len(place.columns), device=place.columns.device)
            keys[row, :, place.columns] = key_states[:, :, 0]
            values[row, :, place.columns] = value_states[:, :, 0]
        else:
            keys[:, :, place.columns] = key_states
            values[:, :, place.columns] = value_states
        return keys[:, :, : place.width], values[:, :, : place.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.place.width, 0

    def get_seq_length(self) -> int:
        return self.cache.place.width if self.is_initialized else 0

    def get_max_length(self) -> int:
        return self.cache.n_columns


class RowCache(Cache):  # type: ignore[misc]
    """The layers of a model, for `n_rows` rows of up to `n_columns` tokens.

    Args:
        windows: For each layer, how many tokens back it sees; None is all of them (`layer_windows`).
        n_rows: Rows held at once.
        n_columns: Tokens of the longest row.
        memory: Blocks left by earlier caches of the same model; two caches must not use them at once.
    """

    def __init__(self, windows: list[int | None], n_rows: int, n_columns: int, memory: Memory) -> None:
        super().__init__(layers=[RowLayer(self) for _ in windows])
        self.windows = windows
        self.n_rows = n_rows
        self.n_columns = n_columns
        self.place = Place(slice(0, 0), slice(0, 0), 0)
        self.memory = memory
        self.free: dict[tuple[int, int], list[Tensor]] = {}

    def allocate(self, states: Tensor) -> Tensor:
        """Memory for the keys or values of a layer that are like `states`, (rows, heads, tokens, head size).

        One block holds all layers of one shape, and is kept for the model's next cache: a fresh block costs a page
        fault for every 4 kB, which takes as long as several steps on a virtual machine.
        """
        heads, size = states.shape[1], states.shape[3]
        if not self.free.get((heads, size)):
            shape = (2 * len(self.layers), self.n_rows, heads, self.n_columns, size)
            kept = self.memory.pop((heads, size), states.new_empty(0))
            if kept.numel() < math.prod(shape) or (kept.dtype, kept.device) != (states.dtype, states.device):
                kept = states.new_empty(math.prod(shape))
            self.memory[heads, size] = kept
            block = kept[: math.prod(shape)].view(shape)
            self.free[heads, size] = [block[index] for index in range(len(block))]
        return self.free[heads, size].pop()

    def release(self) -> None:
        """Free all memory at once and leave none to the next cache; this cache cannot be used any more."""
        self.layers.clear()  # They refer to this cache, and would keep it until the next garbage collection.
        self.free.clear()
        self.memory.clear()

    def share(self, n_columns: int) -> None:
        """Give all rows the first columns of the first row."""
        for layer in self.layers:
            for held in (layer.keys, layer.values):
                held[1:, :, :n_columns] = held[:1, :, :n_columns]

    def clear(self, rows: slice, first_column: int) -> None:
        """Set rows to zero from a column on."""
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys[rows, :, first_column : layer.clean] = 0
                layer.values[rows, :, first_column : layer.clean] = 0

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy the rows `source` over the rows `target`."""
        for layer in self.layers:
            for held in (layer.keys[:, :, : layer.clean], layer.values[:, :, : layer.clean]):
                held[target] = held[source]

    def mask(self, positions: Tensor, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
        """The attention mask of tokens at `positions`, (rows, tokens): 0 where they see, else the lowest number.

        Returns:
            A mask that is added to attention scores, (rows, 1, tokens, columns); one for each kind of layer if a
            model has layers with and without a sliding window.
        """
        columns = torch.arange(self.place.width, device=positions.device)

        def additive(window: int | None) -> Tensor:
            seen = columns <= positions[:, :, None]
            if window is not None:
                seen &= columns > positions[:, :, None] - window
            hidden = torch.zeros(seen.shape, dtype=dtype, device=positions.device)
            return hidden.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]

        kinds = set(self.windows)
        if len(kinds) == 1:
            return additive(kinds.pop())
        return {"full_attention" if window is None else "sliding_attention": additive(window) for window in kinds}


def layer_windows(config: Any) -> list[int | None] | None:
    """For each layer, how many tokens back it sees (None: all); None if a layer keeps other states than these."""
    chunked = "chunked_attention" in (getattr(config, "layer_types", None) or ())
    local = "local" in (getattr(config, "attention_layers", None) or ())  # GPT-Neo's windows count columns backwards.
    if chunked or local or getattr(config, "alibi", False):
        return None
    windows: list[int | None] = []
    for layer in DynamicCache(config=config).layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            return None
        windows.append(layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None)
    return windows if len(set(windows) - {None}) <= 1 else None
