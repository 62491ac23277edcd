"""Prompt sets: built in, CSV, JSONL, or a hub data set; with or without the answers that go with them.

A source is one text: ``builtin:<set>``, a file, or a hub id; column names, and a hub data set's split, may follow
as in ``answers.csv?prompt=question&response=reply`` or ``org/name?split=train&prompt=goal``.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from visage_mlflow.language.folders import exists
from visage_mlflow.text.errors import Mistake

BUILTIN: dict[str, tuple[str, str]] = {
    "builtin:harmful_eval": ("harmful_eval.jsonl", ""),
    "builtin:benign_eval": ("benign_eval.jsonl", "answer"),
    "builtin:harmful": ("harmful_train.jsonl", "opening"),
    "builtin:safe": ("harmful_train.jsonl", "refusal"),
    "builtin:benign": ("benign_train.jsonl", "answer"),
}
"""Built-in set -> its file, and the column that holds the response ("" where there is none)."""

OPTIONS = ("prompt", "response", "split")
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
LONGEST_CELL = 100_000
"""Characters: no chat model reads a longer prompt, and to try takes all memory."""
LONGEST_CATEGORY = 200


@dataclass(frozen=True)
class Row:
    """One prompt and, where the source has it, the response that goes with it."""

    prompt: str
    response: str = ""
    category: str = ""


def read(source: str, *, setting: str, needs_response: bool = False) -> list[Row]:
    """Read a prompt set.

    Args:
        source: What the module's docstring describes.
        setting: The setting's name in error messages.
        needs_response: Whether every row must have a response (training data and held-out answers do).

    Raises:
        Mistake: The source is missing, empty, not UTF-8, lacks a column, or has an empty or non-text cell.
    """
    place, columns = split_source(source, setting)
    if place in BUILTIN and columns:
        raise Mistake(f"`{setting}` is {source!r}, but built-in sets take no options. Try {place}.")
    if needs_response and place in BUILTIN and not BUILTIN[place][1]:
        answered = [name for name, (_, column) in BUILTIN.items() if column]
        raise Mistake(f"`{setting}` is {source!r}, which has no responses. Try one of {', '.join(answered)}.")
    prompt_column, response_column, records = open_source(place, columns, setting)
    rows = []
    for number, record in enumerate(records, start=1):
        prompt = cell(record, prompt_column, number, source, setting)
        optional = not needs_response and not record.get(response_column)
        response = "" if optional else cell(record, response_column, number, source, setting)
        rows.append(Row(prompt, response, as_text(record.get("category"))))
    if not rows:
        raise Mistake(f"`{setting}` is {source!r}, which has no rows. Give a set with at least one prompt.")
    return rows


def first(rows: list[Row], count: int, *, setting: str) -> list[Row]:
    """The first `count` rows; Mistake where there are fewer."""
    if count > len(rows):
        raise Mistake(f"`{setting}` is {count}, but the set has {len(rows)} rows. Ask for at most {len(rows)}.")
    return rows[:count]


def split_source(source: str, setting: str) -> tuple[str, dict[str, str]]:
    """``place?prompt=a&response=b`` -> the place and its options."""
    place, _, query = source.partition("?")
    columns = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(columns) - set(OPTIONS))
    if unknown or not all(columns.values()) or (query and not columns):
        raise Mistake(
            f"`{setting}` is {source!r}: after `?` stand {', '.join(OPTIONS)} as `name=value` joined by `&`, "
            f"got {', '.join(unknown) or query!r}. Check the spelling."
        )
    return place, columns


def open_source(place: str, columns: Mapping[str, str], setting: str) -> tuple[str, str, Iterable[Mapping[str, Any]]]:
    """The prompt column, the response column and the records of a source."""
    prompt, response = columns.get("prompt", "prompt"), columns.get("response", "response")
    if place in BUILTIN:
        name, response = BUILTIN[place]
        text = resources.files("visage_mlflow").joinpath("prompt_sets").joinpath(name).read_text(encoding="utf-8")
        return "prompt", response, [json.loads(line) for line in text.splitlines()]
    if place.startswith("builtin:"):
        known = ", ".join(BUILTIN)
        raise Mistake(f"`{setting}` must be one of {known}, a file or a hub id, got {place!r}. Check it.")
    suffix = Path(place).suffix.lower()
    if suffix == ".csv":
        # AdvBench's own column names are what a CSV is expected to have.
        return columns.get("prompt", "goal"), columns.get("response", "target"), read_csv(place, setting)
    if suffix == ".jsonl":
        return prompt, response, read_jsonl(place, setting)
    if suffix in (".json", ".txt", ".parquet", ".tsv", ".xlsx") or exists(place):
        raise Mistake(f"`{setting}` must be a .csv or .jsonl file, got {place!r}. Save the rows in one of these.")
    if not HUB_ID.fullmatch(place) or ".." in place:
        raise Mistake(
            f"`{setting}` is {place!r}, which is no built-in set, no .csv or .jsonl file, and no hub id. Check the "
            "spelling."
        )
    return prompt, response, read_hub(place, columns.get("split", "train"), setting)


def read_text(path: str, setting: str) -> str:
    """A text file's content, with the byte order mark that spreadsheets write removed."""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Mistake(
            f"`{setting}` is {path!r}, which is not UTF-8 (byte {error.start}). Save the file again as UTF-8."
        ) from error
    except (OSError, RuntimeError, ValueError) as error:  # The last two: the home of nobody, a zero byte.
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise Mistake(f"`{setting}` is {path!r}, which cannot be read: {reason}. Check the path.") from error


def read_csv(path: str, setting: str) -> list[dict[str, Any]]:
    """The rows of a CSV file with a header line."""
    try:
        return list(csv.DictReader(io.StringIO(read_text(path, setting), newline="")))
    except csv.Error as error:
        raise Mistake(
            f"`{setting}` is {path!r}, which is not CSV: {error}. Look for a quote that is never closed."
        ) from error


def read_jsonl(path: str, setting: str) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file."""
    records = []
    # Not splitlines(): JSON text may hold U+2028 and its like, which that takes for line ends.
    for number, line in enumerate(read_text(path, setting).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", str(error))
            raise Mistake(
                f"`{setting}` is {path!r}, whose line {number} is not JSON: {reason}. Mend or remove the line."
            ) from error
        if not isinstance(record, dict):
            raise Mistake(
                f'`{setting}` is {path!r}, whose line {number} must be a JSON object. Write it as {{"prompt": …}}.'
            )
        records.append(record)
    return records


def read_hub(place: str, split: str, setting: str) -> Iterable[Mapping[str, Any]]:
    """The rows of one split of a hub data set."""
    from datasets import load_dataset

    try:
        rows: Iterable[Mapping[str, Any]] = load_dataset(place, split=split)
    except Exception as error:  # The library raises a dozen unrelated types for "not there".
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Mistake(
            f"`{setting}` is {place!r}, which is no built-in set, no .csv or .jsonl file, and as a hub data set "
            f"(split {split}) could not be loaded: {reason} Check the spelling and the network."
        ) from error
    return rows


def as_text(category: Any) -> str:
    """A row's category as files can hold it; "" without one."""
    return str(category or "").encode("utf-8", "replace").decode("utf-8")[:LONGEST_CATEGORY]


def cell(record: Mapping[str, Any], column: str, number: int, source: str, setting: str) -> str:
    """The non-empty text in a column of row `number`."""
    if column not in record:
        there = " ".join(", ".join(str(name) for name in record if name is not None).split())
        raise Mistake(
            f"`{setting}` is {source!r}, whose row {number} has no column {column!r} (it has: {there}). "
            f"Name the column, as in `{source.partition('?')[0]}?prompt=…&response=…`."
        )
    value = record[column]
    if not isinstance(value, str) or not value.strip():
        raise Mistake(
            f"`{setting}` is {source!r}, whose row {number} has {value!r} in column {column!r}: it must be a "
            f"text that is not empty. Mend or remove the row."
        )
    try:
        value.encode("utf-8")
        problem = f"{len(value)} characters, more than {LONGEST_CELL}" if len(value) > LONGEST_CELL else ""
    except UnicodeEncodeError:
        problem = "half a character (a lone surrogate), which no file can hold"
    if problem:
        raise Mistake(
            f"`{setting}` is {source!r}, whose row {number} has {problem}, in column {column!r}. Mend or remove it."
        )
    return value.strip()
