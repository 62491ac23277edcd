"""Points on disk: read back as they were, shared by threads and processes, and never wrong after damage."""

import hashlib
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from visage_mlflow.measuring import store as stores
from visage_mlflow.measuring.store import DAY, Store, open_store, place

ROOT = Path(__file__).parents[1]
SPAWN = multiprocessing.get_context("spawn")


def key(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def content(number):
    """As a point's: hardly compressible, of a length that depends on the number."""
    rng = random.Random(number)
    return [[f"{rng.getrandbits(64):x} " * rng.randrange(2, 30), "complied"] for _ in range(rng.randrange(1, 12))]


def fill(store, numbers):
    for number in numbers:
        store.put(key(number), content(number), kind="responses", model=f"org/model-{number % 2}")


def wholly(store, numbers):
    """Which points are there; none may be there as anything else than it was."""
    found = {number: kept for number in numbers if (kept := store.get(key(number))) is not None}
    assert [number for number, kept in found.items() if kept != content(number)] == []
    return list(found)


def one_line(caught):
    message = str(caught.value)
    assert message.startswith("`store` is ") and "\n" not in message and message.endswith(".")
    return message


@pytest.fixture
def path(tmp_path):
    return tmp_path / "points.db"


@pytest.fixture
def kept(path):
    """A closed store's file with 40 points."""
    store = Store(path)
    fill(store, range(40))
    store.close()
    return path


# What comes back


@pytest.mark.parametrize(
    "content",
    [
        [],
        [[None, "unjudged"], ["", "refused"]],
        [[None]],
        [2.718281828459045],
        [5e-324, 1.7976931348623157e308, -0.0, 0.1 + 0.2],
        [["line\nline\r\n\t\0\x1b", "complied"]],
        [["Grüße, 你好, 🙂, \u202eרtl, e\u0301", "complied"]],
        [["half a pair: \ud83d", "incoherent"]],
        ["x" * 3_000_000],
    ],
    ids=["empty", "no-text", "none", "number", "extremes", "controls", "languages", "surrogate", "long"],
)
def test_what_is_kept_comes_back_as_it_was_here_and_in_another_process(path, content):
    store = Store(path)
    store.put(key(0), content, kind="responses", model="org/model")
    store.close()
    again = Store(path).get(key(0))
    assert again == content and repr(again) == repr(content)  # -0.0 is equal to 0.0.


def test_what_was_never_kept_is_none_and_what_is_kept_anew_replaces_the_old(path):
    store = Store(path)
    assert store.get(key(0)) is None and store.entries() == []
    fill(store, [0, 1])
    store.put(key(0), ["new"], kind="answers", model="org/other")
    assert store.get(key(0)) == ["new"] and store.get(key(1)) == content(1)
    told = {(entry.key, entry.kind, entry.model) for entry in store.entries()}
    assert told == {(key(0), "answers", "org/other"), (key(1), "responses", "org/model-1")}


def test_entries_say_kind_model_times_and_size_the_longest_unused_first(path, monkeypatch):
    store = Store(path)
    for number, when in enumerate([3000.0, 1000.0, 2000.0]):
        monkeypatch.setattr(stores.time, "time", lambda when=when: when)
        fill(store, [number])
    found = store.entries()
    assert [entry.key for entry in found] == [key(1), key(2), key(0)]
    assert [(entry.created, entry.used) for entry in found] == [(when, when) for when in (1000.0, 2000.0, 3000.0)]
    assert {entry.kind for entry in found} == {"responses"}
    assert [entry.model for entry in found] == ["org/model-1", "org/model-0", "org/model-0"]
    assert 0 < sum(entry.size for entry in found) <= store.size()


def test_reading_a_point_tells_of_its_use_once_a_day(path, monkeypatch):
    store = Store(path)
    now = 1e9
    monkeypatch.setattr(stores.time, "time", lambda: now)
    fill(store, [0])
    for later, used in ((0.9 * DAY, 0.0), (1.1 * DAY, 1.1 * DAY), (1.9 * DAY, 1.1 * DAY)):
        now = 1e9 + later
        assert store.get(key(0)) == content(0)
        (entry,) = store.entries()
        assert (entry.created, entry.used) == (1e9, 1e9 + used)


def test_points_that_are_forgotten_are_gone_and_their_room_with_them(path):
    store = Store(path)
    fill(store, range(60))
    before = store.size()
    store.remove([key(number) for number in range(50)])
    assert wholly(store, range(60)) == list(range(50, 60)) and store.size() < before / 2
    store.remove([])
    store.remove([key(1)])
    assert wholly(Store(path), range(60)) == list(range(50, 60))


# Where it is


def test_the_setting_goes_before_the_variable_and_that_before_the_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VISAGE_STORE")
    assert place("") == tmp_path / "cache" / "points.db"
    monkeypatch.setenv("VISAGE_STORE", "~/mine.db")
    assert place("") == tmp_path / "home" / "mine.db"
    assert place("here.db") == tmp_path / "here.db" and place("off") is None
    monkeypatch.setenv("VISAGE_STORE", "off")
    assert place("") is None and open_store("") is None
    assert place("here.db") == tmp_path / "here.db"


def test_a_process_opens_a_store_once_and_makes_the_folders_around_it(tmp_path):
    path = tmp_path / "some" / "where" / "my points?#%.db"
    store = open_store(str(path))
    fill(store, [0])
    assert open_store(str(path)) is store and path.exists()
    assert not [other for other in path.parent.iterdir() if not other.name.startswith("my points?#%.db")]


# Files that are not ours


def mlflow_like(path, application=0, mode="delete"):
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA application_id = {application}")
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("CREATE TABLE points (key TEXT)")
    connection.executemany("INSERT INTO points VALUES (?)", [(key(number),) for number in range(500)])
    connection.commit()
    connection.close()
    return path


def foreign_wal(path):
    """A database of a program that died: its last rows are in the log beside it only."""
    script = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA journal_mode = WAL');"
        "c.execute('CREATE TABLE other (x)'); c.execute('INSERT INTO other VALUES (1)'); c.commit(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, path], check=True)
    assert path.with_name(path.name + "-wal").stat().st_size > 0


OTHERS = {
    "mlflow": lambda path: path.write_bytes(path.with_name("mlflow.db").read_bytes()),
    "other-application": lambda path: mlflow_like(path, 0x12345678),
    "same-table": mlflow_like,
    "write-ahead": lambda path: mlflow_like(path, mode="wal"),
    "died-writing": foreign_wal,
    "damaged": lambda path: path.write_bytes(
        b"".join([mlflow_like(path).read_bytes()[:4096], os.urandom(8192), path.read_bytes()[12288:]])
    ),
    "cut": lambda path: path.write_bytes(mlflow_like(path).read_bytes()[:5000]),
    "text": lambda path: path.write_text("goal,target\nHow do I …,Sure\n"),
    "short-text": lambda path: path.write_text("x"),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_programs_file_is_refused_and_left_byte_for_byte(path, kind, empty_store):
    shutil.copy(empty_store, path.with_name("mlflow.db"))
    OTHERS[kind](path)
    before = {other.name: other.read_bytes() for other in path.parent.iterdir()}
    with pytest.raises(ValueError) as caught:
        Store(path)
    assert repr(str(path)) in one_line(caught) and "Name another file" in one_line(caught)
    assert {other.name: other.read_bytes() for other in path.parent.iterdir()} == before


def test_a_database_without_a_table_is_anybodys(path):
    with sqlite3.connect(path) as connection:
        connection.execute("VACUUM")
    fill(Store(path), [0])
    assert wholly(Store(path), [0]) == [0]


@pytest.mark.parametrize("where", ["folder", "in-a-file", "in-proc", "device", "pipe", "long-name", "locked"])
def test_a_place_where_no_file_can_be_is_one_line(tmp_path, where, monkeypatch):
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "locked.db.lock").mkdir()
    places = {
        "folder": tmp_path,
        "in-a-file": tmp_path / "file" / "points.db",
        "in-proc": Path("/proc/points.db"),
        "device": Path("/dev/null"),
        "pipe": tmp_path / "pipe",
        "long-name": tmp_path / ("x" * 300),
        "locked": tmp_path / "locked.db",
    }
    with pytest.raises(ValueError) as caught:
        Store(places[where])
    assert repr(str(places[where])) in one_line(caught)


def test_a_folder_that_may_not_be_written_to_is_one_line(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "shut").mkdir(mode=0o500)
    with pytest.raises(ValueError) as caught:
        Store(tmp_path / "shut" / "points.db")
    assert "Permission denied" in one_line(caught) and "store=off" in one_line(caught)


def test_a_store_whose_lock_nobody_gives_back_is_one_line(path, monkeypatch):
    monkeypatch.setattr("visage_mlflow.measuring.database.PATIENCE", 0.2)
    from filelock import FileLock

    with FileLock(f"{path}.lock"), pytest.raises(ValueError) as caught:
        Store(path)
    assert "lock" in one_line(caught)


def test_a_store_that_another_program_holds_is_one_line_and_goes_on_after_it(path, monkeypatch):
    monkeypatch.setattr("visage_mlflow.measuring.database.PATIENCE", 0.2)
    store = Store(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ValueError) as caught:
        fill(store, [0])
    assert "locked" in one_line(caught) and store.get(key(0)) is None
    other.execute("COMMIT")
    fill(store, [0])
    assert wholly(store, [0]) == [0]


# Damage


@pytest.mark.parametrize("seed", range(4))
def test_a_file_cut_anywhere_never_gives_wrong_points_and_takes_new_ones(kept, seed, capsys):
    """Twelve lengths each: all of the header's, then anywhere."""
    whole, rng = kept.read_bytes(), random.Random(seed)
    lengths = [rng.randrange(1, 101) for _ in range(4)] + [rng.randrange(len(whole)) for _ in range(8)]
    for length in lengths:
        kept.write_bytes(whole[:length])
        store = Store(kept)
        fill(store, set(range(40)) - set(wholly(store, range(40))))
        assert wholly(store, range(40)) == list(range(40)), length
        store.close()
        assert wholly(Store(kept), range(40)) == list(range(40))
        (aside,) = kept.parent.glob("*.damaged-1")
        assert aside.read_bytes() == whole[:length]
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "cut off" in said and "points.db.damaged-1" in said
        for path in kept.parent.iterdir():
            path.unlink()


@pytest.mark.parametrize("seed", range(4))
def test_a_file_with_a_flipped_byte_never_gives_wrong_points_and_takes_new_ones(kept, seed):
    """Forty places each, headers and pages alike. What was hit is lost, or the file set aside; the rest is right."""
    whole, rng = bytearray(kept.read_bytes()), random.Random(seed)
    for _ in range(40):
        at = rng.choice([rng.randrange(100), rng.randrange(len(whole))])
        damaged = whole.copy()
        damaged[at] ^= 1 << rng.randrange(8)
        kept.write_bytes(damaged)
        try:
            store = Store(kept)
            for _ in range(2):  # Damage may show only when a point is looked for.
                fill(store, set(range(40)) - set(wholly(store, range(40))))
                store.entries()
            assert wholly(store, range(40)) == list(range(40)), at
            store.close()
        except ValueError as error:
            if at == 18:  # Which programs may write to it.
                assert "readonly" in str(error)
            else:  # In the 16 bytes that begin a database, or the number that makes it ours.
                assert (at < 16 or 68 <= at < 72) and "something else" in str(error)
                assert kept.read_bytes() == damaged
        for path in kept.parent.iterdir():
            path.unlink()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("content", b"no zlib"),
        ("content", "text"),
        ("digest", "0" * 64),
        ("digest", b"\xff\xfe"),
        ("used", "never"),
        ("used", b"\xff"),
        ("model", b"\xff\xfe"),
    ],
)
def test_a_point_of_which_one_value_is_damaged_is_not_read_as_another_and_kept_anew(kept, column, value):
    with sqlite3.connect(kept) as connection:
        text = value if column == "content" or isinstance(value, str) else value.decode("latin-1")
        cast = f"CAST(? AS {'TEXT' if column in ('digest', 'model') else 'BLOB'})" if value == b"\xff\xfe" else "?"
        connection.execute(f"UPDATE points SET {column} = {cast} WHERE key = ?", (value or text, key(3)))
    store = Store(kept)
    assert store.get(key(3)) == (content(3) if column in ("used", "model") else None)
    assert len(store.entries()) == 40
    fill(store, [3])
    assert wholly(store, range(40)) == list(range(40)) and not list(kept.parent.glob("*.damaged-*"))


def test_damage_that_shows_late_is_set_aside_then_and_the_points_are_kept_anew(path, capsys):
    store = Store(path)
    fill(store, range(40))
    store._database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))
    other = Store(path)  # Its cache holds nothing yet.
    assert wholly(other, range(40)) == []
    assert "is damaged" in capsys.readouterr().err
    fill(other, range(40))
    fill(store, range(40, 44))  # The first one follows into the new file.
    assert wholly(store, range(44)) == wholly(other, range(44)) == list(range(44))
    assert len(list(path.parent.glob("*.damaged-?"))) == 1


def test_a_store_deleted_while_it_is_open_is_begun_anew(path):
    store = Store(path)
    fill(store, [0])
    for name in ("", "-wal", "-shm"):
        path.with_name(path.name + name).unlink()
    assert store.get(key(0)) is None
    fill(store, [1])
    assert wholly(Store(path), [0, 1]) == [1]


def test_a_mistake_in_a_call_costs_no_store(path):
    store = Store(path)
    fill(store, [0])
    with pytest.raises(sqlite3.Error):
        store.put(key(1), [], kind="responses", model=Path("model"))
    with pytest.raises(sqlite3.Error):
        store.put(key(1), [], kind="responses", model=None)
    assert wholly(store, [0, 1]) == [0] and not list(path.parent.glob("*.damaged-*"))


# Sharing


def test_threads_share_a_store(path):
    store, problems = Store(path), []

    def work(first):
        try:
            for number in range(first, first + 25):
                fill(store, [number])
                assert wholly(store, range(number + 1))
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(25 * index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [] and wholly(store, range(150)) == list(range(150))


def write(path, first, go):
    """What one of several processes does: open, and add points, half of which others add, too."""
    go.wait()
    store = Store(path)
    for number in range(first, first + 20):
        fill(store, [number])
        assert store.get(key(number)) == content(number)


def test_eight_processes_open_a_store_that_is_not_there_yet_and_write_to_it(path):
    go = SPAWN.Event()
    processes = [SPAWN.Process(target=write, args=(path, 10 * index, go)) for index in range(8)]
    for process in processes:
        process.start()
    go.set()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert wholly(Store(path), range(90)) == list(range(90)) and not list(path.parent.glob("*.damaged-*"))


def test_processes_that_find_the_same_damage_begin_one_new_store(kept):
    whole = kept.read_bytes()
    kept.write_bytes(whole[:4096] + bytes(len(whole) - 4096))
    go = SPAWN.Event()
    processes = [SPAWN.Process(target=write, args=(kept, 10 * index, go)) for index in range(4)]
    for process in processes:
        process.start()
    go.set()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert wholly(Store(kept), range(50)) == list(range(50))
    assert len(list(kept.parent.glob("*.damaged-?"))) == 1


WRITER = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from test_store import Store, fill
store, number = Store(Path({path!r})), int(sys.argv[1])
while True:
    fill(store, [number])
    print(number, flush=True)
    number += 1
"""


def test_a_writer_that_is_killed_again_and_again_leaves_whole_points_and_loses_none_that_it_had_finished(path):
    rng, told = random.Random(7), 0
    script = WRITER.format(root=str(ROOT), tests=str(ROOT / "tests"), path=str(path))
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", script, str(told)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.1))
        process.kill()
        told = max([told, *(int(line) + 1 for line in process.stdout)])
        process.wait()
        store = Store(path)
        assert wholly(store, range(told + 1))[:told] == list(range(told))
        assert store._database.rows("PRAGMA integrity_check") == [("ok",)]
        store.close()
    assert told > 5 and not list(path.parent.glob("*.damaged-*"))


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True) if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip("a small disk cannot be mounted here, which takes root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_what_was_kept_before_can_be_read(small_disk, monkeypatch):
    store, number = Store(small_disk / "points.db"), 0
    with pytest.raises(ValueError) as caught:
        while True:
            fill(store, [number])
            number += 1
    assert "full" in one_line(caught) and number > 20
    assert wholly(store, range(number + 1)) == list(range(number))
    late = time.time() + 2 * DAY
    monkeypatch.setattr(stores.time, "time", lambda: late)
    assert wholly(store, range(number)) == list(range(number))  # Even where the day of its last use cannot be told.
    with pytest.raises(ValueError):
        fill(store, [number])
    store.close()
    (small_disk / "ballast").write_bytes(b"")
    assert wholly(Store(small_disk / "points.db"), range(number + 1)) == list(range(number))


def test_a_disk_without_any_room_is_one_line(small_disk):
    kept = small_disk / "points.db"
    fill(Store(kept), range(10))
    with (small_disk / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
    script = f"from visage_mlflow.measuring.store import Store; from pathlib import Path; Store(Path({str(kept)!r}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1) and done.returncode != -signal.SIGBUS
    with pytest.raises(ValueError) as caught:
        Store(small_disk / "another.db")
    assert "store=off" in one_line(caught)
    (small_disk / "ballast").unlink()
    assert wholly(Store(kept), range(10)) == list(range(10))


def test_a_number_that_is_not_finite_is_kept_as_plain_json(path):
    """Callers keep None for NaN; what JSON itself makes of NaN comes back, too."""
    store = Store(path)
    store.put(key(0), [math.nan], kind="likelihood", model="org/model")
    assert math.isnan(store.get(key(0))[0])
    assert json.dumps(store.get(key(0))) == "[NaN]"
