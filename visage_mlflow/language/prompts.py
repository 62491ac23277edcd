"""Prompt sets: built in, CSV, JSONL, or a hub data set; with or without the answers that go with them.

A source is one text: ``builtin:<set>``, a file, or a hub id; column names, the first and last row, and
a hub data set's split may follow as in ``answers.csv?prompt=question&rows=81..520`` or ``org/name?split=train``.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from visage_mlflow.language.folders import exists
from visage_mlflow.text.errors import Mistake
from visage_mlflow.text.folders import place_of

BUILTIN: dict[str, tuple[str, str]] = {
    "builtin:harmful_eval": ("harmful_eval.jsonl", ""),
    "builtin:benign_eval": ("benign_eval.jsonl", "answer"),
    "builtin:harmful": ("harmful_train.jsonl", "opening"),
    "builtin:safe": ("harmful_train.jsonl", "refusal"),
    "builtin:benign": ("benign_train.jsonl", "answer"),
}
"""Built-in set -> its file, and the column that holds the response ("" where there is none)."""

OPTIONS = ("prompt", "response", "split", "rows")
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
    try:
        return _rows(source, needs_response)
    except Mistake as mistake:
        raise Mistake(f"`{setting}` is {source!r}, {mistake}") from mistake


def first(rows: list[Row], count: int, *, setting: str) -> list[Row]:
    """The first `count` rows; Mistake where there are fewer."""
    if count > len(rows):
        raise Mistake(f"`{setting}` is {count}, but the set has {len(rows)} rows. Ask for at most {len(rows)}.")
    return rows[:count]


# What follows raises Mistake with the rest of a sentence that `read` begins.


def _rows(source: str, needs_response: bool) -> list[Row]:
    place, columns = split_source(source)
    if place in BUILTIN and columns.keys() - {"rows"}:
        raise Mistake(f"but built-in sets take no option but `rows`. Try {place}.")
    if needs_response and place in BUILTIN and not BUILTIN[place][1]:
        answered = [name for name, (_, column) in BUILTIN.items() if column]
        raise Mistake(f"which has no responses. Try one of {', '.join(answered)}.")
    prompt_column, response_column, records = open_source(place, columns)
    rows, number = [], 0
    begin, end = row_range(columns.get("rows", "1.."))
    for number, record in enumerate(records, start=1):
        if not begin <= number <= end:
            continue
        prompt = cell(record, prompt_column, number, place)
        optional = not needs_response and not record.get(response_column)
        response = "" if optional else cell(record, response_column, number, place)
        category = str(record.get("category") or "").encode("utf-8", "replace").decode("utf-8")
        rows.append(Row(prompt, response, category[:LONGEST_CATEGORY]))
    if not number:
        raise Mistake("which has no rows. Give a set with at least one prompt.")
    if number < begin or number < end < math.inf:
        cure = f"Try `rows={begin}..`" if begin <= number else "Begin earlier"
        raise Mistake(f"but there are {number} rows, and `rows={columns['rows']}` asks for more. {cure}.")
    return rows


def split_source(source: str) -> tuple[str, dict[str, str]]:
    """``place?prompt=a&response=b`` -> the place and its options."""
    place, _, query = source.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    columns = dict(pairs)
    if twice := sorted(name for name in columns if sum(name == each for each, _ in pairs) > 1):
        raise Mistake(f"but names {', '.join(twice)} more than once. Give each option once.")
    unknown = sorted(set(columns) - set(OPTIONS))
    if unknown or not all(columns.values()) or (query and not columns):
        raise Mistake(
            f"but after `?` stand {', '.join(OPTIONS)} as `name=value` joined by `&`, got "
            f"{', '.join(unknown) or query!r}. Check the spelling."
        )
    return place, columns


def row_range(text: str) -> tuple[int, float]:
    """The first and last row, counted from 1.

    >>> row_range("81..520"), row_range("81..")
    ((81, 520), (81, inf))
    """
    match = re.fullmatch(r"([1-9]\d{0,9})\.\.(\d{0,10})", text, re.ASCII)
    begin, end = (int(match[1]), int(match[2]) if match[2] else math.inf) if match else (1, 0)
    if end < begin:
        one = re.fullmatch(r"[1-9]\d{0,9}", text, re.ASCII)
        cure = f"For that row alone, write rows={text}..{text}." if one else "Try rows=1..80."
        raise Mistake(f"but `rows` must be a first and a last row, counted from 1, got {text!r}. {cure}")
    return begin, end


def open_source(place: str, columns: Mapping[str, str]) -> tuple[str, str, Iterable[Mapping[str, Any]]]:
    """The prompt column, the response column and the records of a source."""
    prompt, response = columns.get("prompt", "prompt"), columns.get("response", "response")
    if place in BUILTIN:
        name, response = BUILTIN[place]
        text = resources.files("visage_mlflow").joinpath("prompt_sets").joinpath(name).read_text(encoding="utf-8")
        return "prompt", response, [json.loads(line) for line in text.splitlines()]
    if place.startswith("builtin:"):
        raise Mistake(f"which must be one of {', '.join(BUILTIN)}, a file or a hub id. Check it.")
    suffix = Path(place).suffix.lower()
    if suffix in (".csv", ".jsonl") and "split" in columns:
        raise Mistake("but only a hub data set has a split. Leave out `split`, or take part of the file by `rows`.")
    if suffix == ".csv":
        # AdvBench's own column names are what a CSV is expected to have.
        return columns.get("prompt", "goal"), columns.get("response", "target"), read_csv(place)
    if suffix == ".jsonl":
        return prompt, response, read_jsonl(place)
    if suffix in (".json", ".txt", ".parquet", ".tsv", ".xlsx") or exists(place):
        raise Mistake("which must be a .csv or .jsonl file. Save the rows in one of these.")
    if not HUB_ID.fullmatch(place) or ".." in place:
        raise Mistake("which is no built-in set, no .csv or .jsonl file, and no hub id. Check the spelling.")
    return prompt, response, read_hub(place, columns.get("split", "train"))


def read_text(path: str) -> str:
    """A text file's content, with the byte order mark that spreadsheets write removed."""
    try:
        return place_of(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Mistake(f"which is not UTF-8 (byte {error.start}). Save the file again as UTF-8.") from error
    except (OSError, ValueError) as error:  # The latter: a zero byte.
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise Mistake(f"which cannot be read: {reason}. Check the path.") from error


def read_csv(path: str) -> list[dict[str, Any]]:
    """The rows of a CSV file with a header line."""
    try:
        return list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    except csv.Error as error:
        raise Mistake(f"which is not CSV: {error}. Look for a quote that is never closed.") from error


def read_jsonl(path: str) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file."""
    records = []
    # Not splitlines(): JSON text may hold U+2028 and its like, which that takes for line ends.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", str(error))
            raise Mistake(f"whose line {number} is not JSON: {reason}. Mend or remove the line.") from error
        if not isinstance(record, dict):
            raise Mistake(f'whose line {number} must be a JSON object. Write it as {{"prompt": …}}.')
        records.append(record)
    return records


def read_hub(place: str, split: str) -> Iterable[Mapping[str, Any]]:
    """The rows of one split of a hub data set."""
    from datasets import load_dataset

    try:
        rows: Iterable[Mapping[str, Any]] = load_dataset(place, split=split)
    except Exception as error:  # The library raises a dozen unrelated types for "not there".
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Mistake(
            f"which is no built-in set, no .csv or .jsonl file, and as a hub data set (split {split}) could not be "
            f"loaded: {reason} Check the spelling and the network."
        ) from error
    return rows


def cell(record: Mapping[str, Any], column: str, number: int, place: str) -> str:
    """The non-empty text in a column of row `number`."""
    if column not in record:
        there = " ".join(", ".join(str(name) for name in record if name is not None).split())
        raise Mistake(
            f"whose row {number} has no column {column!r} (it has: {there}). Name the column, as in "
            f"`{place}?prompt=…&response=…`."
        )
    value = record[column]
    if not isinstance(value, str) or not value.strip():
        problem = f"{value!r} in column {column!r}: it must be a text that is not empty"
    elif len(value) > LONGEST_CELL:
        problem = f"{len(value)} characters, more than {LONGEST_CELL}, in column {column!r}"
    elif re.search("[\ud800-\udfff]", value):
        problem = f"half a character (a lone surrogate), which no file can hold, in column {column!r}"
    else:
        return value.strip()
    raise Mistake(f"whose row {number} has {problem}. Mend or remove the row.")
