"""Several processes that begin at once on a store that is not there yet, and files that are whole or not there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from workplace import Workplace

from visage_mlflow.tracking import local_files

ROOT = Path(__file__).parents[1]


def test_four_entry_points_begun_at_once_on_an_empty_folder_all_finish(tmp_path, sets, aligned_folder):
    place = Workplace.__new__(Workplace)
    (tmp_path / "elsewhere").mkdir()
    place.__init__(tmp_path / "elsewhere", sets)  # Makes a store there, not here.
    place.folder = tmp_path / "empty"
    place.folder.mkdir()
    place.environment.pop("MLFLOW_TRACKING_URI")  # The default: a SQLite file in the folder.
    settings = {**place.measure, "model": aligned_folder, "n_prompts": 2, "n_benign": 2, "max_new_tokens": 2}
    processes = [place.start("evaluate", f"log-{number}", dtype="float32", **settings) for number in range(4)]
    statuses = [process.wait(timeout=240) for process in processes]
    said = "\n".join((place.folder / f"log-{number}").read_text()[-2000:] for number in range(4))
    assert statuses == [0, 0, 0, 0], said
    place.client = mlflow.MlflowClient(f"sqlite:///{place.folder / 'mlflow.db'}")
    runs = place.runs("evaluate")
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    assert len({run.info.experiment_id for run in runs}) == 1
    assert not [path.name for path in place.folder.iterdir() if "lock" in path.name]


@pytest.mark.parametrize("uri", ["http://host", "postgresql://host/db", "sqlite:///:memory:", "sqlite://", "nonsense"])
def test_other_stores_are_not_waited_for(uri):
    with local_files.alone(uri), local_files.alone(uri):
        pass


def test_a_file_that_is_copied_while_the_process_is_killed_is_not_there(tmp_path):
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(4_000_000_000)  # A hole, which costs nothing to make, and seconds to copy.
    code = "import sys; from pathlib import Path; from visage_mlflow.record import local_files\n"
    code += "local_files.put(Path(sys.argv[1]), Path(sys.argv[2]) / 'artifacts', 'big.bin')"
    child = subprocess.Popen([sys.executable, "-c", code, str(big), str(tmp_path / "run")], cwd=ROOT)
    while not list(tmp_path.glob("run/.*.part")):
        assert child.poll() is None
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert list((tmp_path / "run" / "artifacts").iterdir()) == []


def test_a_file_takes_the_place_of_an_older_one_and_leaves_nothing_beside(tmp_path):
    for text in ("old", "new"):
        (tmp_path / "source.md").write_text(text)
        local_files.put(tmp_path / "source.md", tmp_path / "run" / "artifacts", "folder/table.md")
    assert (tmp_path / "run" / "artifacts" / "folder" / "table.md").read_text() == "new"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["artifacts"]
