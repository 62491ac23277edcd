"""Packed weights: the same products, and nothing left behind."""

import pytest
import torch
from test_decoding import PROMPTS, chats, responses, untrained
from torch import nn

from visage_mlflow.language.packing import can_pack, packed

needs_kernels = pytest.mark.skipif(
    not can_pack(torch.zeros(1, dtype=torch.bfloat16)), reason="This build of torch has no packed bfloat16 products."
)


def linear(n_in=64, n_out=96, *, bias=True, dtype=torch.bfloat16):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(n_in, n_out, bias=bias).to(dtype)


def tokens(*shape, dtype=torch.bfloat16):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@needs_kernels
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(64, 96), (576, 1536), (3, 5), (64, 1)])
@pytest.mark.parametrize("shape", [(1,), (7,), (80,), (1, 1), (80, 1), (3, 7), (0,)])
@torch.inference_mode()
def test_products_are_the_same_to_the_last_bit(bias, sizes, shape):
    layer, fed = linear(*sizes, bias=bias), tokens(*shape, sizes[0])
    outside = layer(fed)
    with packed(layer):
        inside = layer(fed)
    assert inside.dtype == torch.bfloat16 and torch.equal(inside, outside) and inside.shape == (*shape, sizes[1])


@needs_kernels
@torch.inference_mode()
def test_what_is_not_finite_stays_in_its_row():
    layer, fed = linear(), tokens(80, 64)
    fed[3, 5], fed[7, 0] = float("nan"), float("inf")
    with packed(layer):
        inside = layer(fed)
    assert inside.isnan()[3].all() and not inside[7].isfinite().any()
    kept = [row for row in range(80) if row not in (3, 7)]
    assert torch.equal(inside[kept], layer(fed)[kept])


@needs_kernels
@pytest.mark.parametrize("family", ["llama", "tied", "gpt-neox"])
@torch.inference_mode()
def test_a_models_logits_are_the_same_to_the_last_bit(family):
    """80 rows of 3 tokens. Tied weights serve as an embedding, too, which packing leaves as it is."""
    model = untrained(family).to(torch.bfloat16)
    ids = torch.randint(model.config.vocab_size, (80, 3), generator=torch.Generator().manual_seed(2))
    logits, embedded = model(ids).logits, model.get_input_embeddings()(ids)
    with packed(model):
        assert "forward" in model.get_output_embeddings().__dict__
        assert torch.equal(model(ids).logits, logits)
        assert torch.equal(model.get_input_embeddings()(ids), embedded)
    assert torch.equal(model(ids).logits, logits)


@needs_kernels
def test_the_weights_of_before_are_in_use_inside_and_those_of_now_afterwards():
    """The copy is taken once: what is written to the weights inside shows only outside."""
    layer, fed = linear(bias=False), tokens(80, 64)
    with torch.inference_mode():
        before = layer(fed)
    with packed(layer), torch.inference_mode():
        layer.weight.zero_()
        assert torch.equal(layer(fed), before)
    assert not layer(fed).any()


def forwards(model):
    return [name for name, module in model.named_modules() if "forward" in module.__dict__]


@needs_kernels
def test_linear_layers_and_no_others_are_packed_and_put_back():
    class Scaled(nn.Linear):
        """What only derives from a linear layer may multiply in another way."""

    model = nn.Sequential(linear(), nn.ReLU(), nn.LayerNorm(96), Scaled(96, 4), nn.Sequential(linear(4, 4)))
    model = model.to(torch.bfloat16)
    with packed(model):
        assert forwards(model) == ["0", "4.0"]
    assert forwards(model) == []


@needs_kernels
def test_layers_are_put_back_after_an_error():
    model = nn.Sequential(linear(), linear(96, 8))
    with pytest.raises(RuntimeError, match="out of memory"), packed(model):
        assert forwards(model) == ["0", "1"]
        raise RuntimeError("out of memory")
    assert forwards(model) == []


@needs_kernels
def test_layers_are_put_back_after_an_error_in_packing(monkeypatch):
    """The first layer is packed when the second one fails."""
    model, packings = nn.Sequential(linear(), linear(96, 8)), []

    def reorder(weight, batch_size):
        packings.append(forwards(model))
        if len(packings) == 2:
            raise RuntimeError("out of memory")
        return weight

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", reorder)
    with pytest.raises(RuntimeError, match="out of memory"), packed(model):
        pass
    assert packings == [[], ["0"]] and forwards(model) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_models_of_other_dtypes_are_left_alone(dtype):
    layer = linear(dtype=dtype)
    assert not can_pack(layer.weight)
    with packed(layer):
        assert forwards(layer) == []


def test_weights_elsewhere_than_on_the_processor_are_left_alone():
    assert not can_pack(torch.zeros(1, dtype=torch.bfloat16, device="meta"))


def test_without_kernels_no_weight_is_packed(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    layer = linear()
    with packed(layer):
        assert forwards(layer) == []


@needs_kernels
@torch.inference_mode()
def test_hooks_still_see_a_packed_layers_output():
    layer, outputs = linear(), []
    layer.register_forward_hook(lambda module, args, output: outputs.append(output))
    with packed(layer):
        product = layer(tokens(7, 64))
    assert outputs[0] is product


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "tied", "gpt-neox", "gemma3"])
def test_lean_decoding_gives_the_same_texts(family, dtype):
    model, asked = untrained(family).to(dtype), chats(PROMPTS)
    texts = responses(model, asked, lean=True, batch_size=3)
    assert responses(model, asked, lean=False, batch_size=3) == texts and len(set(texts)) == len(PROMPTS)
