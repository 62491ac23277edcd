"""What a run logs while the tracking server is away arrives later, in order, once and whole."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from datasets import Dataset
from matplotlib.figure import Figure
from server import Server

from visage_mlflow.commands.store import main as command
from visage_mlflow.config import EvaluateConfig
from visage_mlflow.tracking import client as tracking
from visage_mlflow.tracking import outages, outbox, runs, uploads
from visage_mlflow.tracking.outages import Away
from visage_mlflow.tracking.outbox import Outbox

ROOT = Path(__file__).parents[1]
PLACE = "http://ann:***@host"


class Receiver:
    """A server's end: takes operations in order, unless it is away or refuses one."""

    def __init__(self):
        self.is_away = False
        self.refused = ""
        self.tries = 0
        self.got = []
        self.files = []

    def __call__(self, operation, payload):
        self.tries += 1
        if self.is_away:
            raise Away("connection refused")
        if operation["do"] == self.refused:
            raise ZeroDivisionError("no")
        self.got.append({name: one for name, one in operation.items() if name != "has_file"})
        if payload:
            paths = [payload] if payload.is_file() else sorted(payload.rglob("*"))
            self.files.append({path.name: path.read_bytes() for path in paths if path.is_file()})
        return f"real-{operation['id']}" if "id" in operation else ""


@pytest.fixture
def receiver():
    return Receiver()


@pytest.fixture
def box(tmp_path, receiver):
    return Outbox(tmp_path / "outbox" / "run", PLACE, receiver)


def log(number):
    return {"do": "log", "run": "r", "number": number}


def test_nothing_is_written_while_the_server_is_there(box, receiver):
    box.put(log(1))
    box.put(log(2))
    assert [one["number"] for one in receiver.got] == [1, 2] and not box.folder.exists()


def test_operations_arrive_in_order_none_overtakes_another(box, receiver, capsys):
    box.put(log(1))
    receiver.is_away = True
    for number in (2, 3):
        box.put(log(number))
    receiver.is_away = False
    box.put(log(4))  # Too soon for another try: it waits behind the others.
    assert [one["number"] for one in receiver.got] == [1]
    assert box.flush(5) and [one["number"] for one in receiver.got] == [1, 2, 3, 4]
    box.close()
    assert not box.folder.exists()
    assert "away" in capsys.readouterr().err


def test_tries_are_farther_and_farther_apart(box, receiver, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    receiver.is_away = True
    tried = []
    for _ in range(140):
        before = receiver.tries
        box.put(log(0))
        if receiver.tries > before:
            tried.append(clock[0] - 1000)
        clock[0] += 1
    gaps = [after - before for before, after in zip(tried, tried[1:], strict=False)]
    assert gaps == [1, 2, 4, 8, 16, 32, 60]


def test_what_is_kept_is_plain_json_and_copies_of_files(box, receiver, tmp_path):
    source = tmp_path / "table.md"
    source.write_text("a table")
    receiver.is_away = True
    box.put({"do": "file", "run": "r", "name": "table.md"}, source)
    source.unlink()
    (entry,) = box.kept()
    assert json.loads((entry / "operation.json").read_text())["name"] == "table.md"
    assert {path.suffix for path in box.folder.rglob("*") if path.is_file()} == {".json", ".md"}
    receiver.is_away = False
    assert box.flush(0) and receiver.files == [{"table.md": b"a table"}]


def test_the_server_s_ids_take_the_place_of_those_made_up_also_in_texts(box, receiver, tmp_path):
    receiver.is_away = True
    assert box.put({"do": "create", "id": "made-up", "run": "made-up"}) == "made-up"
    box.put({"do": "log", "run": "made-up", "text": "of made-up"})
    (tmp_path / "a.json").write_text('{"uri": "models:/made-up"}')
    (tmp_path / "a.png").write_bytes(b"made-up")
    for name in ("a.json", "a.png"):
        box.put({"do": "file", "run": "made-up", "name": name}, tmp_path / name)
    receiver.is_away = False
    assert box.flush(0)
    box.put({"do": "end", "run": "made-up"})
    assert [one["run"] for one in receiver.got[1:]] == ["real-made-up"] * 4
    assert receiver.got[1]["text"] == "of real-made-up"
    assert receiver.files == [{"a.json": b'{"uri": "models:/real-made-up"}'}, {"a.png": b"made-up"}]


def test_the_files_of_a_model_can_be_loaded_from_one_place_to_the_end(box, receiver, tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "weights").write_bytes(b"1")
    receiver.is_away = True
    model = box.put({"do": "model", "id": "m-made-up", "run": "r"})
    box.put({"do": "model files", "run": "r", "model": model}, tmp_path / "checkpoint-1")
    folder = box.files_of(model)
    assert (folder / "weights").read_bytes() == b"1"
    receiver.is_away = False
    assert box.flush(0) and receiver.files == [{"weights": b"1"}]
    assert box.files_of(model) == box.files_of("real-m-made-up") == folder and (folder / "weights").exists()
    box.close()
    assert box.files_of(model) is None


def test_what_is_refused_is_an_error_and_does_not_hold_up_the_rest(box, receiver):
    receiver.is_away = True
    for what in ("log", "bad", "end"):
        box.put({"do": what, "run": "r"})
    receiver.is_away, receiver.refused = False, "bad"
    with pytest.raises(ZeroDivisionError):
        box.flush(0)
    assert box.flush(0) and [one["do"] for one in receiver.got] == ["log", "end"]
    box.close()
    assert [json.loads(path.read_text()) for path in box.folder.glob("refused-*/reason.json")] == [{"reason": "no"}]


def test_another_process_goes_on_where_one_was_killed(box, receiver):
    receiver.is_away = True
    box.put({"do": "create", "id": "made-up", "run": "made-up"})
    box.put(log(1))
    receiver.is_away = False
    again = Outbox(box.folder, PLACE, receiver)
    again.put(log(2))
    assert [one.get("number") for one in receiver.got] == [None, 1, 2]
    assert again.real("made-up") == "real-made-up"


# Which errors mean that the server is away


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (OSError(113, "No route to host"), True),
        (OSError(28, "No space left on device"), False),
        (FileNotFoundError(), False),
        (ValueError("failed with error code 502"), True),
        (ValueError("failed with error code 404"), False),
        (mlflow.MlflowException("locked", error_code=8), False),
        (mlflow.MlflowException("busy", mlflow.protos.databricks_pb2.TEMPORARILY_UNAVAILABLE), True),
        (mlflow.MlflowException("no such run", mlflow.protos.databricks_pb2.RESOURCE_DOES_NOT_EXIST), False),
    ],
)
def test_only_what_goes_by_itself_is_waited_for(error, away):
    assert outages.is_away(error) == away


def test_an_error_that_was_being_handled_is_not_the_reason():
    try:
        raise ConnectionRefusedError
    except ConnectionRefusedError as before:
        try:
            raise KeyError("unknown run")
        except KeyError as error:
            assert outages.is_away(error) and not outages.is_away(error, before)


@pytest.mark.parametrize("text", ["x", "-1", "nan", "inf"])
def test_a_wait_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("VISAGE_WAIT", text)
    with pytest.raises(ValueError, match=f"`VISAGE_WAIT` must be .* got '{text}'"):
        outages.patience()


# A real server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def on_server(server, monkeypatch, tmp_path):
    """This process' tracking server, with a password in its URI."""
    monkeypatch.setenv("VISAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VISAGE_WAIT", "0")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    monkeypatch.setattr(uploads, "_left", [])
    if not server.answers():
        server.start()
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(server.uri.replace("//", "//ann:vinegar@"))
    yield server
    mlflow.set_tracking_uri(before)
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


def write_checkpoint(folder):
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"12345")
    return folder


def test_a_run_during_which_the_server_goes_away_is_whole_after_an_upload(on_server, tmp_path, capsys):
    client = mlflow.MlflowClient()
    with runs.tracked("main", EvaluateConfig()) as run:
        run.metrics({"asr": 1.0}, step=1)
        on_server.stop()
        began = time.time()
        run.metrics({"asr": 2.0, "gone": math.nan}, step=2)
        between = time.time()
        run.text("a table", "folder/table.md")
        run.figure(Figure(), "figure.png")
        run.dataset(Dataset.from_list([{"prompt": "a"}]), {"safe": 1})
        with runs.tracked("finetune", EvaluateConfig(n_prompts=7), name="step", nested=True) as step:
            uri = step.checkpoint(write_checkpoint(tmp_path / "checkpoint-1"), 1)
            step.metrics({"asr": 3.0}, step=1, model_uri=uri)
            step.text(f"{uri} of {step.id}", "table.md")
        (tmp_path / "checkpoint-1" / "weights.bin").unlink()
        assert (tracking.fetch(uri) / "weights.bin").read_bytes() == b"12345"
    assert time.time() - began < 30
    said = capsys.readouterr().err
    assert uploads.exit_status() == uploads.NOT_UPLOADED == 3
    assert "visage upload" in said and str(tmp_path / "cache" / "outbox" / run.id) in said
    kept = [path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not [content for content in [*kept, said.encode()] if b"vinegar" in content]

    on_server.start()
    assert client.get_run(run.id).info.status == "RUNNING"  # Half of it is there, and it does not look whole.
    assert command(["upload"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]  # MLflow says where the run can be viewed.
    assert line.startswith(f"{run.id}: ") and line.endswith(" sent") and int(line.split()[1]) > 10
    assert not list((tmp_path / "cache" / "outbox").iterdir()) and runs.upload() == []
    assert command(["upload"]) == 0 and capsys.readouterr().out == "nothing waits to be sent\n"

    there = client.get_run(run.id)
    history = client.get_metric_history(run.id, "asr")
    assert [(one.step, one.value) for one in history] == [(1, 1.0), (2, 2.0)]
    assert 1000 * began - 1 <= history[1].timestamp <= 1000 * between + 1
    assert there.info.status == "FINISHED" and math.isnan(there.data.metrics["gone"])
    assert [one.dataset.name for one in there.inputs.dataset_inputs] == ["mixture"]
    assert {one.path for one in client.list_artifacts(run.id)} == {"config.json", "figure.png", "folder"}
    (inner,) = client.search_runs([there.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.id}'")
    assert (inner.info.status, inner.info.run_name, inner.data.params["n_prompts"]) == ("FINISHED", "step", "7")
    (output,) = inner.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert str(model.status) == "READY" and model.metrics[0].value == 3.0
    assert mlflow.artifacts.load_text(f"runs:/{inner.info.run_id}/table.md") == (
        f"models:/{output.model_id} of {inner.info.run_id}"
    )
    # Whoever noted the ids that were made up finds both.
    tracking.fetch.cache_clear()
    assert (tracking.fetch(uri) / "weights.bin").read_bytes() == b"12345"
    assert tracking.find(step.id, "run") == ("finetune", ((f"models:/{output.model_id}", 1),))


def test_a_server_that_hangs_for_a_while_has_all_before_the_run_ends_and_nothing_twice(on_server, monkeypatch):
    monkeypatch.setenv("VISAGE_WAIT", "60")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with runs.tracked("evaluate", EvaluateConfig()) as run:
        os.killpg(on_server.process.pid, signal.SIGSTOP)
        try:
            run.metrics({"asr": 1.0})
            assert outbox.current().kept()
        finally:
            os.killpg(on_server.process.pid, signal.SIGCONT)
    assert mlflow.MlflowClient().get_run(run.id).info.status == "FINISHED"
    assert [one.value for one in mlflow.MlflowClient().get_metric_history(run.id, "asr")] == [1.0]
    assert uploads.exit_status() == 0 and not list((uploads.root()).glob("*"))


def test_what_the_server_refuses_is_an_error_at_once(on_server):
    with pytest.raises(mlflow.MlflowException), runs.tracked("evaluate", EvaluateConfig()) as run:
        run.metrics({"a\nname": 1.0})
    assert mlflow.MlflowClient().get_run(run.id).info.status == "FAILED"


def test_what_is_for_another_server_is_refused_in_one_line(tmp_path, monkeypatch, receiver, capsys):
    monkeypatch.setenv("VISAGE_CACHE", str(tmp_path))
    receiver.is_away = True
    Outbox(uploads.root() / "run", "http://elsewhere", receiver).put(log(1))
    with pytest.raises(ValueError) as caught:
        runs.upload()
    capsys.readouterr()
    assert "http://elsewhere" in str(caught.value) and "\n" not in str(caught.value)
    assert command(["upload"]) == 2
    assert capsys.readouterr().err.splitlines() == [f"error: {caught.value}"]


def test_an_upload_whose_file_was_cut_off_by_a_kill_leaves_nothing(on_server, tmp_path):
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(4_000_000_000)  # A hole, which costs nothing to make, and many seconds to send.
    with runs.tracked("evaluate", EvaluateConfig()) as run:
        code = (
            "import sys; from pathlib import Path; from visage_mlflow.record import tracking\n"
            "print('ready', flush=True)\n"
            "tracking.send({'do': 'file', 'run': sys.argv[1], 'name': 'big.bin'}, Path(sys.argv[2]))"
        )
        environment = {**os.environ, "MLFLOW_TRACKING_URI": on_server.uri}
        child = subprocess.Popen(
            [sys.executable, "-c", code, run.id, str(big)], env=environment, cwd=ROOT, stdout=subprocess.PIPE
        )
        child.stdout.read(5)
        artifacts = on_server.folder / "artifacts"
        deadline = time.monotonic() + 60
        while not [path for path in artifacts.rglob("*upload*") if path.stat().st_size > 1_000_000]:
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.002)
        child.kill()
        child.wait()
        time.sleep(1)
        assert not list(artifacts.rglob("big.bin")) and not list(artifacts.rglob("*upload*"))
    assert [one.path for one in mlflow.MlflowClient().list_artifacts(run.id)] == ["config.json"]


def test_a_server_that_is_away_at_the_start_is_one_line_within_seconds(tmp_path):
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "http://ann:vinegar@127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "experiments.evaluate", "--model", "nowhere"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: ") and "MLFLOW_TRACKING_URI" in last
    assert "vinegar" not in done.stdout + done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_settle_says_nothing_without_an_outbox():
    outbox.settle()
