"""Models' folders are closed in themselves: no path in them or to them leads elsewhere, and nothing is a pickle."""

import ast
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_models import refusal, save_adapter

from visage_mlflow.language import models
from visage_mlflow.language.folders import point_adapter_at
from visage_mlflow.language.models import load
from visage_mlflow.language.uris import check_uri

ROOT = Path(__file__).parent.parent
FILES = [path for wing in ("visage_mlflow", "experiments") for path in sorted((ROOT / wing).rglob("*.py"))]
NEVER_IMPORTED = {"pickle", "cPickle", "_pickle", "shelve", "marshal", "joblib", "dill", "cloudpickle"}


# Tracked URIs


@pytest.mark.parametrize(
    "uri",
    [
        "runs:/0123/../../etc/passwd",
        "runs:/../0123/model",
        "runs:/0123/a/../b",
        "runs:/0123/..",
        "runs:/0123/%2e%2e/x",
        "runs:/0123/%2E%2e%2fx",
        "runs:/0123/%252e%252e/x",
        "runs:/0123/..%2f..%2fetc",
        "runs:/0123/..\\x",
        "runs:/0123/a%5c..%5cb",
        "runs:/0123//etc/passwd",
        "runs:/0123/%2fetc/passwd",
        "runs://server/0123/model",
        "runs:/",
        "runs:/0123/a\x00b",
        "runs:/0123/a%00b",
        "runs:/0123/a\nb",
        "runs:/0123/./a",
        "runs:/0123/a?b=c",
        "runs:/0123/a#b",
        "models:/chat/../other",
        "models:/../chat@champion",
        "models:/%2e%2e/1",
        "models:/",
        "models:/m-0123/..",
    ],
)
def test_a_tracked_uri_whose_path_could_leave_its_run_is_refused_before_anything_is_fetched(uri):
    assert repr(uri) in (message := refusal(check_uri, uri)) and "may lead to other files" in message
    refusal(load, uri, fetch=lambda uri: pytest.fail("fetched"))


@pytest.mark.parametrize(
    "uri",
    [
        "runs:/0123456789abcdef0123456789abcdef/checkpoint-40",
        "runs:/0123/a/b/c",
        "runs:/0123",
        "runs:/0123/",
        "runs:/0123/a..b",
        "runs:/0123/with space",
        "models:/chat@champion",
        "models:/chat/1",
        "models:/my chat.v2/3",
        "models:/m-0123456789abcdef0123456789abcdef",
    ],
)
def test_other_tracked_uris_pass(uri):
    check_uri(uri)


@pytest.mark.parametrize("uri", ["org/..", "a..b/c", "~nobody-has-this-name/x", "a\x00b", "a" * 5000, "a/" * 3000])
def test_what_can_be_no_path_and_no_hub_id_is_refused(uri):
    assert "Check the spelling" in refusal(check_uri, uri)


# Links


@pytest.mark.parametrize("target", ["/etc/hostname", "../outside", "sub/../../outside"])
def test_a_link_that_leads_out_of_a_fetched_folder_is_refused(copy, tmp_path, target):
    (tmp_path / "outside").write_text("secret")
    (copy / "sub").mkdir()
    os.symlink(target, copy / "notes.txt")
    message = refusal(load, "runs:/0123/model", fetch=lambda uri: copy)
    assert "'notes.txt' is a link to a file outside of it" in message


def test_a_linked_folder_is_refused_and_links_inside_are_not(copy, tmp_path):
    os.symlink("config.json", copy / "again.json")
    load("runs:/0123/model", fetch=lambda uri: copy)
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", copy / "sub")
    assert "'sub' is a link" in refusal(load, "runs:/0123/model", fetch=lambda uri: copy)


def test_a_folder_of_ones_own_may_hold_links_as_the_hubs_cache_does(copy, tmp_path):
    (copy / "model.safetensors").rename(tmp_path / "blob")
    os.symlink(tmp_path / "blob", copy / "model.safetensors")
    load(str(copy))


# Files named in files


def indexed(copy, place):
    """The model's weights under another path, and an index that says so."""
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    target = copy / place
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, target, metadata={"format": "pt"})
    if not list(copy.glob("*.safetensors")):
        save_file({"nothing": torch.zeros(1)}, copy / "decoy.safetensors", metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {name: str(place) for name in weights}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("place", ["../outside.safetensors", "sub/shard.safetensors", "ABSOLUTE"])
def test_an_index_that_names_weights_elsewhere_is_refused_though_transformers_reads_them(copy, tmp_path, place):
    place = str(tmp_path / "far.safetensors") if place == "ABSOLUTE" else place
    indexed(copy, place)
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(copy, use_safetensors=True)  # Or this check would guard nothing.
    message = refusal(load, str(copy))
    assert repr(place) in message and "model.safetensors.index.json" in message


def test_an_index_of_shards_in_the_folder_is_read(copy):
    indexed(copy, "model-00001-of-00001.safetensors")
    load(str(copy))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a.pt", "a.safetensors/../b.bin", "", 3, None, ["a"]])
def test_an_index_or_config_that_names_something_else_for_weights_is_refused(copy, name):
    index = {"metadata": {}, "weight_map": {"a": name}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.safetensors.index.json names" in refusal(check_uri, str(copy))
    (copy / "model.safetensors.index.json").unlink()
    if name is not None:
        path = copy / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"transformers_weights": name}))
        assert "config.json names" in refusal(check_uri, str(copy))


@pytest.mark.parametrize("content", ["[]", "{", "", '"text"', "[" * 100_000, '{"weight_map": 3}', "\ufeff{}"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_damaged_file_of_a_folder_is_named(copy, name, content):
    (copy / name).write_text(content)
    if not (name == "config.json" and content.startswith('{"')):
        assert name in refusal(check_uri, str(copy))


# Adapters


def based(adapter, base):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))
    return adapter


@pytest.mark.parametrize("base", ["../base", "a/../../b", "..", "..\\base", "runs:/0123/../x", "/a/../b"])
def test_an_adapter_whose_base_leads_upwards_is_refused(base_folder, tmp_path, base):
    adapter = based(save_adapter(base_folder, tmp_path / "adapter"), base)
    message = refusal(load, str(adapter), fetch=lambda uri: pytest.fail("fetched"))
    assert repr(base) in message and "lead anywhere" in message


@pytest.mark.parametrize("base", [3, ["a"], {}, "", None])
def test_an_adapter_whose_base_is_no_text_is_refused(base_folder, tmp_path, base):
    assert "names no base model" in refusal(load, str(based(save_adapter(base_folder, tmp_path / "adapter"), base)))


def test_adapters_that_name_each_other_are_refused(base_folder, tmp_path):
    one, other = (save_adapter(base_folder, tmp_path / name) for name in ("one", "other"))
    based(one, str(other)), based(other, str(one))
    for call in (models.load_weights, models.load_tokenizer):
        assert "on more than 8 others" in refusal(call, str(one))


def test_an_adapter_whose_weights_are_missing_is_refused(base_folder, tmp_path):
    adapter = save_adapter(base_folder, tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    gone = sorted(weights)[3]
    del weights[gone]
    save_file(weights, adapter / "adapter_model.safetensors")
    assert f"lacks 1 weights ({gone}, …)" in refusal(load, str(adapter))


def test_training_writes_a_way_up_to_its_base_as_a_whole_path(base_folder, tmp_path, monkeypatch):
    adapter = save_adapter(base_folder, tmp_path / "adapter")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    os.symlink(base_folder, tmp_path / "base")
    point_adapter_at(adapter, "../base")
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base_folder)
    load(str(adapter))
    point_adapter_at(adapter, "org/name")
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/name"


# Pickles and code


def test_no_code_of_ours_reads_pickles_or_trusts_code():
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.partition(".")[0] for alias in node.names}
                names |= {(node.module or "").partition(".")[0]} if isinstance(node, ast.ImportFrom) else set()
                assert not names & NEVER_IMPORTED, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("torch.load", "np.load", "numpy.load", "eval", "exec", "yaml.load"), path
                assert not called.endswith("read_pickle"), path
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("trust_remote_code", "False") == "False", path
                assert given.get("allow_pickle", "False") == "False", path
                assert given.get("shell", "False") == "False", path


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.pkl", "model.ckpt"])
def test_a_folder_with_nothing_but_a_pickle_is_refused_and_the_pickle_stays_closed(copy, tmp_path, name):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save(Bomb(), copy / name)
    (copy / "model.safetensors").unlink()
    assert "never pickles" in refusal(load, str(copy))
    (copy / "model.safetensors").write_bytes(b"no weights")
    assert "could not be loaded" in refusal(load, str(copy))
    assert not (tmp_path / "ran").exists()


def test_a_data_sets_own_code_is_not_run(tmp_path):
    from visage_mlflow.language import prompts

    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "set.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ValueError, match="^`prompts` is .*, which must be a .csv or .jsonl file"):
        prompts.read(str(folder), setting="prompts")
    with pytest.raises(ValueError, match="could not be loaded"):  # As the library answers to a hub id of such a set.
        prompts.read_hub(str(folder), "train")
    with pytest.raises(ValueError, match="could not be loaded"):
        prompts.read_hub(str(folder / "set.py"), "train")
    assert not (tmp_path / "ran").exists()


def test_a_data_set_of_pickles_is_not_opened(tmp_path):
    import datasets

    frame = tmp_path / "rows.pkl"
    frame.write_bytes(b"\x80\x04.")
    with pytest.raises(Exception, match="(?i)pickle"):
        datasets.load_dataset("pandas", data_files=str(frame), cache_dir=str(tmp_path))


@pytest.mark.parametrize(
    "place", ["https://host/rows", "../rows", "a/b/c", "zip://x::y", "a b/c", "a/../b", "s3://b/k"]
)
def test_a_source_that_is_no_file_and_no_hub_id_is_refused_without_asking_the_hub(place):
    from visage_mlflow.language import prompts

    with pytest.raises(ValueError, match="^`prompts` is .*no hub id. Check the spelling"):
        prompts.read(place, setting="prompts")
