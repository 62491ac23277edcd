"""A model that shares embedding and head, beside one that was finetuned from it and does not."""

import dataclasses

import pytest
import torch
from moved import bitwise, copy_of
from peft import LoraConfig
from stand_in import StandIn, responses_of
from test_adapters import save_adapter

from visage_mlflow.config import LandscapeConfig, ProjectConfig
from visage_mlflow.geometry.directions import Difference
from visage_mlflow.geometry.identity import Weights
from visage_mlflow.geometry.perturb import perturbed
from visage_mlflow.language import models
from visage_mlflow.language.prompts import Row
from visage_mlflow.language.tying import alike
from visage_mlflow.studies import landscape, trajectory
from visage_mlflow.studies.spans import End
from visage_mlflow.studies.trajectory import CheckpointWeights, Finetuned

ROWS = [Row(f"prompt {index}") for index in range(4)]
IDS = torch.arange(5, 30)[None]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
CONFIGS = {
    "LoRA on the embedding": LoraConfig(target_modules=["embed_tokens", "q_proj"]),
    "head saved whole": LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]),
}


@pytest.fixture(scope="module", params=CONFIGS)
def untied(request, base_folder, tmp_path_factory):
    """A finetuning of the tied model in which the head is another matrix than the embedding."""
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    return models.load_weights(str(save_adapter(base_folder, folder, CONFIGS[request.param])))


def weights_of(model):
    return Weights((name, parameter.detach()) for name, parameter in model.named_parameters())


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


def watching(seen):
    """A measurer that notes the logits at each place, by the steps."""

    def answer(chat, held, rows, ask):
        with perturbed(chat.model, held.directions, held.steps, chat.weights):
            seen[tuple(held.steps)] = logits(chat.model)
        return responses_of(rows, 0.0)

    return StandIn(answer=answer)


def test_the_line_from_a_tied_model_to_an_untied_one_begins_and_ends_at_them_exactly(base, untied, capsys):
    before, seen, end = copy_of(base.model), {}, weights_of(untied)
    config = LandscapeConfig(plane="1d-interpolation", to="end", n_points=5, extra=0, dtype="float32", workers=1)
    result, _ = landscape.measure(base, config, rows=ROWS, ends=[End("end", end)], measurer=watching(seen))
    assert torch.equal(seen[(0.0,)], logits(base.model)) and torch.equal(seen[(1.0,)], logits(untied))
    half = {name: (end[name] + base.weights.get(name, base.weights[EMBEDDING])) / 2 for name in end}
    with perturbed(untied, [Difference(half)], [1.0]):
        assert torch.allclose(seen[(0.5,)], logits(untied), atol=1e-4)
    assert result.marks[0].x == pytest.approx(1)
    assert bitwise(copy_of(base.model), before) and base.model.lm_head.weight is base.model.model.embed_tokens.weight
    assert HEAD not in base.weights and "one matrix more here" in capsys.readouterr().err


def test_the_line_from_an_untied_model_to_the_tied_one_ends_at_it_exactly(base, untied, capsys):
    chat, seen = dataclasses.replace(base, model=untied, weights=weights_of(untied)), {}
    config = LandscapeConfig(plane="1d-interpolation", to="end", n_points=5, extra=0, dtype="float32", workers=1)
    landscape.measure(chat, config, rows=ROWS, ends=[End("end", base.weights)], measurer=watching(seen))
    assert torch.equal(seen[(0.0,)], logits(untied)) and torch.equal(seen[(1.0,)], logits(base.model))
    assert capsys.readouterr().err == ""  # It has no matrix more than it had.


def test_checkpoints_of_both_kinds_lie_where_they_were_put(base, untied):
    """Half way and all the way to the untied end; and a tied one, whose head moves with its embedding."""
    end = weights_of(untied)
    whole = {name: base.weights.get(name, base.weights[EMBEDDING]) for name in end}
    half = Weights({name: (whole[name] + end[name]) / 2 for name in end})
    generator = torch.Generator().manual_seed(5)
    aside = Weights(base.weights)
    aside[EMBEDDING] = aside[EMBEDDING] + 0.01 * torch.randn(aside[EMBEDDING].shape, generator=generator)
    checkpoints = [CheckpointWeights(str(step), step, each) for step, each in enumerate([aside, half, end], 1)]
    config = ProjectConfig(run="run", n_points=5, workers=1, margin_up_to=0, dtype="float32")
    seen = {}
    result, _ = trajectory.measure(
        base, [Finetuned("one", tuple(checkpoints))], config, rows=ROWS, measurer=watching(seen)
    )
    places = result.courses[0].places
    assert [place.x for place in places[1:]] == pytest.approx([0.5, 1.0], abs=1e-4)
    assert [place.off_plane_share for place in places[1:]] == pytest.approx([0, 0], abs=1e-3)
    # Twice the squares of what moved, once for each side; and the norm counts the shared matrix twice, too.
    moved = 2 * float((aside[EMBEDDING] - base.weights[EMBEDDING]).double().square().sum())
    norm = sum(float(weight.double().square().sum()) for weight in whole.values())
    assert places[0].distance == pytest.approx((moved / norm) ** 0.5, rel=1e-4)


def test_models_of_the_same_names_are_left_as_they_are(base, chat):
    with alike(base, [chat.weights]) as (same, others):
        assert same is base and others[0] is chat.weights


def test_the_shared_matrix_is_shared_again_after_an_error(base, untied):
    with pytest.raises(RuntimeError), alike(base, [weights_of(untied)]) as (apart, _):
        assert apart.model.lm_head.weight is not apart.model.model.embed_tokens.weight
        raise RuntimeError("out of memory")
    assert base.model.lm_head.weight is base.model.model.embed_tokens.weight


def test_a_model_that_lacks_more_than_a_head_does_not_fit(base, untied):
    end = weights_of(untied)
    del end["model.layers.1.mlp.up_proj.weight"]
    config = LandscapeConfig(plane="1d-interpolation", to="end", n_points=5, workers=1)
    with pytest.raises(ValueError, match="missing from the end weights .model.layers.1.mlp.up_proj.weight"):
        landscape.measure(base, config, rows=ROWS, ends=[End("end", end)], measurer=watching({}))
