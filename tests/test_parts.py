"""Norm layers, experts and towers are told by the classes of a model's modules, whatever their names."""

import pytest
import torch
from families import GEMMA, PICTURES, WRAPPERS, made, wrapper
from moved import bitwise, copy_of
from torch import nn

from visage_mlflow.geometry.directions import (
    Combination,
    Difference,
    Materialized,
    RandomDirection,
    gram,
    inner,
    norm,
)
from visage_mlflow.geometry.identity import Weights, definition, digest, displaced
from visage_mlflow.geometry.parts import Part, part_by_name, parts_of
from visage_mlflow.geometry.perturb import perturbed
from visage_mlflow.geometry.plane import Plane
from visage_mlflow.geometry.rounding import realised

BOTH = ("weight", "bias")
# Of each family the norm layers of one layer and those beside the layers, and which parameters they have.
LLAMA = ({"input_layernorm", "post_attention_layernorm"}, {"model.norm"}, ("weight",))
HEADS = {"self_attn.q_norm", "self_attn.k_norm"}
AROUND = {"pre_feedforward_layernorm", "post_feedforward_layernorm"}
NORMS = {
    "llama": ("model.layers", *LLAMA),
    "qwen2": ("model.layers", *LLAMA),
    "mistral": ("model.layers", *LLAMA),
    "phi3": ("model.layers", *LLAMA),
    "smollm3": ("model.layers", *LLAMA),
    "granite": ("model.layers", *LLAMA),
    "mixtral": ("model.layers", *LLAMA),
    "gpt_oss": ("model.layers", *LLAMA),
    "qwen3": ("model.layers", LLAMA[0] | HEADS, *LLAMA[1:]),
    "gemma2": ("model.layers", LLAMA[0] | AROUND, *LLAMA[1:]),
    "gemma3_text": ("model.layers", LLAMA[0] | AROUND | HEADS, *LLAMA[1:]),
    "olmo": ("model.layers", set(), set(), ()),  # Its norm layers have no parameters.
    "olmo2": (
        "model.layers",
        {"post_attention_layernorm", "post_feedforward_layernorm"} | HEADS,
        {"model.norm"},
        ("weight",),
    ),
    "cohere": ("model.layers", {"input_layernorm"} | HEADS, {"model.norm"}, ("weight",)),
    "phi": (
        "model.layers",
        {"input_layernorm", "self_attn.q_layernorm", "self_attn.k_layernorm"},
        {"model.final_layernorm"},
        BOTH,
    ),
    "gpt2": ("transformer.h", {"ln_1", "ln_2"}, {"transformer.ln_f"}, BOTH),
    "bloom": (
        "transformer.h",
        {"input_layernorm", "post_attention_layernorm"},
        {"transformer.word_embeddings_layernorm", "transformer.ln_f"},
        BOTH,
    ),
    "mpt": ("transformer.blocks", {"norm_1", "norm_2"}, {"transformer.norm_f"}, ("weight",)),
    "gpt_neox": (
        "gpt_neox.layers",
        {"input_layernorm", "post_attention_layernorm"},
        {"gpt_neox.final_layer_norm"},
        BOTH,
    ),
    "opt": (
        "model.decoder.layers",
        {"self_attn_layer_norm", "final_layer_norm"},
        {"model.decoder.final_layer_norm"},
        BOTH,
    ),
}
SETTINGS = {
    "gemma2": {"head_dim": 4},
    "gemma3_text": {"head_dim": 4},
    "qwen3": {"head_dim": 4},
    "phi": {"qk_layernorm": True},
    "cohere": {"use_qk_norm": True},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 4},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 16, "n_layers": 2, "n_heads": 4},
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": 16},
    "mixtral": {"num_local_experts": 3},
    "gpt_oss": {"num_local_experts": 3, "head_dim": 4},
    "llama4_text": {"num_local_experts": 3, "intermediate_size_mlp": 24, "head_dim": 4},
    "qwen3_moe": {"num_experts": 3, "moe_intermediate_size": 12, "num_experts_per_tok": 2},
}


def tiny_model(kind):
    return made(kind, **SETTINGS.get(kind, {}))


class Oddly(nn.Module):
    """Norm layers that no name gives away, and a matrix whose name says that it is one."""

    def __init__(self):
        super().__init__()
        self.norm_projection = nn.Linear(6, 6)
        self.scale = nn.LayerNorm(6)
        self.groups = nn.GroupNorm(2, 6)
        self.steady = nn.BatchNorm1d(6)
        self.root = nn.RMSNorm(6)
        self.own = type("OwnRMSNormGated", (nn.Linear,), {})(6, 6)
        for parameter in self.parameters():
            nn.init.normal_(parameter, mean=1)


# Norm layers


@pytest.mark.parametrize("kind", NORMS)
def test_the_norm_layers_of_a_family_stand_still_and_all_else_moves(kind):
    layers, inside, beside, names = NORMS[kind]
    modules = {f"{layers}.{number}.{each}" for number in (0, 1) for each in inside} | beside
    expected = {f"{module}.{name}" for module in modules for name in names}
    model = tiny_model(kind)
    before = copy_of(model)
    for weights in (None, Weights.of(model)):
        held = None if weights is None else Weights({n: t.clone() for n, t in weights.items()}, weights.parts)
        for direction in (RandomDirection(seed=1), RandomDirection(seed=1, norm="row")):
            with perturbed(model, [direction], [0.2], weights=held):
                still = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
            assert still == expected
            assert bitwise(copy_of(model), before)


@pytest.mark.parametrize("kind", NORMS)
def test_the_usual_names_tell_the_same_where_there_are_no_classes(kind):
    model = tiny_model(kind)
    for name, part in parts_of(model).items():
        assert part_by_name(name, model.get_parameter(name)).is_norm == part.is_norm
        assert bool(RandomDirection().delta(name, model.get_parameter(name)).any()) != part.is_norm


def test_the_class_decides_against_the_name():
    model = Oddly()
    before = copy_of(model)
    with perturbed(model, [RandomDirection()], [0.1]):
        moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {"norm_projection.weight", "norm_projection.bias"}
    assert bitwise(copy_of(model), before)


def test_every_way_to_use_a_direction_knows_the_parts_of_the_weights():
    weights = Weights.of(Oddly())
    direction, other = RandomDirection(seed=1), RandomDirection(seed=2)
    moving = ("norm_projection.weight", "norm_projection.bias")
    # Each tensor's noise is as long as the tensor.
    length = sum(float(weights[name].double().square().sum()) for name in moving)
    kept = Materialized(direction, weights)
    assert inner(weights, direction, direction) == pytest.approx(length, rel=1e-6)
    assert inner(weights, kept, kept) == inner(weights, direction, direction)
    half = Combination([(0.5, direction)])
    assert norm(weights, half) == pytest.approx(0.5 * length**0.5, rel=1e-6)
    assert gram(weights, [direction, half])[0, 1] == pytest.approx(0.5 * length, rel=1e-6)
    explicit = RandomDirection(seed=1, parts=weights.parts)
    assert inner(dict(weights), explicit, explicit) == inner(weights, direction, direction)
    end = {name: weight + 0.25 * explicit.displacement(name, weight) for name, weight in weights.items()}
    placed = Plane(weights, direction, other).project(end)
    assert (placed.x, placed.y) == pytest.approx((0.25, 0.0), abs=1e-6)
    assert placed.off_plane_share == pytest.approx(0.0, abs=1e-6)
    # Were the norm layers thought to move, their ends, which are none of 1e30, would drown the rest.
    huge = Weights({n: w if n in moving else 1e30 * w for n, w in weights.items()}, weights.parts)
    assert realised(huge, [direction], [(0.3,)], torch.float16)[0] == pytest.approx(1.0, abs=0.01)


def test_another_set_of_norm_layers_makes_another_place():
    model = Oddly()
    weights = Weights.of(model)
    direction = RandomDirection(seed=3)
    others = [
        {**weights.parts, "root.weight": Part()},
        {**weights.parts, "norm_projection.bias": Part(is_norm=True)},
        {**weights.parts, "norm_projection.weight": Part(output=1)},
        {**weights.parts, "norm_projection.weight": Part(experts=6)},
        None,
    ]
    held = [weights, *(Weights(weights, parts) for parts in others)]
    assert len({digest(each) for each in held}) == 1
    assert len({str(displaced(each, [direction], [0.1])) for each in held}) == len(held)
    assert displaced(Weights.of(model), [direction], [0.1]) == displaced(weights, [direction], [0.1])
    # Where names and classes tell the same, it is one place.
    usual = Weights.of(tiny_model("qwen3_moe"))
    assert displaced(dict(usual), [direction], [0.1]) == displaced(usual, [direction], [0.1])
    # Nothing else depends on what the parameters are.
    assert len({str(displaced(each, [Difference(held[0])], [0.1])) for each in held}) == 1
    for each in held:
        kept, explicit = Materialized(direction, each), RandomDirection(seed=3, parts=each.parts)
        assert definition(kept, weights) == definition(explicit, each) == definition(direction, each)


# Experts and output rows

# Kind of model -> its experts' matrices, and whether these are stored as (experts, input, output).
FUSED = {
    "mixtral": ("model.layers.0.mlp.experts", False),
    "qwen3_moe": ("model.layers.0.mlp.experts", False),
    "gpt_oss": ("model.layers.0.mlp.experts", True),
    "llama4_text": ("model.layers.0.feed_forward.experts", True),
}


@pytest.mark.parametrize("kind", FUSED)
def test_each_expert_is_scaled_to_its_own_norm(kind):
    module, is_transposed = FUSED[kind]
    model = tiny_model(kind)
    own = dict(model.get_submodule(module).named_parameters())
    for tensor in own.values():  # Experts of very different size.
        tensor.data *= torch.tensor([1e-3, 1.0, 1e3]).view(3, *[1] * (tensor.ndim - 1))
    weights = Weights.of(model)
    bound = RandomDirection(seed=4).among(weights.parts)
    assert len(own) == (4 if kind == "gpt_oss" else 2)
    for last in own:
        weight = weights[f"{module}.{last}"]
        delta = bound.displacement(f"{module}.{last}", weight)
        assert weight.shape[0] == 3
        for expert in range(3):
            expected = float(weight[expert].double().norm())
            assert float(delta[expert].norm()) == pytest.approx(expected, rel=1e-6)
        # By the name alone, too.
        assert torch.equal(RandomDirection(seed=4).displacement(f"{module}.{last}", weight), delta)


@pytest.mark.parametrize("kind", FUSED)
def test_each_output_row_of_each_expert_is_scaled_to_its_own_norm(kind):
    module, is_transposed = FUSED[kind]
    model = tiny_model(kind)
    weights = Weights.of(model)
    bound = RandomDirection(seed=4, norm="row").among(weights.parts)
    inputs = {"gate_up_proj": 16, "down_proj": 12 if kind == "qwen3_moe" else 24}
    for last, n_inputs in inputs.items():
        weight = weights[f"{module}.{last}"]
        delta = bound.displacement(f"{module}.{last}", weight)
        dim = 1 if is_transposed else 2  # Along the inputs.
        assert weight.shape[dim] == n_inputs
        torch.testing.assert_close(delta.norm(dim=dim), weight.double().norm(dim=dim), rtol=1e-6, atol=0)
    if kind == "gpt_oss":
        name = f"{module}.gate_up_proj_bias"
        delta = bound.displacement(name, weights[name])
        torch.testing.assert_close(delta.norm(dim=1), weights[name].double().norm(dim=1), rtol=1e-6, atol=0)


def test_stacked_experts_move_as_tensors_of_their_own_would():
    weight = (
        torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1, 1e3])[:, None, None]
    )
    for norm_, output in (("layer", 0), ("row", 0), ("row", 1)):
        parts = {"w": Part(experts=3, output=output)}
        ((_, noise),) = RandomDirection(seed=5).among({"w": Part()}).terms("w", weight)
        together = RandomDirection(seed=5, norm=norm_, parts=parts).displacement("w", weight)
        for expert in range(3):
            # The slow way: the expert's own noise, scaled as a whole or row by row.
            own, drawn = weight[expert].double(), noise[expert].double()
            if norm_ == "layer":
                expected = drawn * own.norm() / drawn.norm()
            else:
                dim = 1 - output
                expected = drawn * own.norm(dim=dim, keepdim=True) / drawn.norm(dim=dim, keepdim=True)
            torch.testing.assert_close(together[expert], expected, rtol=1e-6, atol=0)


def test_one_expert_is_a_stack_too():
    weight = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(0))
    for output, dim in ((0, 2), (1, 1)):
        bound = RandomDirection(norm="row", parts={"w": Part(experts=1, output=output)})
        torch.testing.assert_close(
            bound.displacement("w", weight).norm(dim=dim), weight.double().norm(dim=dim), rtol=1e-6, atol=0
        )


def test_an_expert_of_zeros_stays_zero_among_others():
    weight = torch.ones(3, 4, 2)
    weight[1] = 0
    delta = RandomDirection(parts={"w": Part(experts=3)}).delta("w", weight)
    assert not delta[1].any() and delta[0].all() and delta[2].all()


def test_experts_that_are_modules_of_their_own_are_not_taken_for_a_stack():
    assert part_by_name("model.layers.0.mlp.experts.1.up_proj.weight", torch.ones(3, 4)) == Part()
    assert part_by_name("model.layers.0.mlp.experts.gate_up_proj", torch.ones(3, 4, 2)) == Part(experts=3)
    assert part_by_name("model.layers.0.mlp.experts.gate_up_proj_bias", torch.ones(3, 4)) == Part(experts=3)
    assert part_by_name("model.layers.0.mlp.router.weight", torch.ones(3, 4)) == Part()


def test_the_matrices_of_dbrx_are_stacked_one_below_the_other():
    from transformers.models.dbrx.modeling_dbrx import DbrxExpertGLU

    config = type("Config", (), {"hidden_size": 4, "ffn_hidden_size": 6, "moe_num_experts": 3, "ffn_act_fn": {}})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        glu = DbrxExpertGLU(config)
        for parameter in glu.parameters():
            nn.init.normal_(parameter)
    weights = Weights.of(glu)
    for norm_ in ("layer", "row"):
        bound = RandomDirection(norm=norm_).among(weights.parts)
        for name, dim in (("w1", 2), ("v1", 2), ("w2", 1)):  # Along the inputs of each expert's matrix.
            found, own = (
                each.view(3, 6, 4).double() for each in (bound.displacement(name, weights[name]), weights[name])
            )
            dims = (1, 2) if norm_ == "layer" else dim
            torch.testing.assert_close(found.norm(dim=dims), own.norm(dim=dims), rtol=1e-6, atol=0)


def test_the_output_rows_of_gpt2_are_its_columns():
    weights = Weights.of(tiny_model("gpt2"))
    bound = RandomDirection(norm="row").among(weights.parts)
    name = "transformer.h.0.mlp.c_fc.weight"  # From 16 numbers to 64.
    assert weights[name].shape == (16, 64)
    delta = bound.displacement(name, weights[name])
    torch.testing.assert_close(delta.norm(dim=0), weights[name].double().norm(dim=0), rtol=1e-6, atol=0)
    # Rows of the embedding are tokens all the same.
    table = weights["transformer.wte.weight"]
    delta = bound.displacement("transformer.wte.weight", table)
    torch.testing.assert_close(delta.norm(dim=1), table.double().norm(dim=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm_", ["layer", "row"])
def test_a_materialized_direction_of_experts_is_the_drawn_one_bit_for_bit(norm_):
    model = tiny_model("gpt_oss")
    weights = Weights.of(model)
    drawn = RandomDirection(seed=2, norm=norm_)
    kept = Materialized(drawn, weights)
    before, found = copy_of(model), []
    for direction in (drawn, kept):
        with perturbed(model, [direction], [0.2]):
            found.append(copy_of(model))
        assert bitwise(copy_of(model), before)
    assert bitwise(*found) and not bitwise(found[0], before)
    assert displaced(weights, [kept], [0.2]) == displaced(weights, [drawn], [0.2])


# Towers


def outside(model):
    """What does not count."""
    return {name: parameter for name, parameter in model.named_parameters() if name not in parts_of(model)}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_what_does_not_count_reaches_no_text_and_all_else_does(kind):
    model, tokens = wrapper(kind), torch.tensor([[3, 4, 5, 6]])
    before, others = model(tokens).logits, outside(model)
    before.square().sum().backward()
    assert others and {name for name, parameter in model.named_parameters() if parameter.grad is None} == set(others)
    for parameter in others.values():
        nn.init.constant_(parameter, float("nan"))
    assert torch.isfinite(before).all() and torch.equal(model(tokens).logits, before)


@pytest.mark.parametrize("kind", WRAPPERS)
def test_towers_neither_move_nor_count(kind):
    model, end = wrapper(kind), wrapper(kind)
    weights, before, others = Weights.of(model), copy_of(model), outside(model)
    assert set(weights) == set(before) - set(others)
    for parameter in end.parameters():
        parameter.data += 1.0
    direction, difference = RandomDirection(seed=1), Difference(Weights.of(end))
    held = Weights({name: weight.clone() for name, weight in weights.items()}, weights.parts)
    for stored in (None, held):
        with perturbed(model, [direction, difference], [0.2, 0.5], weights=stored):
            moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
        assert moved == set(weights)
        assert bitwise(copy_of(model), before)
    # Every number that counts lies 1 away, up to the rounding of float32.
    n = sum(weight.numel() for weight in weights.values())
    assert norm(weights, difference) == pytest.approx(n**0.5, rel=1e-5)
    difference.check(weights)
    place = displaced(weights, [direction], [0.1])
    for parameter in others.values():
        parameter.data.zero_()
    assert Weights.of(model).digest == weights.digest and displaced(Weights.of(model), [direction], [0.1]) == place


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "modernbert-decoder", "roberta"])
def test_of_a_model_that_reads_only_text_every_parameter_counts(kind):
    model = made(kind, **{"roberta": {"is_decoder": True}}.get(kind, SETTINGS.get(kind, {})))
    assert list(parts_of(model)) == [name for name, _ in model.named_parameters()]


def test_a_decoder_taken_out_of_its_wrapper_counts_as_a_whole():
    for kind, more in (("llama4", SETTINGS["llama4_text"]), ("mllama", {"cross_attention_layers": [1]})):
        text = {**GEMMA, **more}
        model = made(kind, text_config=text, vision_config=PICTURES)
        assert type(model).__name__.endswith("ForCausalLM") and set(parts_of(model)) == set(copy_of(model))
