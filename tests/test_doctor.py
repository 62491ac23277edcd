"""The doctor tells what can be measured on a model from its files alone."""

import json
import subprocess
import sys

import mlflow
import pytest
from chat_families import FAMILIES, save
from peft import LoraConfig
from test_adapters import edit, save_adapter
from test_stored import no_reading  # noqa: F401

from visage_mlflow.commands.doctor import examine
from visage_mlflow.commands.terminal import main
from visage_mlflow.language import models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A function that gives a family's folder."""
    made = {}

    def get(name):
        made.setdefault(name, None)
        made[name] = made[name] or save(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


def told(uri, **settings):
    return {one.what: one.said for one in examine(uri, **settings)}


def test_a_row_of_the_table_is_told_without_reading_weights(folder, no_reading):  # noqa: F811
    found = told(folder("qwen3"))
    assert found["encode"] == "exact; the context window holds 512 tokens"
    assert found["end"] == "<|endoftext|>, <|im_end|>" and found["system"] == "may be given"
    assert found["template"] == "takes enable_thinking" and "`template={enable_thinking: false}`" in found["thinking"]
    assert found["likelihood"] == r"exact; of an answer, 'Yes.<|im_end|>' is scored after '<think>\n\n</think>\n\n'"
    assert found["tied"].startswith("yes") and "copies of their own" in found["adapters"]
    assert "9 tensors of normalization layers do not" in found["landscape"]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_can_be_examined(folder, name):
    findings = examine(folder(name))
    assert [one.what for one in findings] == [
        *("encode", "end", "system", "thinking", "template", "likelihood", "train"),
        *("tied", "adapters", "landscape", "decode"),
    ]
    assert not any(one.is_refused for one in findings)
    assert FAMILIES[name].end in findings[1].said and "\n" not in "".join(one.said for one in findings)
    assert ("refused" in findings[2].said) == (not FAMILIES[name].has_system)
    assert ("experts one by one (4 in a tensor)" in findings[9].said) == (name == "gpt-oss")


def test_what_is_refused_is_said_and_the_rest_is_told_as_well(folder, capsys):
    place = folder("gemma2")
    capsys.readouterr()
    assert main(["doctor", place, "--system_prompt", "Be brief."]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == folder("gemma2") and lines[1].split()[:3] == ["encode", "refused:", "`system_prompt`"]
    assert any(line.split()[0] == "landscape" for line in lines[1:])
    assert main(["doctor", folder("gemma2")]) == 0


def test_arguments_of_the_template_can_be_tried(folder, capsys):
    found = told(folder("qwen3"), template="{enable_thinking: false}")
    assert found["likelihood"] == "exact; of an answer, 'Yes.<|im_end|>' is scored"
    capsys.readouterr()
    for wrong in ("{thinks: 1}", "[1]", "{a: ", "x"):
        assert main(["doctor", folder("qwen3"), "--template", wrong]) == 2
        out, err = capsys.readouterr()
        assert "`template`" in out + err and len(err.splitlines()) <= 1


def test_weights_that_are_none_of_the_models_are_told(folder, tmp_path):
    place = save("llama2", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    found = examine(place)
    assert [one.what for one in found if one.is_refused] == ["weights"]
    assert "tensors that a model of its config.json does not use" in found[-1].said


def test_an_adapter_is_told_as_it_will_be_merged(folder, tmp_path):
    """One on the embedding of a tied model gives it one matrix more."""
    base = folder("llama3.2")
    adapter = save_adapter(base, tmp_path / "adapter", LoraConfig(target_modules=["embed_tokens"]))
    found, merged, plain = told(str(adapter)), models.load_weights(str(adapter)), told(base)
    assert found["tied"] == "no" and plain["tied"].startswith("yes")
    assert found["landscape"].startswith(f"{merged.num_parameters() - 160:,} weights move")  # The norms' do not.
    edit(adapter / "adapter_config.json", target_modules=["q_proj"])
    assert [one.what for one in examine(str(adapter)) if one.is_refused] == ["weights"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["doctr"], "invalid choice: 'doctr'"),
        (["doctor"], "the following arguments are required: model"),
        (["doctor", "m", "--sytem_prompt", "x"], "unrecognized arguments: --sytem_prompt x"),
    ],
)
def test_flags_that_are_none_are_one_line(flags, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main(flags)
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == "" and said in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(("base", "said"), [("./nowhere", "does not exist"), ("itself", "is no adapter")])
def test_a_base_below_no_adapter_is_refused(folder, base, said, capsys):
    place = folder("llama2")
    capsys.readouterr()
    assert main(["doctor", place, "--base", place if base == "itself" else base]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: `base` is ") and said in err


def test_no_model_is_one_line_and_no_table(capsys):
    assert main(["doctor", "./nowhere"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "a folder that does not exist" in err


def test_a_server_that_is_away_is_one_line_without_its_password(client, capsys, monkeypatch):
    mlflow.set_tracking_uri("http://ann:vinegar@127.0.0.1:9")  # Nothing listens there.
    monkeypatch.setenv("VISAGE_WAIT", "0")
    assert main(["doctor", "runs:/0123/checkpoint-4"]) == 3
    out, err = capsys.readouterr()
    assert out == "" and "does not answer" in err and "vinegar" not in err and "Traceback" not in err


def test_it_runs_as_a_module(folder):
    command = [sys.executable, "-m", "visage_mlflow", "doctor", folder("llama2")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "context window holds 512 tokens" in done.stdout and done.stderr == ""
