"""Fixtures that several test files share: the tiny models, their data files, and an MLflow store."""

import hashlib
import os
import shutil
import tempfile
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
import transformers  # noqa: E402
from filelock import FileLock  # noqa: E402

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


def made_once(folder: Path) -> Path:
    """A folder with both tiny models, trained the first time that it is asked for on this kind of processor.

    Whatever decides a bit of their weights is in the name: how they are trained, the libraries, and the instructions
    that these use.
    """
    processor = sorted({**torch.cpu.get_capabilities(), "used": torch.backends.cpu.get_cpu_capability()}.items())
    decisive = [Path(tiny.__file__).read_text(), torch.__version__, transformers.__version__, processor]
    made = folder / hashlib.sha256(repr(decisive).encode()).hexdigest()[:16]
    with FileLock(f"{made}.lock"):
        if not made.is_dir():
            with tempfile.TemporaryDirectory(dir=folder) as draft:
                base = tiny.build_model(Path(draft) / "models" / "base", aligned=False)
                tiny.build_model(base.parent / "aligned", aligned=True, start=base)
                base.parent.rename(made)
    return made


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """A folder with `base` and `aligned`: copies of those in pytest's cache, so that no test can spoil these."""
    cache = getattr(pytestconfig, "cache", None)  # Not there with `-p no:cacheprovider`.
    kept = cache.mkdir("tiny_models") if cache else tmp_path_factory.mktemp("tiny_models")
    folder: Path = shutil.copytree(made_once(kept), tmp_path_factory.mktemp("models"), dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def base_folder(model_folders: Path) -> Path:
    """A saved chat model that helps with everything. Read it, do not write to it."""
    return model_folders / "base"


@pytest.fixture(scope="session")
def aligned_folder(model_folders: Path) -> Path:
    """The same model, taught to refuse. Read it, do not write to it."""
    return model_folders / "aligned"


@pytest.fixture
def copy(base_folder: Path, tmp_path: Path) -> Path:
    """A copy of the model that helps with everything, for a test to change."""
    folder: Path = shutil.copytree(base_folder, tmp_path / "copy")
    return folder


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
