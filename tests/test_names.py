"""Bytes in names of files that are not UTF-8: called what they are, wherever such a name is given or met."""

import os
import shutil

import pytest
from peft import LoraConfig
from small import save_small
from test_adapters import edit, save_adapter

from visage_mlflow.commands.command_line import parse, run
from visage_mlflow.config import EvaluateConfig, FinetuneConfig
from visage_mlflow.language.models import load_weights
from visage_mlflow.text.errors import Mistake
from visage_mlflow.tracking import runs

E_ACUTE = os.fsdecode(b"caf\xe9")
"""As Latin-1 writes it."""


@pytest.mark.parametrize("setting", ["model", "prompts", "store", "config", "n_prompts", "debug"])
@pytest.mark.parametrize("form", ["--{}={}", "--{} {}"])
def test_a_flag_with_an_undecodable_byte_names_it_and_its_cure(setting, form):
    with pytest.raises(Mistake) as caught:
        parse(EvaluateConfig, form.format(setting, f"/models/{E_ACUTE}").split(" "))
    said = str(caught.value)
    assert said.startswith(f"`{setting}` is '/models/caf\\xe9', a name with the undecodable byte 0xe9")
    assert "Rename the file or folder" in said and "control character" not in said


def test_a_flag_whose_own_name_cannot_be_decoded_is_refused():
    with pytest.raises(Mistake, match=r"A flag is '--caf\\xe9'"):
        parse(EvaluateConfig, [f"--{E_ACUTE}=3"])


def test_a_config_made_in_python_refuses_it_too():
    with pytest.raises(Mistake, match="`output_dir` is .*undecodable byte 0xe9"):
        FinetuneConfig(output_dir=f"/models/{E_ACUTE}")


@pytest.mark.parametrize("setting", ["model", "base"])
def test_a_model_that_python_asks_for_refuses_it_too(tmp_path, setting):
    save_adapter(save_small(tmp_path / "base"), tmp_path / "adapter", LoraConfig(target_modules=["q_proj"]))
    asked = {"model": (E_ACUTE, ""), "base": (str(tmp_path / "adapter"), E_ACUTE)}
    with pytest.raises(Mistake, match=rf"`{setting}` is 'caf\\xe9', a name with the undecodable byte 0xe9"):
        load_weights(asked[setting][0], base=asked[setting][1])


def test_an_adapter_whose_base_has_such_a_name_is_refused_with_the_setting_that_replaces_it(tmp_path):
    save_adapter(save_small(tmp_path / "base"), tmp_path / "adapter", LoraConfig(target_modules=["q_proj"]))
    edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=f"/models/{E_ACUTE}")
    with pytest.raises(Mistake, match="whose base is .* undecodable byte 0xe9.*`base=<URI>` puts another"):
        load_weights(str(tmp_path / "adapter"))


def test_half_a_character_that_stands_for_no_byte_is_still_a_control_character():
    with pytest.raises(Mistake, match="control character"):
        EvaluateConfig(model="/models/\ud800")


def refused(config_class=EvaluateConfig):
    with pytest.raises(Mistake) as caught, runs.tracked("evaluate", config_class()):
        pytest.fail("something was measured")
    return str(caught.value)


@pytest.mark.parametrize("name", ["MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"])
def test_a_variable_of_mlflow_with_an_undecodable_byte_is_named(client, monkeypatch, name):
    monkeypatch.setenv(name, f"/x/{E_ACUTE}")
    assert refused().startswith(f"`{name}` is '/x/caf\\xe9', a name with the undecodable byte 0xe9")


def test_a_working_folder_in_which_mlflow_cannot_make_its_store_is_named(client, monkeypatch, tmp_path):
    import mlflow

    folder = tmp_path / E_ACUTE
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(None)
    said = refused()
    assert said.startswith("The working folder") and "caf\\xe9" in said and "set MLFLOW_TRACKING_URI" in said
    assert not list(folder.iterdir())


def test_a_store_elsewhere_takes_runs_from_such_a_folder_by_such_a_user(client, monkeypatch, tmp_path):
    experiment = client.create_experiment(runs.EXPERIMENT, artifact_location=str(tmp_path / "place"))
    folder = tmp_path / E_ACUTE
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LOGNAME", E_ACUTE)
    monkeypatch.setattr("sys.argv", [str(folder / "evaluate.py")])
    with runs.tracked("evaluate", EvaluateConfig()):
        pass
    (found,) = client.search_runs([experiment])
    assert found.info.status == "FINISHED" and found.data.tags["mlflow.user"] == "caf\\udce9"


def test_a_link_with_a_good_name_works_and_what_is_met_behind_it_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)

    def meet(config):
        f"/models/{E_ACUTE}/tokenizer.json".encode()

    assert run(EvaluateConfig, meet, []) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: A name in use is '/models/caf\\xe9/tokenizer.json', a name with the undecodable")


def test_a_model_and_prompts_behind_links_are_measured(base_folder, sets, tmp_path):
    from visage_mlflow.language import models, prompts

    bad = tmp_path / E_ACUTE
    shutil.copytree(base_folder, bad)
    shutil.copy(sets / "harmful_eval.jsonl", bad / f"{E_ACUTE}.jsonl")
    (tmp_path / "model").symlink_to(bad)
    (tmp_path / "rows.jsonl").symlink_to(bad / f"{E_ACUTE}.jsonl")
    assert models.load(str(tmp_path / "model"), dtype="float32").weights
    assert prompts.read(str(tmp_path / "rows.jsonl"), setting="prompts")
