"""Models and adapters on the hub, from a real server on the loopback."""

import os
import shutil
import subprocess
import sys

import pytest
from chat_families import save
from hub import hub
from peft import LoraConfig
from test_adapters import edit, save_adapter

from visage_mlflow.geometry.identity import Weights, digest
from visage_mlflow.language.models import load_weights

LOAD = """
import sys
from visage_mlflow.geometry.identity import Weights, digest
from visage_mlflow.geometry.identity import Weights, digest
from visage_mlflow.language.models import load_weights
for uri in sys.argv[1:]:
    try:
        print(digest(Weights.of(load_weights(uri))))
    except ValueError as refusal:
        print(refusal)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a model and an adapter of it that names it by its hub id."""
    folder = tmp_path_factory.mktemp("hub")
    base = save("qwen3", folder / "org" / "base")
    adapter = save_adapter(base, folder / "org" / "adapter", LoraConfig(target_modules=["q_proj"]))
    edit(adapter / "adapter_config.json", base_model_name_or_path="org/base")
    shutil.copytree(adapter, adapter / "checkpoint-1")  # As trainers leave it there.
    edit(shutil.copytree(adapter, folder / "org" / "prompts") / "adapter_config.json", peft_type="PROMPT_TUNING")
    return folder


@pytest.fixture
def ask(models, tmp_path):
    """Runs Python with the hub at hand, in a process of its own: the library reads where the hub is when imported."""
    with hub(models) as (address, asked):
        env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        env |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "no_proxy": "127.0.0.1"}

        def run(*arguments):
            return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True), asked

        yield run


def test_a_model_on_the_hub_is_examined_without_its_weights(ask):
    done, asked = ask("-m", "visage_mlflow", "doctor", "org/base")
    assert done.returncode == 0 and "takes enable_thinking" in done.stdout
    assert not any(name.endswith(".safetensors") for name in asked)


def test_an_adapter_on_the_hub_is_brought_here_and_merged_into_its_base(models, ask):
    done, asked = ask("-c", LOAD, "org/adapter", "org/prompts", "org/none")
    same = load_weights(str(models / "org" / "adapter"), base=str(models / "org" / "base"))
    merged, prompts, none = done.stdout.splitlines()
    assert merged == digest(Weights.of(same)) and not any("checkpoint-1" in name for name in asked)
    assert "prompt tuning" in prompts and "'org/none', which could not be loaded" in none
