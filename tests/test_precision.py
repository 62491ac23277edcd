"""Points are where their axis says, also of models stored in bfloat16 whose moves are shorter than its precision."""

import dataclasses

import pytest
import torch
from moved import copy_of

from visage_mlflow.config import LandscapeConfig, MeasureConfig, VisageConfig
from visage_mlflow.geometry.directions import Difference, RandomDirection, seed_of
from visage_mlflow.geometry.identity import Weights, definition
from visage_mlflow.language import models
from visage_mlflow.measuring.measure import Held, Measurer
from visage_mlflow.studies import landscape, visage
from visage_mlflow.studies.margin import find_edge
from visage_mlflow.studies.precision import FINETUNING, Moves, taking, taking_small_moves
from visage_mlflow.studies.spans import End

BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def native_bfloat16(monkeypatch):
    """A processor on which `auto` is bfloat16, as most are."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})


@pytest.fixture(scope="module")
def stored(chat, tmp_path_factory):
    """The folder of the aligned model, stored in bfloat16 as most models are."""
    folder = tmp_path_factory.mktemp("stored")
    model = models.load_weights(chat.uri)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(BF16).float()
    model.save_pretrained(folder)
    chat.tokenizer.save_pretrained(folder)
    return folder


def moved(weights, length, seed=0):
    """Weights a share `length` of their norm away from others, as after a short finetuning."""
    generator = torch.Generator().manual_seed(seed)
    ends = {}
    for name, weight in weights.items():
        noise = torch.randn(weight.shape, generator=generator)
        ends[name] = weight + length * weight.norm() / noise.norm() * noise
    return Weights(ends)


def saved(weights, folder, path):
    """A model's folder with other weights, in float32."""
    model = models.load_weights(str(folder))
    for name, parameter in model.named_parameters():
        parameter.data = weights[name].clone()
    model.save_pretrained(path)
    models.load_tokenizer(str(folder)).save_pretrained(path)
    return str(path)


def line(folder, sets, **settings):
    """An interpolation of five points, and the model that it starts from."""
    config = LandscapeConfig(
        **{
            **{"model": str(folder), "plane": "1d-interpolation", "to": "end", "n_points": 5, "workers": 2},
            **{"prompts": str(sets / "harmful_eval.jsonl"), "n_prompts": 6, "max_new_tokens": 8, "store": "off"},
            **settings,
        }
    )
    return config, models.load(config.model, dtype=config.dtype)


def test_a_line_shorter_than_bfloat16_can_tell_is_measured_in_float32(stored, sets, capsys):
    config, chat = line(stored, sets)
    before = copy_of(chat.model)
    assert chat.model.dtype == BF16
    found, _ = landscape.measure(chat, config, ends=[End("end", moved(chat.weights, 2.5e-3))])
    assert found.axes[0].realised == pytest.approx(1, abs=0.001) and found.setup.dtype == "float32"
    assert found.metrics()["realised"] == found.axes[0].realised
    assert "computes in float32 here: bfloat16 would realise 0." in capsys.readouterr().err
    # Afterwards the model computes in its own dtype again, with its own weights.
    assert all(torch.equal(weight, before[name]) for name, weight in copy_of(chat.model).items())


def test_a_demanded_bfloat16_is_kept_recorded_and_warned_of(stored, sets, capsys):
    config, chat = line(stored, sets, dtype="bfloat16")
    found, _ = landscape.measure(chat, config, ends=[End("end", moved(chat.weights, 2.5e-3))])
    assert found.axes[0].realised < 0.9 and found.setup.dtype == "bfloat16"
    (warning,) = [text for text in capsys.readouterr().err.splitlines() if "warning" in text]
    assert f"realises {found.axes[0].realised:.2f} of a move" in warning and "dtype=auto" in warning


def test_a_random_line_stays_in_bfloat16(stored, sets, capsys):
    config, chat = line(stored, sets, plane="1d-random", to="")
    found, _ = landscape.measure(chat, config)
    assert found.setup.dtype == "bfloat16" and found.axes[0].realised == pytest.approx(1, abs=0.02)
    assert capsys.readouterr().err == ""


def test_directions_that_are_scored_together_are_measured_in_one_dtype(stored, sets):
    """Of three, bfloat16 leaves just enough of the first and too little of the second."""

    class AtTheBorder(Measurer):
        def realised(self, chat, directions, steps, dtype):
            defined = [definition(RandomDirection(seed_of(0, number)), chat.weights) for number in range(3)]
            share = [0.985, 0.97, 1.0][defined.index(definition(directions[0], chat.weights))]
            return [share if dtype == BF16 else 1.0] * len(steps)

    asking = {"prompts": str(sets / "harmful_eval.jsonl"), "n_prompts": 6, "max_new_tokens": 8, "store": "off"}
    config = VisageConfig(model=str(stored), n_points=3, extent=0.5, workers=1, **asking)
    result = visage.measure(models.load(config.model), config, measurer=AtTheBorder(config))
    assert [one.setup.dtype for one in result.landscapes] == ["float32"] * 3


def test_every_point_of_a_short_line_holds_the_model_where_it_says(stored):
    """What the model computes with is compared with base + step * (end - base), weight by weight."""
    chat = models.load(str(stored))
    end = moved(chat.weights, 2.5e-3)
    steps = [0.1, 0.25, 0.5, 0.75, 1.0, 1.5]
    moves = [Moves([Difference(end)], [(step,) for step in steps])]
    with taking([chat], "auto", moves, Measurer(MeasureConfig(store="off"))):
        for step in steps:
            with Held([Difference(end)], (step,)).by(chat):
                for name, parameter in chat.model.named_parameters():
                    wanted = chat.weights[name].double() + step * (end[name].double() - chat.weights[name].double())
                    torch.testing.assert_close(parameter.double(), wanted, rtol=1e-7, atol=0)


def test_an_edge_is_looked_for_in_float32_where_bfloat16_would_move_it(stored, monkeypatch, sets):
    config, chat = line(stored, sets)
    end = moved(chat.weights, 1e-3)
    dtypes = set()

    class Watching(Measurer):
        def __call__(self, chat, held, rows, attack):
            dtypes.add(chat.model.dtype)
            return super().__call__(chat, held, rows, attack)

    rows = landscape.harmful_rows(config)
    find_edge(chat, Difference(end), rows, config, Watching(config), up_to=2.0)
    assert dtypes == {torch.float32} and chat.model.dtype == BF16


def test_a_short_finetuning_kept_in_float32_is_loaded_so(stored, tmp_path, capsys):
    near = moved(models.load(str(stored)).weights, 2e-3)
    folder = saved(near, stored, tmp_path / "finetuned")
    capsys.readouterr()
    assert models.load(folder).model.dtype == torch.float32
    assert "computes in float32: bfloat16 would undo" in capsys.readouterr().err
    assert models.load(folder, dtype="bfloat16").model.dtype == BF16
    assert "warning: dtype=bfloat16 undoes" in capsys.readouterr().err


def test_models_stored_in_bfloat16_or_trained_in_float32_are_loaded_in_bfloat16(stored, aligned_folder, capsys):
    assert models.load(str(stored)).model.dtype == models.load(str(aligned_folder)).model.dtype == BF16
    assert capsys.readouterr().err == ""


def test_checkpoints_of_a_model_stored_in_bfloat16_are_measured_in_float32(stored, aligned_folder):
    chat = models.load(str(stored))
    with taking_small_moves(chat, "auto"):
        assert chat.model.dtype == torch.float32
    assert chat.model.dtype == BF16
    with taking_small_moves(chat, "bfloat16"):
        assert chat.model.dtype == BF16
    anywhere = models.load(str(aligned_folder))
    with taking_small_moves(anywhere, "auto"):
        assert anywhere.model.dtype == BF16


def test_copies_of_a_model_compute_in_the_same_dtype_and_return_after_an_error(stored):
    chat = models.load(str(stored))
    copy = dataclasses.replace(chat, model=models.load(str(stored)).model)
    moves = [Moves([Difference(moved(chat.weights, FINETUNING))], [(1.0,)])]
    with pytest.raises(KeyboardInterrupt), taking([chat, copy], "auto", moves, Measurer(MeasureConfig(store="off"))):
        assert chat.model.dtype == copy.model.dtype == torch.float32
        raise KeyboardInterrupt
    assert chat.model.dtype == copy.model.dtype == BF16
    for one in (chat, copy):
        assert all(torch.equal(p, chat.weights[name].to(BF16)) for name, p in one.model.named_parameters())
