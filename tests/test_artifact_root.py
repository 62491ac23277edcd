"""Places for a run's files that cannot be written to: found before anything is measured, on real servers."""

import os
import sys

import faults
import mlflow
import pytest
from server import Server

from visage_mlflow.config import EvaluateConfig
from visage_mlflow.text.errors import Mistake, ServerAway, explained
from visage_mlflow.tracking import retries, runs


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """As a process that has asked nothing yet, and waits for nothing for long."""
    monkeypatch.setattr(retries, "_is_known_to_be_away", False)
    monkeypatch.setenv("VISAGE_WAIT", "0.1")
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", raising=False)


def refused(kind=Mistake, run=runs.tracked, *arguments, **options):
    """What a run says that ends before its body begins."""
    arguments = arguments or ("evaluate", EvaluateConfig())
    with pytest.raises(kind) as caught, run(*arguments, **options):
        pytest.fail("something was measured")
    said = explained(caught.value)
    assert "\n" not in said and said.endswith(".")
    return said


def use(client, monkeypatch, location):
    """Have runs begin in an experiment whose files go there."""
    client.create_experiment("elsewhere", artifact_location=location)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")


def test_a_folder_that_cannot_be_made_is_refused_at_the_start_and_the_run_is_failed(client, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    use(client, monkeypatch, str(tmp_path / "file" / "below"))
    said = refused()
    assert f"{tmp_path}/file/below" in said and "NotADirectoryError" in said and "right to write there" in said
    (run,) = client.search_runs([client.get_experiment_by_name("elsewhere").experiment_id])
    assert run.info.status == "FAILED" and "cannot be kept" in run.data.tags["visage.reason"]


def test_who_joins_a_run_finds_at_the_start_that_its_files_cannot_be_kept(client, monkeypatch, tmp_path):
    place = tmp_path / "place"
    use(client, monkeypatch, str(place))
    with runs.tracked("search", EvaluateConfig(), goes_on=lambda: True) as begun:
        pass
    place.rename(tmp_path / "moved")
    place.touch()
    assert str(place) in refused(Mistake, runs.joined, begun.id, EvaluateConfig(), goes_on=lambda: True)


def test_a_bucket_whose_library_is_missing_is_refused_with_what_to_install(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    use(client, monkeypatch, "s3://bucket/place")
    said = refused()
    assert "s3://bucket/place" in said and "boto3" in said and "Install" in said


def test_a_place_that_does_not_answer_is_not_called_the_tracking_server_and_keeps_its_password(
    client, monkeypatch, capfd
):
    use(client, monkeypatch, "ftp://ann:vinegar@127.0.0.1:9/place")
    said = refused(ServerAway)
    assert "The artifact store does not answer" in said and "ftp://***@127.0.0.1:9/place" in said
    assert "tracking server" not in said and "vinegar" not in said + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"destination": "{folder}/file/below"}, ["mlflow-artifacts:/", "500", "--artifacts-destination"]),
        ({"serves": False}, ["mlflow-artifacts:/", "503", "--serve-artifacts"]),
        # Each process sees its own working folder there, as each of two machines does its own disk.
        ({"root": "/proc/self/cwd/place", "serves": False}, ["/proc/self/cwd/place", "another machine"]),
    ],
    ids=["unwritable", "not served", "on another machine"],
)
def test_a_server_that_takes_a_run_but_not_its_files_is_refused_at_once(
    client, monkeypatch, tmp_path, capfd, settings, words
):
    (tmp_path / "file").touch()
    settings = {k: v.format(folder=tmp_path) if isinstance(v, str) else v for k, v in settings.items()}
    server = Server(faults.shared(), tmp_path / "server", **settings)
    server.start()
    try:
        mlflow.set_tracking_uri(server.uri.replace("//", "//ann:vinegar@"))
        said = refused()
        told = "".join(capfd.readouterr())
        assert all(word in said for word in words) and "away" not in told
        assert "vinegar" not in said + told
    finally:
        server.stop()
        os.environ.pop("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", None)
