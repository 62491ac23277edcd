"""What cannot span a plane is refused in one line that names the models and the cure, and the model is left alone."""

import math

import pytest
import torch
from moved import on_the_way
from transformers import LlamaForCausalLM

from visage_mlflow.config import LandscapeConfig
from visage_mlflow.language import models
from visage_mlflow.studies import landscape, spans
from visage_mlflow.studies.spans import End

N_ENDS = {"1d-interpolation": 1, "2d-interpolation": 2, "2d-interpolation-random": 1, "2d-pca": 3}
NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def others(chat, base):
    """Two sound models beside the base."""
    return [on_the_way(chat, base, 0.4, 0.5), on_the_way(chat, base, 0.8, -0.2)]


def config_of(plane, sets, **settings):
    to = ",".join(f"end-{index}" for index in range(N_ENDS.get(plane, 0)))
    return LandscapeConfig(plane=plane, to=to, n_points=5, prompts=str(sets / "harmful_eval.jsonl"), n_prompts=2)


@pytest.fixture
def refusal(chat, sets, monkeypatch):
    """A function that measures a plane through models, none of which may be asked anything: the error's message."""

    def measure(plane, weights, raises=ValueError):
        before = {name: parameter.detach().clone() for name, parameter in chat.model.named_parameters()}
        monkeypatch.setattr(landscape, "attack", lambda *args: pytest.fail("nothing may be asked"))
        ends = [End(f"end-{index}", each) for index, each in enumerate(weights)]
        with pytest.raises(raises) as caught:
            landscape.measure(chat, config_of(plane, sets), ends=ends)
        assert all(torch.equal(parameter, before[name]) for name, parameter in chat.model.named_parameters())
        message = str(caught.value)
        assert "\n" not in message and message.endswith("."), message
        return message

    return measure


def spoiled(base, others, plane, change):
    """The ends of a plane, the last one changed."""
    ends = [base.weights, *others][: N_ENDS[plane]]
    changed = {name: weight.clone() for name, weight in ends[-1].items()}
    change(changed)
    return [*ends[:-1], changed], f"`to` is 'end-{len(ends) - 1}'"


def lacks(weights):
    del weights[NAME]


def has_more(weights):
    weights["lm_head.weight"] = torch.zeros(2, 2)


def has_another_shape(weights):
    weights[NAME] = weights[NAME].t().contiguous()


def set_to(value):
    def change(weights):
        weights["model.norm.weight"][0] = value

    return change


@pytest.mark.parametrize("plane", N_ENDS)
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lacks, f"1 missing from the end weights ({NAME})"),
        (has_more, "1 only in the end weights (lm_head.weight)"),
        (has_another_shape, f"of another shape ({NAME} ("),
        (set_to(math.nan), "with NaN or infinity in the end weights (model.norm.weight)"),
        (set_to(-math.inf), "with NaN or infinity in the end weights (model.norm.weight)"),
    ],
    ids=["missing", "extra", "shape", "nan", "infinity"],
)
def test_a_model_that_does_not_fit_is_refused_with_its_name_and_the_tensors(
    chat, base, others, refusal, plane, change, what
):
    ends, named = spoiled(base, others, plane, change)
    message = refusal(plane, ends)
    assert message.startswith(named) and repr(chat.uri) in message and what in message
    assert message.endswith("Both sides must be sound checkpoints of the same architecture.")


def test_a_model_of_another_size_is_refused(chat, refusal):
    config = type(chat.model.config)(**{**chat.model.config.to_dict(), "hidden_size": 32, "head_dim": 8})
    message = refusal("1d-interpolation", [dict(LlamaForCausalLM(config).named_parameters())])
    assert "of another shape" in message and "same architecture" in message


def test_a_model_whose_own_weights_are_not_finite_is_refused(base, others, sets, aligned_folder):
    broken = models.load(str(aligned_folder), dtype="float32")
    broken.weights["model.norm.weight"][0] = math.nan
    for plane, n_ends in N_ENDS.items():
        ends = [End(f"end-{index}", each) for index, each in enumerate([base.weights, *others][:n_ends])]
        with pytest.raises(ValueError, match=r"with NaN or infinity in the start weights \(model.norm.weight\)"):
            spans.span(broken, plane, config_of(plane, sets), ends)
    broken.weights[NAME][0] = math.inf
    for plane in ("1d-random", "2d-random"):
        with pytest.raises(ValueError, match=f"^Tensor `{NAME}` holds NaN or infinity"):
            spans.span(broken, plane, config_of(plane, sets))


@pytest.mark.parametrize("plane", N_ENDS)
def test_a_direction_from_a_model_to_itself_is_refused(chat, base, others, refusal, plane):
    same = {name: weight.clone() for name, weight in chat.weights.items()}
    ends = [*[base.weights, *others][: N_ENDS[plane] - 1], same]
    message = refusal(plane, ends)
    assert message.startswith(f"`to` is 'end-{len(ends) - 1}', which has the same weights as {chat.uri!r}")
    assert message.endswith("Give two models that differ.")


def exactly_on_the_way(chat, base, share):
    """Weights at a share of the way, in float64, so that no rounding moves them off the line."""
    way = {name: base.weights[name].double() - weight.double() for name, weight in chat.weights.items()}
    return {name: weight.double() + share * way[name] for name, weight in chat.weights.items()}


@pytest.mark.parametrize("share", [1.0, 0.5, -2.0])
def test_two_parallel_directions_are_refused_with_both_names(chat, base, refusal, share):
    message = refusal("2d-interpolation", [base.weights, exactly_on_the_way(chat, base, share)])
    assert message.startswith("plane=2d-interpolation:") and "parallel" in message
    assert "'end-0' and 'end-1'" in message and repr(chat.uri) in message
    assert message.endswith("Give models that differ, or use plane=1d-interpolation.")


@pytest.mark.parametrize("size", [1.0, 0.1, 0.01])
def test_two_directions_that_only_float32_rounding_keeps_apart_are_refused(chat, base, refusal, size):
    # As finetuning does, the models differ by a small share of their weights; both are stored in float32.
    ends = [on_the_way(chat, base, share * size) for share in (1.0, 0.6)]
    assert "parallel" in refusal("2d-interpolation", ends)


def test_checkpoints_on_one_line_have_no_plane_of_components(chat, base, refusal):
    message = refusal("2d-pca", [exactly_on_the_way(chat, base, share) for share in (0.2, 0.5, 1.0)])
    assert message.startswith("plane=2d-pca of end-0, end-1, end-2:") and "span only 1 dimensions" in message
    assert "Use models that differ." in message


@pytest.mark.parametrize("size", [1.0, 0.1, 0.01])
def test_checkpoints_that_only_float32_rounding_moves_off_a_line_have_no_plane_of_components(
    chat, base, refusal, size
):
    ends = [on_the_way(chat, base, share * size) for share in (1.0, 0.6, 0.3)]
    assert "span only 1 dimensions" in refusal("2d-pca", ends)


def test_the_same_checkpoint_three_times_has_no_plane_of_components(base, refusal):
    assert "span only 1 dimensions" in refusal("2d-pca", [base.weights] * 3)


@pytest.mark.parametrize(
    ("plane", "n_ends"),
    [("1d-interpolation", 0), ("1d-interpolation", 2), ("2d-interpolation", 1), ("2d-interpolation", 3)]
    + [("2d-interpolation-random", 0), ("2d-interpolation-random", 2), ("1d-random", 1), ("2d-random", 1)],
)
def test_a_wrong_number_of_models_is_refused(base, others, refusal, plane, n_ends):
    message = refusal(plane, [base.weights, *others][:n_ends])
    assert message.startswith(f"plane={plane} is spanned by ") and f"got {n_ends}" in message
    assert message.endswith("Check `to`.")


@pytest.mark.parametrize("n_ends", [0, 1, 2])
def test_fewer_than_three_checkpoints_have_no_plane_of_components(base, others, refusal, n_ends):
    message = refusal("2d-pca", [base.weights, *others][:n_ends])
    assert message.startswith("plane=2d-pca needs at least 3 checkpoints") and f"got {n_ends}" in message
    assert "`to`" in message  # Where to give more.


def test_how_an_error_introduces_a_model_can_be_said(chat, sets):
    end = End("models:/m-1", dict(chat.weights), named="A checkpoint is")
    with pytest.raises(ValueError, match="^A checkpoint is 'models:/m-1', which has the same weights as"):
        spans.span(chat, "1d-interpolation", config_of("1d-interpolation", sets), [end])
