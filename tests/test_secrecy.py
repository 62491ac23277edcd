"""Passwords in URIs that MLflow itself would print: in its log, in the address of a run, and in `mlflow run`."""

import json
import logging
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import faults
import mlflow
import pytest
from server import Server

from visage_mlflow.config import EvaluateConfig
from visage_mlflow.text import printing
from visage_mlflow.tracking import lookup, runs, secrecy

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """A process that knows no secret and has no settings of MLflow."""
    monkeypatch.setattr(printing, "_secrets", set())
    for name in (secrecy.URI, secrecy.USER, secrecy.PASSWORD, secrecy.SILENT, "MLFLOW_RUN_ID"):
        monkeypatch.setenv(name, "")  # So that whatever is set is taken back.
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    tracking = Server(faults.shared(), tmp_path_factory.mktemp("tracking") / "server")
    tracking.start()
    yield tracking
    tracking.stop()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://ann:vinegar@host/a", "no port: 'vinegar'"),
        ("http://ann:vine%67ar@host", "user ann, vinegar"),
        ("http://ann:vine%67ar@host", "user ann, vine%67ar"),
        ("http://ann:vine/gar@host", "no port: 'vine'"),
        ("http://vinegar@host", "user 'vinegar'"),
        ("postgresql://ann:vinegar@host/a", "connection failed for vinegar"),
        ("http://:vinegar@host", "vinegar"),
    ],
)
def test_a_password_that_an_error_quotes_alone_is_hidden(url, text):
    printing.hide(url)
    assert not any(part in printing.shown(text) for part in ("vine", "gar")) and "***" in printing.shown(text)


@pytest.mark.parametrize(
    "url", ["s3://bucket/a@path", "http://host:5000/a@path", "sqlite:////tmp/a@path/b.db", "postgresql://host@path/a"]
)
def test_what_is_no_password_stays(url):
    printing.hide(url)
    assert printing.shown("bucket host 5000 path sqlite tmp") == "bucket host 5000 path sqlite tmp"


@pytest.mark.parametrize("name", ["mlflow.tracking", "boto"])
def test_the_logs_of_mlflow_and_of_what_it_asks_show_no_password_even_in_a_traceback(name, capfd, monkeypatch):
    # pytest's own handlers at the root would stand in for the one that a plain process falls back on.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    try:
        raise ValueError("not http://ann:vinegar@host")
    except ValueError:
        logging.getLogger(name).warning("at %s", "http://ann:vinegar@host", exc_info=True)
    said = capfd.readouterr().err
    assert "vinegar" not in said and "at http://***@host" in said and "ValueError: not http://***@host" in said


@pytest.mark.parametrize("asked", ["false", None])
def test_a_run_on_a_server_with_a_password_prints_no_address(server, client, monkeypatch, capfd, asked):
    if asked:
        monkeypatch.setenv(secrecy.SILENT, asked)
    mlflow.set_tracking_uri(server.uri.replace("//", "//ann:vinegar@"))
    with runs.tracked("evaluate", EvaluateConfig()):
        pass
    assert "vinegar" not in "".join(capfd.readouterr())


def test_settings_are_kept_without_their_passwords(client):
    config = EvaluateConfig(model="https://ann:vinegar@host/model", prompts="rows.csv?token=vinegar")
    with runs.tracked("evaluate", config) as run:
        pass
    kept = json.dumps(lookup.settings_of(run.id)) + str(client.get_run(run.id).data.params)
    assert "vinegar" not in kept and kept.count("https://***@host/model") == 2


@pytest.fixture
def installed(tmp_path):
    """A folder that makes this project known to MLflow as `pip install` does."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    folder = tmp_path / "site" / "visage_plugin-0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: visage_plugin\nVersion: 0\n")
    lines = [f"[{group}]\n{name} = {place}" for group, named in points.items() for name, place in named.items()]
    (folder / "entry_points.txt").write_text("\n".join(lines))
    return str(folder.parent)


@pytest.mark.parametrize("command", [["mlflow"], [sys.executable, "-m", "mlflow"]], ids=["script", "module"])
@pytest.mark.parametrize("user", ["ann:vine%67ar", "vinegar"], ids=["password", "token"])
def test_mlflow_run_prints_no_password_of_the_server_or_of_a_setting(server, tmp_path, installed, command, user):
    environment = os.environ | {
        secrecy.URI: server.uri.replace("//", f"//{user}@"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{installed}",
    }
    flags = [
        "-e",
        "evaluate",
        "--env-manager",
        "local",
        "-P",
        "n_prompts=-1",
        "-P",
        "model=https://bob:hunter2@host/m",
    ]
    done = subprocess.run(
        [*command, "run", str(ROOT), *flags],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = done.stdout
    assert done.returncode != 0 and "`n_prompts` must be" in said and "https://***@host/m" in said
    assert not any(secret in said for secret in ("vinegar", "vine%67ar", "hunter2", "Traceback"))


def test_where_mlflow_run_cannot_be_kept_from_printing_it_a_warning_says_what_to_set_instead(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    secrecy.silence("http://ann:vinegar@host")
    said = capsys.readouterr().err
    assert "MLFLOW_TRACKING_PASSWORD instead" in said and "vinegar" not in said
    secrecy.silence("http://ann:vinegar@host")  # Once is enough.
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("uri", "user", "password", "bare"),
    [
        ("http://ann:vine%67ar@host:5000/p", "ann", "vinegar", "http://host:5000/p"),
        ("https://ann%40org:a:b@[::1]:5000", "ann@org", "a:b", "https://[::1]:5000"),
        ("http://token@host", None, None, "http://token@host"),
        ("http://host:5000", None, None, "http://host:5000"),
        ("postgresql://ann:vinegar@host/a", None, None, "postgresql://ann:vinegar@host/a"),
        ("http://ann:vinegar@[host", None, None, "http://ann:vinegar@[host"),
    ],
)
def test_user_and_password_move_to_where_mlflow_reads_them_too(monkeypatch, uri, user, password, bare):
    monkeypatch.setenv(secrecy.URI, uri)
    secrecy.strip_password()
    assert [os.environ.get(name) for name in (secrecy.USER, secrecy.PASSWORD, secrecy.URI)] == [user, password, bare]
