"""Where studies are kept: what is made, what is refused, and which trials are told to be dead."""

import contextlib
import datetime
import json
import multiprocessing
import os
import socket
import sqlite3
import subprocess
import time

import optuna
import psutil
import pytest
from optuna.storages import fail_stale_trials
from optuna.trial import TrialState, create_trial

from visage_mlflow.search import heartbeats
from visage_mlflow.search import storage as storages

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning", "ignore:Heartbeat of storage")


def opened(place, *, heartbeat=30, on_stale=lambda study, trial: None, tracking_uri=""):
    return storages.open_storage(str(place), heartbeat=heartbeat, on_stale=on_stale, tracking_uri=tracking_uri)


def refusal(place, **options):
    """The message with which a place is refused, as one line that names the setting and ends."""
    with pytest.raises(ValueError) as caught:
        opened(place, **options)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("`storage` ") and message.endswith("."), message
    return message


@pytest.fixture
def study(tmp_path):
    return optuna.create_study(storage=opened(tmp_path / "a.journal"), study_name="mixtures")


# A journal


def test_a_journal_is_made_with_its_folders_if_missing_and_opened_again(tmp_path):
    place = tmp_path / "some" / "where" / "search.journal"
    optuna.create_study(storage=opened(place), study_name="mixtures").add_trial(create_trial(value=1.5))
    assert place.is_file()
    assert optuna.load_study(storage=opened(place), study_name="mixtures").trials[0].value == 1.5


def test_a_place_may_begin_at_home_or_here(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    opened("~/a.journal")
    opened("b.journal")
    assert (tmp_path / "a.journal").is_file() and (tmp_path / "b.journal").is_file()


def test_an_empty_file_is_a_journal(tmp_path):
    (tmp_path / "a.journal").touch()
    optuna.create_study(storage=opened(tmp_path / "a.journal"))


def test_the_file_stays_the_journal_that_optuna_itself_reads(tmp_path, study):
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    plain = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "a.journal")))
    again = optuna.load_study(storage=plain, study_name="mixtures")
    assert [trial.value for trial in again.trials] == [trial.value for trial in study.trials]


def test_a_line_that_was_cut_off_is_refused_by_its_number_and_the_rest_can_be_used(tmp_path, study):
    place = tmp_path / "a.journal"
    whole = place.read_bytes()
    place.write_bytes(whole + b'{"op_code":4,"worker_')
    message = refusal(place)
    number = whole.count(b"\n") + 1
    assert f"whose last line, {number}, is cut off. Delete that line" in message and str(place) in message
    place.write_bytes(whole)
    assert optuna.load_study(storage=opened(place), study_name="mixtures").trials == []


def test_a_last_line_that_only_lacks_its_end_is_cut_off_too(tmp_path, study):
    place = tmp_path / "a.journal"
    place.write_bytes(place.read_bytes().removesuffix(b"\n"))
    assert "is cut off" in refusal(place)


@pytest.mark.parametrize(
    "line",
    [b"no JSON", b"", b"[]", b"3", b"null", b'"op_code"', b'{"a": 1}', b'{"op_code": 0,', b"\xff\xfe\x00"],
)
def test_a_line_that_is_no_entry_is_refused_by_its_number(tmp_path, study, line):
    place = tmp_path / "a.journal"
    whole = place.read_bytes()
    place.write_bytes(whole + line + b"\n" + whole)
    message = refusal(place)
    assert f"whose line {whole.count(bytes([10])) + 1} is no entry of an Optuna journal. Name another file." in message


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_file_that_is_no_journal_is_refused(tmp_path, indent):
    place = tmp_path / "search.json"
    place.write_text(json.dumps({"kind": "search", "trials": []}, indent=indent) + "\n")
    before = place.read_bytes()
    assert "line 1 is no entry of an Optuna journal" in refusal(place)
    assert place.read_bytes() == before


def test_a_file_of_another_kind_that_does_not_end_with_a_line_is_not_told_to_be_mended(tmp_path):
    """Neither MLflow's own database nor a text is a journal that was cut off."""
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("create table runs (id text)")
        database.commit()
    (tmp_path / "search.json").write_text('{\n "kind": "search"\n}')
    for name in ("mlflow.db", "search.json"):
        message = refusal(tmp_path / name)
        assert "no entry of an Optuna journal" in message and "Delete" not in message


@pytest.mark.parametrize(
    "entry",
    [
        {"op_code": 99, "worker_id": "a"},
        {"op_code": 0, "worker_id": "a"},
        {"op_code": "0", "worker_id": "a"},
        {"op_code": 0},
        {"op_code": None},
    ],
    ids=str,
)
def test_entries_that_this_optuna_cannot_read_are_refused_with_its_version(tmp_path, entry):
    place = tmp_path / "a.journal"
    place.write_text(json.dumps(entry) + "\n")
    message = refusal(place)
    assert f"Optuna {optuna.__version__} cannot read" in message and "name another file" in message


def test_a_folder_is_refused(tmp_path):
    assert "no file can be read and written" in refusal(tmp_path)


@pytest.mark.parametrize("place", ["file/search.journal", "file/more/search.journal"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path, place):
    (tmp_path / "file").touch()
    message = refusal(tmp_path / place)
    assert "no file can be read and written" in message and message.endswith("Choose another place.")


def test_nothing_is_left_of_the_lock_of_a_refused_file(tmp_path):
    (tmp_path / "a.journal").write_text("no JSON\n")
    refusal(tmp_path / "a.journal")
    assert [path.name for path in tmp_path.iterdir()] == ["a.journal"]


# A database


@pytest.mark.parametrize(
    "url", ["mysql://ann:secret@host/studies", "sqlite:///studies.db", "redis://host", "http://h"]
)
def test_other_databases_are_refused_without_the_password(url):
    message = refusal(url)
    assert "must be a file or postgresql://user@host/database" in message and "use a file" in message
    assert "secret" not in message


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_a_server_that_does_not_answer_is_refused_within_seconds_and_without_the_password(scheme):
    began = time.monotonic()
    message = refusal(f"{scheme}://ann:secret@127.0.0.1:{closed_port()}/studies")
    assert time.monotonic() - began < 10
    assert "cannot be used: " in message and "ann:***@127.0.0.1" in message and "secret" not in message
    assert "Check that the server runs, the database is there, and the name and password (PGPASSWORD)" in message


def test_a_port_that_is_no_number_is_refused_in_one_line():
    assert "cannot be used" in refusal("postgresql://host:port/studies")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:secret@host/studies", "postgresql://ann:***@host/studies"),
        ("postgresql://ann:se:cr:et@host:5432/studies", "postgresql://ann:***@host:5432/studies"),
        ("postgresql://:secret@host/studies", "postgresql://:***@host/studies"),
        ("postgresql://ann:@host/studies", "postgresql://ann:***@host/studies"),
        ("postgresql://ann@host/studies", "postgresql://ann@host/studies"),
        ("postgresql://host:5432/studies", "postgresql://host:5432/studies"),
        ("postgresql:///studies", "postgresql:///studies"),
        ("search.journal", "search.journal"),
        ("a:b@c/search.journal", "a:b@c/search.journal"),
    ],
)
def test_a_url_is_shown_without_its_password(url, shown):
    assert storages.without_password(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        # SQLAlchemy takes all of these: what stands between the first colon and the @, and what the driver is given.
        "postgresql://ann:sec/ret@host/studies",
        "postgresql://host/studies?user=ann&password=sec/ret",
        "postgresql://host/studies?password=sec%2Fret",
    ],
)
def test_a_password_with_a_slash_or_among_the_options_is_not_shown_either(url):
    assert "ret" not in storages.without_password(url)


@pytest.mark.parametrize(
    "tracking_uri",
    [
        "postgresql://ann@localhost/mlflow",
        "postgresql+psycopg2://bob:other@localhost:5432/mlflow",
        "postgresql+psycopg://LOCALHOST/mlflow",
        "postgresql:///mlflow",
    ],
)
def test_mlflows_own_database_is_refused(tracking_uri):
    message = refusal("postgresql://ann:secret@localhost/mlflow", tracking_uri=tracking_uri)
    assert "is MLflow's own database. Make another one for studies." in message and "secret" not in message


@pytest.mark.parametrize("tracking_uri", ["", "sqlite:///mlflow.db", "http://localhost:5000", "postgresql://h:p/x"])
def test_another_tracking_store_is_no_reason_to_refuse_a_database(tracking_uri):
    assert "cannot be used" in refusal(f"postgresql://127.0.0.1:{closed_port()}/mlflow", tracking_uri=tracking_uri)


# Which trials are dead


def running(study, **system_attrs):
    """Number of a trial that runs in some process."""
    study.add_trial(create_trial(state=TrialState.RUNNING, system_attrs=system_attrs))
    return study.trials[-1].number


def stale(study):
    """Numbers of the trials that are told to be dead."""
    ids = study._storage._get_stale_trial_ids(study._study_id)
    return [trial.number for trial in study.trials if trial._trial_id in ids]


def process(pid=None, since=None, host=None):
    """A mark as a trial's process leaves it."""
    own = psutil.Process()
    return {
        "host": socket.gethostname() if host is None else host,
        "pid": own.pid if pid is None else pid,
        "since": own.create_time() if since is None else since,
    }


def test_a_trial_of_a_living_process_is_not_dead(study):
    running(study, **{heartbeats.PROCESS: process(), heartbeats.BEAT: time.time()})
    parent = psutil.Process(os.getppid())
    running(study, **{heartbeats.PROCESS: process(parent.pid, parent.create_time()), heartbeats.BEAT: time.time()})
    assert stale(study) == []


def gone():
    """Number of a process that ended, and when it began."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    began = psutil.Process(child.pid).create_time()
    child.kill()
    child.join(60)
    return child.pid, began


def test_a_trial_whose_process_is_gone_is_dead_at_once(study):
    pid, began = gone()
    dead = running(study, **{heartbeats.PROCESS: process(pid, began), heartbeats.BEAT: time.time()})
    assert stale(study) == [dead]


def test_a_trial_whose_process_ended_but_is_still_listed_is_dead_at_once(study):
    """As a killed one is until whoever began it asks how it ended."""
    child = subprocess.Popen(["sleep", "60"])
    marks = {heartbeats.PROCESS: process(child.pid, psutil.Process(child.pid).create_time())}
    child.kill()
    deadline = time.monotonic() + 60
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    dead = running(study, **marks, **{heartbeats.BEAT: time.time()})
    assert stale(study) == [dead]
    child.wait()


def test_a_process_with_the_number_of_one_that_is_gone_is_another(study):
    since = psutil.Process().create_time() - 3600
    dead = running(study, **{heartbeats.PROCESS: process(since=since), heartbeats.BEAT: time.time()})
    assert stale(study) == [dead]


def test_a_trial_on_another_host_is_dead_only_after_silence(study):
    # Signs of life are 30 seconds apart, so the grace is 120.
    pid, began = gone()
    marks = {heartbeats.PROCESS: process(pid, began, host="another-host")}
    running(study, **marks, **{heartbeats.BEAT: time.time() - 60})
    dead = running(study, **marks, **{heartbeats.BEAT: time.time() - 240})
    assert stale(study) == [dead]


def test_silence_of_a_living_process_is_death_too(study):
    """It hangs, or lost the storage: nobody waits for it forever."""
    dead = running(study, **{heartbeats.PROCESS: process(), heartbeats.BEAT: time.time() - 240})
    assert stale(study) == [dead]


def test_a_trial_that_never_gave_a_sign_of_life_is_dead_after_the_grace(study):
    def began(seconds):
        start = datetime.datetime.now() - datetime.timedelta(seconds=seconds)
        study.add_trial(
            optuna.trial.FrozenTrial(0, TrialState.RUNNING, None, start, None, {}, {}, {}, {}, {}, trial_id=0)
        )

    began(60)
    began(240)
    assert stale(study) == [1]


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.WAITING])
def test_trials_that_do_not_run_are_not_dead(study, state):
    values = {"value": 1.0} if state == TrialState.COMPLETE else {}
    marks = {heartbeats.PROCESS: process(since=1.0), heartbeats.BEAT: 1.0}
    study.add_trial(create_trial(state=state, system_attrs=marks, **values))
    assert stale(study) == []


def test_trials_of_another_study_are_left_alone(study):
    other = optuna.create_study(storage=study._storage, study_name="other")
    running(other, **{heartbeats.PROCESS: process(since=1.0)})
    assert stale(study) == [] and stale(other) == [0]


def test_dead_trials_are_failed_and_told_of_once(tmp_path):
    told = []
    storage = opened(tmp_path / "a.journal", on_stale=lambda study, trial: told.append((trial.number, trial.state)))
    study = optuna.create_study(storage=storage)
    running(study, **{heartbeats.PROCESS: process(since=1.0), heartbeats.BEAT: time.time()})
    running(study, **{heartbeats.PROCESS: process(), heartbeats.BEAT: time.time()})
    for _ in range(2):
        fail_stale_trials(study)
    assert told == [(0, TrialState.FAIL)] and study.trials[1].state == TrialState.RUNNING


def test_mine_are_the_trials_of_this_process(study):
    running(study, **{heartbeats.PROCESS: process()})
    running(study, **{heartbeats.PROCESS: process(since=1.0)})
    running(study, **{heartbeats.PROCESS: process(host="another-host")})
    running(study)
    assert [heartbeats.is_mine(trial) for trial in study.trials] == [True, False, False, False]
    assert [heartbeats.is_gone(trial) for trial in study.trials] == [False, True, False, False]


# Signs of life


def beat_of(study, number=0):
    trial = study.get_trials(deepcopy=False)[number]
    return trial.system_attrs.get(heartbeats.BEAT)


def waited_for(value, seconds=20):
    """The first value that is something; fails after far longer than it takes."""
    deadline = time.monotonic() + seconds
    while not (found := value()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_signs_of_life_are_given_while_a_trial_runs_and_say_which_process_it_is(tmp_path):
    study = optuna.create_study(storage=opened(tmp_path / "a.journal", heartbeat=1), study_name="mixtures")
    elsewhere = optuna.load_study(storage=opened(tmp_path / "a.journal"), study_name="mixtures")
    seen = []

    def objective(trial):
        first = waited_for(lambda: beat_of(elsewhere))
        seen.extend((first, waited_for(lambda: beat_of(elsewhere) != first and beat_of(elsewhere))))
        assert heartbeats.is_mine(elsewhere.get_trials(deepcopy=False)[0]) and stale(elsewhere) == []
        return 1.0

    study.optimize(objective, n_trials=1)
    assert seen[0] < seen[1] <= time.time() and study.trials[0].value == 1.0


def test_a_sign_of_life_of_a_trial_that_was_taken_for_dead_is_no_error(study):
    number = running(study)
    trial_id = study.trials[number]._trial_id
    study._storage.record_heartbeat(trial_id)
    assert beat_of(study, number) and heartbeats.is_mine(study.trials[number])
    study._storage.set_trial_state_values(trial_id, TrialState.FAIL)
    before = beat_of(study, number)
    study._storage.record_heartbeat(trial_id)
    assert beat_of(study, number) == before


def test_a_trial_that_was_taken_for_dead_before_its_first_sign_of_life_is_no_error_either(study):
    number = running(study)
    study._storage.set_trial_state_values(study.trials[number]._trial_id, TrialState.FAIL)
    study._storage.record_heartbeat(study.trials[number]._trial_id)
    assert beat_of(study, number) is None


def test_the_grace_follows_the_heartbeat(tmp_path):
    study = optuna.create_study(storage=opened(tmp_path / "a.journal", heartbeat=5), study_name="mixtures")
    assert study._storage.get_heartbeat_interval() == 5
    running(study, **{heartbeats.PROCESS: process(host="another-host"), heartbeats.BEAT: time.time() - 60})
    slow = optuna.load_study(storage=opened(tmp_path / "a.journal", heartbeat=30), study_name="mixtures")
    assert stale(study) == [0] and stale(slow) == []


# A database, which has Optuna's own heartbeats


@pytest.fixture
def in_database(tmp_path):
    """A study in SQLite, whose class is that of PostgreSQL."""
    storage = heartbeats.Database(f"sqlite:///{tmp_path / 'studies.db'}", heartbeat_interval=30, grace_period=120)
    return optuna.create_study(storage=storage, study_name="mixtures")


def test_in_a_database_a_trial_whose_process_is_gone_is_dead_at_once_and_one_that_lives_is_not(in_database):
    pid, began = gone()
    running(in_database, **{heartbeats.PROCESS: process()})
    dead = running(in_database, **{heartbeats.PROCESS: process(pid, began)})
    running(in_database, **{heartbeats.PROCESS: process(pid, began, host="another-host")})
    running(in_database)
    assert stale(in_database) == [dead]


def test_in_a_database_a_trial_that_never_gave_a_sign_of_life_is_dead_after_the_grace(in_database):
    for seconds in (60, 240):
        start = datetime.datetime.now() - datetime.timedelta(seconds=seconds)
        in_database.add_trial(
            optuna.trial.FrozenTrial(0, TrialState.RUNNING, None, start, None, {}, {}, {}, {}, {}, trial_id=0)
        )
    assert stale(in_database) == [1]


def test_in_a_database_a_sign_of_life_says_which_process_it_is_and_is_no_error_when_it_comes_too_late(in_database):
    number = running(in_database)
    trial_id = in_database.trials[number]._trial_id
    for _ in range(2):
        in_database._storage.record_heartbeat(trial_id)
    assert heartbeats.is_mine(in_database.trials[number]) and stale(in_database) == []
    in_database._storage.set_trial_state_values(trial_id, TrialState.FAIL)
    in_database._storage.record_heartbeat(trial_id)
    late = running(in_database)
    in_database._storage.set_trial_state_values(in_database.trials[late]._trial_id, TrialState.FAIL)
    in_database._storage.record_heartbeat(in_database.trials[late]._trial_id)
    assert not heartbeats.is_mine(in_database.trials[late])
