"""Files that were cut, mangled or made up: each is read as what it says, or refused in one line, and nothing else."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_bad_input import CURES
from test_models import save_adapter

from visage_mlflow.commands import command_line
from visage_mlflow.config import FinetuneConfig, MainConfig
from visage_mlflow.language import models, prompts
from visage_mlflow.results import Landscape, Search
from visage_mlflow.text.errors import Mistake

SAME = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
MANY, SOME = settings(max_examples=120, **SAME), settings(max_examples=15, **SAME)

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from([10**30, -1, "../../x", "\x1b[2J", "a" * 1000, [], {}, [[]], {"a": [None]}]),
)


@st.composite
def damage(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes cut, with some of them changed, or with others put in."""
    start = draw(st.integers(0, len(content)))
    kind = draw(st.sampled_from(["cut", "change", "insert", "repeat", "random"]))
    if kind == "cut":
        return content[:start]
    if kind == "random":
        return draw(st.binary(max_size=60))
    end = min(len(content), start + draw(st.integers(0, 12)))
    if kind == "repeat":
        return content[:end] + content[start:]
    new = draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\x00", b'"', b"\xff", b"{", b"\n"])))
    return content[:start] + new + (content[start:] if kind == "insert" else content[end:])


@st.composite
def with_junk(draw: st.DrawFn, content: Any) -> Any:
    """JSON with one value anywhere in it taken out or replaced."""
    changed = json.loads(json.dumps(content))
    place = changed
    while isinstance(place, dict | list) and place:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = draw(st.sampled_from(list(keys)))
        if not isinstance(place[key], dict | list) or not place[key] or draw(st.integers(0, 3)) == 0:
            if draw(st.booleans()):
                place[key] = draw(JUNK)
            else:
                del place[key]
            break
        place = place[key]
    return changed


def read_or_refused(read: Callable[[], object], name: str) -> str:
    """ "" if it could be read, else the message, after a look at its form."""
    try:
        read()
    except Mistake as mistake:
        message = str(mistake)
        assert "\n" not in message and name in message and CURES.search(message), message
        return message
    return ""


# Data


CSV = b'goal,target\n"How do I paint, and why?",First look.\nHow do I sing?,"Ask\na friend."\n'
JSONL = (
    b'{"prompt": "How do I paint?", "response": "First look."}\n\n'
    b'{"prompt": "How?", "response": "So.", "category": "a"}\n'
)


@pytest.mark.parametrize(("suffix", "content"), [("csv", CSV), ("jsonl", JSONL)], ids=["csv", "jsonl"])
def test_a_mangled_data_file_is_read_or_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"rows.{suffix}"

    @MANY
    @given(damage(content))
    def check(found: bytes) -> None:
        path.write_bytes(found)
        read = lambda: prompts.read(str(path), setting="task_data", needs_response=True)  # noqa: E731
        if not read_or_refused(read, "`task_data`"):
            for row in read():
                assert row.prompt.strip().encode() and row.response.strip().encode()
                assert row.category.encode() == row.category.encode("utf-8", "replace")

    check()


def test_rows_of_junk_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"

    @MANY
    @given(with_junk([{"prompt": "a", "response": "b", "category": "c"}] * 2))
    def check(rows: list[Any]) -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        read_or_refused(lambda: prompts.read(str(path), setting="prompts"), "`prompts`")

    check()


UNREADABLE = {
    "half a character": '{"prompt": "\\ud800"}',
    "deep": "[" * 100_000,
    "digits": '{"prompt": ' + "9" * 5000 + "}",
    "long": '{"prompt": "' + "a" * 200_000 + '"}',
    "zero": "\x00",
}


@pytest.mark.parametrize("line", UNREADABLE.values(), ids=UNREADABLE)
def test_a_row_that_no_model_can_read_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(line)
    assert read_or_refused(lambda: prompts.read(str(path), setting="prompts"), "`prompts`")


# Recipes


@pytest.mark.parametrize("name", ["paper", "quick"])
def test_a_mangled_recipe_is_read_or_refused(tmp_path: Path, name: str) -> None:
    content = (command_line.RECIPES / f"{name}.yaml").read_bytes()
    config_class = FinetuneConfig if name == "paper" else MainConfig
    path = tmp_path / "recipe.yaml"

    def check(found: bytes) -> None:
        path.write_bytes(found)
        read_or_refused(lambda: command_line.parse(config_class, ["--config", str(path)]), "")

    (MANY if name == "paper" else SOME)(given(damage(content))(check))()
    settings_of = yaml.safe_load(content)
    SOME(given(with_junk(settings_of))(lambda found: check(yaml.safe_dump(found).encode())))()


def test_a_recipe_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("[" * 1200)
    assert read_or_refused(lambda: command_line.parse(FinetuneConfig, ["--config", str(path)]), "`config`")


# Results


@pytest.mark.parametrize(("kind", "result"), [(Landscape, made.plane_landscape()), (Search, made.search())])
def test_a_mangled_result_is_read_or_refused(tmp_path: Path, kind: Any, result: Any) -> None:
    path = tmp_path / "result.json"

    def check(found: bytes) -> None:
        path.write_bytes(found)
        read_or_refused(lambda: kind.load(path), "result.json")

    MANY(given(damage(result.to_json().encode()))(check))()
    MANY(given(with_junk(json.loads(result.to_json())))(lambda found: check(json.dumps(found).encode())))()


# Models


@pytest.fixture
def copy(base_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(base_folder, tmp_path / "copy")


@pytest.fixture
def adapter(base_folder: Path, tmp_path: Path) -> Iterator[Path]:
    yield save_adapter(base_folder, tmp_path / "adapter")


def mangled(path: Path, folder: Path, profile: Any) -> None:
    """Load the folder with the file damaged in several ways."""
    content = path.read_bytes()

    def check(found: bytes) -> None:
        path.write_bytes(found)
        read_or_refused(lambda: models.load(str(folder), dtype="float32"), "`model`")

    profile(given(damage(content))(check))()
    if path.suffix == ".json":
        profile(given(with_junk(json.loads(content)))(lambda found: check(json.dumps(found).encode())))()


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "chat_template.jinja"]
)
def test_a_model_with_a_mangled_file_is_loaded_or_refused(copy: Path, name: str) -> None:
    mangled(copy / name, copy, SOME)


def test_a_model_with_mangled_weights_is_loaded_or_refused(copy: Path) -> None:
    path = copy / "model.safetensors"
    content, rng = path.read_bytes(), random.Random(0)
    for _ in range(20):
        found = bytearray(content)
        for _ in range(3):  # In the header, where names, kinds, shapes and offsets are.
            found[rng.randrange(2500)] = rng.randrange(256)
        path.write_bytes(bytes(found[: rng.choice([7, 8, 100, len(found) - 1, len(found)])]))
        read_or_refused(lambda: models.load(str(copy), dtype="float32"), "`model`")


def test_a_model_whose_weights_have_other_shapes_or_kinds_is_refused(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    for other in (weights[name][:3], weights[name].T.contiguous(), weights[name].flatten()):
        save_file({**weights, name: other}, copy / "model.safetensors", metadata={"format": "pt"})
        assert read_or_refused(lambda: models.load(str(copy), dtype="float32"), "`model`")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_with_a_mangled_file_is_loaded_or_refused(adapter: Path, name: str) -> None:
    mangled(adapter / name, adapter, SOME)
