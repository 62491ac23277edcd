"""Where studies are kept: what is made, what is refused in one line, and that no trial is begun by two processes."""

import contextlib
import json
import os
import socket
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from optuna.trial import TrialState

from visage_mlflow.search.storage import open_storage
from visage_mlflow.text.errors import Mistake

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")


def opened(place, *, tracking_uri=""):
    return open_storage(str(place), heartbeat=30, on_dead=lambda dead: None, tracking_uri=tracking_uri)


def refusal(place, **options):
    """The message with which a place is refused, as one line that names the setting and ends."""
    with pytest.raises(Mistake) as caught:
        opened(place, **options)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("`storage` ") and message.endswith("."), message
    return message


def table(path, name):
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(f"CREATE TABLE {name} (id text)")


# A file


def test_a_file_is_made_with_its_folders_and_optuna_itself_reads_it(tmp_path):
    place = tmp_path / "some where" / "100% {a}?b#c.db"
    study = optuna.create_study(storage=opened(place), study_name="mixtures")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    (trial,) = study.trials
    assert [path.name for path in place.parent.iterdir()] == [place.name]
    plain = place.rename(tmp_path / "plain.db")
    again = optuna.load_study(storage=f"sqlite:///{plain}", study_name="mixtures")
    assert again.trials[0].value == trial.value


def test_a_place_may_begin_at_home_and_an_empty_file_is_one_to_use(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.db").touch()
    opened("~/a.db")
    assert (tmp_path / "a.db").stat().st_size > 0


def at_once(n, work):
    """What `work` returns in each of `n` threads that begin together: SQLite keeps them apart as it does processes."""
    barrier = threading.Barrier(n)

    def one(_):
        barrier.wait()
        return work()

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(one, range(n)))


def test_a_trial_that_waits_or_has_died_is_taken_by_one_of_several_processes(tmp_path):
    """Each reads its state and sets it; without a lock around both, some are taken twice."""
    path, n = tmp_path / "search.db", 20
    study = optuna.create_study(storage=opened(path), study_name="mixtures")
    for number in range(n):
        study.enqueue_trial({"x": number / n})

    def take():
        mine, numbers = optuna.load_study(storage=opened(path), study_name="mixtures"), []
        while len(mine.get_trials(deepcopy=False, states=(TrialState.WAITING,))):
            numbers.append(mine.ask().number)
        return numbers

    numbers = [number for taken in at_once(3, take) for number in taken]
    assert len(numbers) == len(set(numbers)) and set(range(n)) <= set(numbers)


def test_several_processes_may_find_no_file_at_once(tmp_path):
    def make():
        return optuna.create_study(storage=opened(tmp_path / "search.db"), study_name="mixtures", load_if_exists=True)

    assert [study.study_name for study in at_once(3, make)] == ["mixtures"] * 3


def test_a_text_another_programs_database_and_a_folder_are_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("harmful: 30\n" * 100)
    table(tmp_path / "other.db", "runs")
    for name, said in (("notes.txt", "file is not a database"), ("other.db", "holds another program's tables")):
        before = (tmp_path / name).read_bytes()
        assert said in refusal(tmp_path / name) and (tmp_path / name).read_bytes() == before
    assert "cannot be used" in refusal(tmp_path) and "cannot be used" in refusal(tmp_path / "notes.txt" / "a.db")


@pytest.mark.parametrize("share", [0.1, 0.99])
def test_a_file_that_was_cut_is_refused(tmp_path, share):
    path = tmp_path / "search.db"
    optuna.create_study(storage=opened(path), study_name="mixtures")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    message = refusal(path)
    assert message.endswith("Name another file, or put a whole copy in its place.") and str(path) in message
    path.write_bytes(whole)
    assert optuna.load_study(storage=opened(path), study_name="mixtures").trials == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_cannot_be_written_is_refused(tmp_path):
    opened(tmp_path / "search.db")
    (tmp_path / "search.db").chmod(0o400)
    assert "cannot be used: attempt to write a readonly database" in refusal(tmp_path / "search.db")


def test_a_database_of_another_optuna_is_refused(tmp_path):
    opened(tmp_path / "search.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "search.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'v99'")
    assert "no longer compatible" in refusal(tmp_path / "search.db")


def test_a_journal_of_an_earlier_version_is_refused_where_it_is_named_or_its_successor_is_new(tmp_path):
    journal = tmp_path / "search.journal"
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    study = optuna.create_study(storage=optuna.storages.JournalStorage(backend), study_name="mixtures")
    study.add_trial(optuna.create_trial(value=1.5))
    for place in (journal, tmp_path / "search.db"):
        message = refusal(place)
        assert (
            "the studies in search.journal were kept by an earlier version" in message and "docs/search.md" in message
        )
    assert not (tmp_path / "search.db").exists() and journal.read_bytes()
    # What docs/search.md says.
    optuna.copy_study(
        from_study_name="mixtures",
        from_storage=optuna.storages.JournalStorage(backend),
        to_storage=f"sqlite:///{tmp_path / 'search.db'}",
    )
    assert optuna.load_study(storage=opened(tmp_path / "search.db"), study_name="mixtures").trials[0].value == 1.5


def test_another_file_of_that_name_is_no_journal(tmp_path):
    (tmp_path / "search.journal").write_text(json.dumps({"kind": "search"}))
    opened(tmp_path / "search.db")


# A database


@pytest.mark.parametrize("url", ["mysql://ann:secret@host/studies", "sqlite:///studies.db", "http://h"])
def test_other_databases_are_refused_without_the_password(url):
    message = refusal(url)
    assert "must be a file or postgresql://user@host/database" in message and "use a file" in message
    assert "secret" not in message


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_a_server_that_does_not_answer_is_refused_without_the_password(scheme):
    message = refusal(f"{scheme}://ann:secret@127.0.0.1:{closed_port()}/studies")
    assert "cannot be used: " in message and "ann:***@127.0.0.1" in message and "secret" not in message
    assert "Check that the server runs, the database is there, and the name and password (PGPASSWORD)" in message


def test_a_port_that_is_no_number_is_refused_in_one_line():
    assert "cannot be used" in refusal("postgresql://host:port/studies")


@pytest.mark.parametrize(
    ("place", "tracking_uri"),
    [
        ("postgresql://ann:secret@localhost/mlflow", "postgresql://ann@localhost/mlflow"),
        ("postgresql://ann:secret@localhost/mlflow", "postgresql+psycopg2://bob:other@localhost:5432/mlflow"),
        ("postgresql://ann:secret@localhost/mlflow", "postgresql+psycopg://LOCALHOST/mlflow"),
        ("postgresql://ann:secret@localhost/mlflow", "postgresql:///mlflow"),
        ("mlflow.db", "sqlite:///mlflow.db"),
        ("./mlflow.db", f"sqlite:///{os.getcwd()}/mlflow.db"),
    ],
)
def test_mlflows_own_database_is_refused(place, tracking_uri):
    message = refusal(place, tracking_uri=tracking_uri)
    assert "is MLflow's own database. Choose another one for studies." in message and "secret" not in message


@pytest.mark.parametrize("tracking_uri", ["", "sqlite:///mlflow.db", "http://localhost:5000", "postgresql://h:p/x"])
def test_another_tracking_store_is_no_reason_to_refuse_a_database(tracking_uri):
    assert "cannot be used" in refusal(f"postgresql://127.0.0.1:{closed_port()}/mlflow", tracking_uri=tracking_uri)
