"""The cache of rows: what each token sees, and what memory holds, worked out by hand on tiny shapes."""

import gc
import math
import weakref

import pytest
import torch
import transformers

from visage_mlflow.decoding.cache import COLUMNS_AT_ONCE, Place, RowCache, layer_windows

HEADS, SIZE = 1, 2
LOWEST = torch.finfo(torch.float32).min


def cache_of(n_rows=3, n_columns=6, windows=(None,), memory=None):
    return RowCache(list(windows), n_rows, n_columns, {} if memory is None else memory)


def states(*rows):
    """Keys of one head of size 2 whose numbers are all the token's: (rows, 1, tokens, 2)."""
    return torch.tensor(rows, dtype=torch.float32)[:, None, :, None].expand(-1, HEADS, -1, SIZE).clone()


def write(cache, place, *rows, layer=0):
    """One pass of a layer; values are the negatives of the keys."""
    cache.place = place
    keys, values = cache.update(states(*rows), -states(*rows), layer)
    assert torch.equal(values, -keys)
    return keys[:, 0, :, 0].tolist()


def held(cache, width, layer=0):
    """What the rows' first columns hold."""
    keys, values = cache.layers[layer].keys, cache.layers[layer].values
    assert torch.equal(values[:, :, :width], -keys[:, :, :width])
    return keys[:, 0, :width, 0].tolist()


def seen(mask):
    """1 where a token sees a column: (rows, tokens, columns)."""
    assert mask.shape[1] == 1 and set(mask.flatten().tolist()) <= {0.0, LOWEST}
    return (mask[:, 0] == 0).int().tolist()


@pytest.fixture
def filled():
    """Three rows of three tokens."""
    cache = cache_of()
    write(cache, Place(slice(0, 3), slice(0, 3), 3), [1, 2, 3], [4, 5, 6], [7, 8, 9])
    return cache


# What a token sees


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (None, [[[1, 1, 0, 0]], [[1, 1, 1, 1]]]),
        # Two columns, the token's own included.
        (2, [[[1, 1, 0, 0]], [[0, 0, 1, 1]]]),
        (1, [[[0, 1, 0, 0]], [[0, 0, 0, 1]]]),
        (9, [[[1, 1, 0, 0]], [[1, 1, 1, 1]]]),
    ],
)
def test_a_token_sees_the_columns_up_to_its_position(window, expected):
    """Two rows with one token each, at positions 1 and 3."""
    cache = cache_of(windows=[window] * 2)
    cache.place = Place(slice(0, 2), torch.tensor([1, 3]), 4)
    assert seen(cache.mask(torch.tensor([[1], [3]]), torch.float32)) == expected


def test_tokens_fed_together_do_not_see_those_after_them():
    """Positions 1 and 2 after a prefix of one token."""
    positions = torch.tensor([[1, 2]])
    for window, expected in ((None, [[[1, 1, 0], [1, 1, 1]]]), (2, [[[1, 1, 0], [0, 1, 1]]])):
        cache = cache_of(windows=[window])
        cache.place = Place(slice(0, 1), slice(1, 3), 3)
        assert seen(cache.mask(positions, torch.float32)) == expected


def test_layers_with_and_without_a_window_get_a_mask_each():
    cache = cache_of(windows=[2, None, 2])
    cache.place = Place(slice(0, 1), torch.tensor([2]), 3)
    masks = cache.mask(torch.tensor([[2]]), torch.float32)
    assert {kind: seen(mask) for kind, mask in masks.items()} == {
        "full_attention": [[[1, 1, 1]]],
        "sliding_attention": [[[0, 1, 1]]],
    }


def test_what_is_hidden_has_the_lowest_number_of_the_dtype():
    cache = cache_of()
    cache.place = Place(slice(0, 1), torch.tensor([0]), 2)
    mask = cache.mask(torch.tensor([[0]]), torch.bfloat16)
    assert mask.dtype == torch.bfloat16
    assert mask.tolist() == [[[[0.0, torch.finfo(torch.bfloat16).min]]]]


# What memory holds


def test_a_pass_gets_its_rows_first_columns():
    cache = cache_of()
    assert write(cache, Place(slice(0, 1), slice(0, 2), 2), [1, 2]) == [[1, 2]]
    assert write(cache, Place(slice(1, 3), slice(0, 2), 2), [3, 4], [5, 6]) == [[3, 4], [5, 6]]
    assert write(cache, Place(slice(0, 2), slice(2, 3), 3), [7], [8]) == [[1, 2, 7], [3, 4, 8]]


def test_a_token_stands_in_the_column_that_is_its_position(filled):
    """Row 0 goes on at column 1, over what padded it, and row 1 at column 3."""
    assert write(filled, Place(slice(0, 2), torch.tensor([1, 3]), 4), [10], [11]) == [[1, 10, 3, 0], [4, 5, 6, 11]]
    assert held(filled, 4)[2] == [7, 8, 9, 0]


def test_layers_do_not_share_memory():
    cache = cache_of(n_rows=1, windows=[None, None])
    place = Place(slice(0, 1), slice(0, 2), 2)
    write(cache, place, [1, 2], layer=0)
    write(cache, place, [3, 4], layer=1)
    assert (held(cache, 2, 0), held(cache, 2, 1)) == ([[1, 2]], [[3, 4]])


def test_share_gives_all_rows_the_first_rows_prefix():
    cache = cache_of()
    write(cache, Place(slice(0, 1), slice(0, 2), 2), [1, 2])
    cache.share(2)
    assert held(cache, 3) == [[1, 2, 0]] * 3


def test_clear_forgets_what_some_rows_hold_from_a_column_on(filled):
    filled.clear(slice(1, 3), 1)
    assert held(filled, 3) == [[1, 2, 3], [4, 0, 0], [7, 0, 0]]


def test_clear_before_any_pass_does_nothing():
    cache = cache_of()
    cache.clear(slice(0, 3), 0)
    assert not cache.layers[0].is_initialized


def test_move_puts_rows_in_the_places_of_others(filled):
    filled.move(torch.tensor([2]), torch.tensor([0]))
    assert held(filled, 3) == [[7, 8, 9], [4, 5, 6], [7, 8, 9]]
    filled.move(torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long))
    assert held(filled, 3) == [[7, 8, 9], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize("n_columns", [COLUMNS_AT_ONCE + 8, 3 * COLUMNS_AT_ONCE])
def test_columns_past_a_rows_end_are_zero_even_where_memory_held_nan(n_columns):
    """One row is fed at every column in turn, the other one stays at column 0."""
    memory = {(HEADS, SIZE): torch.full((2 * 2 * n_columns * SIZE,), math.nan)}
    cache = cache_of(n_rows=2, n_columns=n_columns, memory=memory)
    for column in range(n_columns):
        place = Place(slice(0, 2), torch.tensor([column, 0]), column + 1)
        rows = write(cache, place, [column + 1], [5])
        assert rows == [list(range(1, column + 2)), [5] + [0] * column]


def test_columns_that_no_pass_came_near_are_not_touched():
    """A pass that sees 2 columns clears 32 more."""
    n_columns = 2 * COLUMNS_AT_ONCE
    memory = {(HEADS, SIZE): torch.full((2 * n_columns * SIZE,), math.nan)}
    cache = cache_of(n_rows=1, n_columns=n_columns, memory=memory)
    write(cache, Place(slice(0, 1), slice(0, 2), 2), [1, 2])
    assert cache.layers[0].keys.isnan()[0, 0, :, 0].tolist() == [False] * 34 + [True] * 30


def storage(memory, n_rows, dtype=torch.float32):
    cache = cache_of(n_rows=n_rows, windows=[None, None], memory=memory)
    cache.place = Place(slice(0, 1), slice(0, 1), 1)
    for layer in range(2):
        cache.update(states([1]).to(dtype), states([1]).to(dtype), layer)
    held = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    assert all(tensor.shape == (n_rows, HEADS, 6, SIZE) and tensor.dtype == dtype for tensor in held)
    (block,) = {tensor.untyped_storage().data_ptr() for tensor in held}
    assert len({tensor.data_ptr() for tensor in held}) == 4
    return block


def test_the_next_cache_takes_over_memory_that_is_large_enough():
    memory = {}
    first = storage(memory, 3)
    assert storage(memory, 3) == first and storage(memory, 2) == first
    assert list(memory) == [(HEADS, SIZE)] and memory[HEADS, SIZE].numel() == 4 * 3 * 6 * SIZE
    storage(memory, 4)
    assert memory[HEADS, SIZE].numel() == 4 * 4 * 6 * SIZE
    storage(memory, 1, torch.bfloat16)
    assert memory[HEADS, SIZE].numel() == 4 * 1 * 6 * SIZE and memory[HEADS, SIZE].dtype == torch.bfloat16


# Which layers have a window


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (transformers.LlamaConfig(num_hidden_layers=3), [None] * 3),
        (transformers.MistralConfig(num_hidden_layers=2, sliding_window=5), [5, 5]),
        (transformers.MistralConfig(num_hidden_layers=2, sliding_window=None), [None, None]),
        # Every third layer sees everything.
        (
            transformers.Gemma3TextConfig(num_hidden_layers=4, sliding_window=7, sliding_window_pattern=3),
            [7, 7, None, 7],
        ),
        (transformers.FalconConfig(num_hidden_layers=2), [None, None]),
    ],
)
def test_the_windows_of_layers_that_keep_keys_and_values(config, expected):
    assert layer_windows(config) == expected


@pytest.mark.parametrize(
    "config",
    [
        transformers.Llama4TextConfig(num_hidden_layers=4, attention_chunk_size=8),
        transformers.FalconConfig(num_hidden_layers=2, alibi=True),
        transformers.MambaConfig(num_hidden_layers=2),
        # Layers 1 and 3 are convolutions.
        transformers.Lfm2Config(num_hidden_layers=4, full_attn_idxs=[0, 2]),
    ],
    ids=["chunked", "alibi", "mamba", "lfm2"],
)
def test_layers_that_keep_anything_else_have_no_windows(config):
    assert layer_windows(config) is None


def test_released_memory_is_free_at_once_and_not_kept_for_the_next_cache():
    memory = {}
    cache = cache_of(memory=memory)
    write(cache, Place(slice(0, 3), slice(0, 3), 3), [1, 2, 3], [4, 5, 6], [7, 8, 9])
    watched = weakref.ref(next(iter(memory.values())))
    gc.disable()  # Nothing may have to wait for it.
    try:
        cache.release()
        assert memory == {} and watched() is None
    finally:
        gc.enable()
