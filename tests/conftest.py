"""Fixtures that several test files share: the tiny models and their data files, made once per session."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Both are read when the libraries are imported, so they stand before every import that may pull these in.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# A test that says nothing of the store computes what it asks for, and leaves the user's own store alone.
os.environ["VISAGE_STORE"] = "off"

import pytest  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402

from visage_mlflow.language import models

# On tensors this small a second thread gains little, and waits at every barrier where others use the cores:
# test_tiny.py took 31 s with two threads on a busy machine, 7 s with one.
torch.set_num_threads(1)


SLOW_FILES = (
    *("test_end_to_end", "test_search_runs", "test_search_processes", "test_faults", "test_bad_input"),
    *("test_bad_files", "test_signals", "test_search_planted", "test_benchmark"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest come first, so that workers that share the files end together."""
    order = {name: place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved chat model that helps with everything. Read it, do not write to it."""
    return tiny.build_model(tmp_path_factory.mktemp("models") / "base", aligned=False)


@pytest.fixture(scope="session")
def aligned_folder(base_folder: Path) -> Path:
    """The same model, taught to refuse. Read it, do not write to it."""
    return tiny.build_model(base_folder.parent / "aligned", aligned=True, start=base_folder)


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with harmful_eval, harmful_train, benign_train and benign_eval, each .jsonl."""
    return tiny.write_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def chat(aligned_folder: Path) -> models.Chat:
    """The aligned model in float32, loaded for measuring."""
    return models.load(str(aligned_folder), dtype="float32")


@pytest.fixture(scope="module")
def base(base_folder: Path) -> models.Chat:
    """The model that helps with everything in float32, loaded for measuring."""
    return models.load(str(base_folder), dtype="float32")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new tracking store's file, to be copied: to make one takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def client(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An MLflow client of a store of its own, in its own folder, which the test's own process uses, too."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    names = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)
    for name in names:  # MLflow sets one of them for the processes that a test may start.
        os.environ.pop(name, None)
