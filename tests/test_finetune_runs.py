"""Finetunings that were tracked, looked up on a real store."""

import pytest

from visage_mlflow.config import EvaluateConfig, FinetuneConfig
from visage_mlflow.tracking import runs
from visage_mlflow.tracking.lookup import look_up

pytestmark = pytest.mark.usefixtures("client")


def checkpoint(tmp_path, run, step):
    folder = tmp_path / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    return run.checkpoint(folder, step)


def refusal(run_id, **options):
    with pytest.raises(ValueError) as caught:
        look_up(run_id, **options)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


@pytest.mark.parametrize("kind", ["finetune", "trial"])
def test_a_finetuning_or_a_trial_has_its_base_and_its_checkpoints_in_order_of_training(tmp_path, kind):
    config = FinetuneConfig(model="org/model", harmful=30, safe=0, benign=12)
    with runs.tracked(kind, config) as run:
        uris = {step: checkpoint(tmp_path, run, step) for step in (12, 4, 8)}
    found = look_up(run.id)
    assert found.checkpoints == ((uris[4], 4), (uris[8], 8), (uris[12], 12))
    assert found.uris == [uris[4], uris[8], uris[12]] and all(uri.startswith("models:/m-") for uri in found.uris)
    assert (found.id, found.model, found.name) == (run.id, "org/model", "30 harmful + 12 benign")


def test_the_name_lists_all_kinds_of_rows_in_the_order_of_mixtures(tmp_path):
    config = FinetuneConfig(harmful=1, safe=2, benign=3, task=4, task_data="rows.csv")
    with runs.tracked("finetune", config) as run:
        checkpoint(tmp_path, run, 1)
    assert look_up(run.id).name == "1 harmful + 2 safe + 3 benign + 4 task"


def test_a_run_that_is_not_there_is_refused_with_the_setting_that_named_it():
    message = refusal("0" * 32, setting="to")
    assert message.startswith(f"`to` is '{'0' * 32}': ") and "MLFLOW_TRACKING_URI" in message


def test_a_run_of_another_kind_is_refused_with_its_kind():
    with runs.tracked("evaluate", EvaluateConfig()) as run:
        pass
    assert refusal(run.id) == (
        f"`run` is '{run.id}', which is no finetune run but evaluate. Give the id of a finetune run."
    )


def test_a_run_of_another_project_is_refused(client):
    run_id = client.create_run("0").info.run_id
    assert "no finetune run but another project's" in refusal(run_id)


@pytest.mark.parametrize("status", ["FAILED", "FINISHED"])
def test_a_finetuning_without_checkpoints_is_refused_with_how_it_ended(client, status):
    with runs.tracked("finetune", FinetuneConfig()) as run:
        pass
    client.set_terminated(run.id, status)
    assert refusal(run.id).endswith(f"which has no checkpoints (status {status}). Finetune again.")
