"""What comes from others is shown as text, without secrets, and is no formula."""

import csv
import io
import time

import made
import pytest

from visage_mlflow.text.printing import cell, masked, printable, shown

# Text -> what may be shown of it.
SECRETS = {
    "postgresql://ann:hunter2@host/studies": "postgresql://ann:***@host/studies",
    "postgresql+psycopg://ann:hunter2@host": "postgresql+psycopg://ann:***@host",
    "PostgreSQL://ann:hunter2@host": "PostgreSQL://ann:***@host",
    "postgresql://:hunter2@host": "postgresql://:***@host",
    "postgresql://ann:hun@ter2@host": "postgresql://ann:***@host",
    "postgresql://ann:hun/ter2?hunter2#hunter2@host": "postgresql://ann:***@host",
    "postgresql://ann:12/hunter2@host": "postgresql://ann:***@host",
    "postgresql://ann:hun ter2@host": "postgresql://ann:***@host",
    "postgresql://ann%3Ahunter2@host": "postgresql://ann:***@host",
    "postgresql://ann:h%75nter2@host": "postgresql://ann:***@host",
    "mysql://ann:hunter2@host": "mysql://ann:***@host",
    "https://ann:hunter2@mlflow.host/api": "https://***@mlflow.host/api",
    "https://hunter2@github.com": "https://***@github.com",
    "https://hunter2:x-oauth-basic@github.com": "https://***@github.com",
    "databricks://hunter2@host": "databricks://***@host",
    "s3://key:hunter2@bucket/a": "s3://***@bucket/a",
    "postgresql:///db?host=h&password=hunter2": "postgresql:///db?host=h&password=***",
    "postgresql:///db?password=hunter2&host=h": "postgresql:///db?password=***&host=h",
    "postgresql:///db?pass%77ord=hunter2": "postgresql:///db?pass%77ord=***",
    "postgresql:///db?%50ASSWORD=hunter2;x=1": "postgresql:///db?%50ASSWORD=***",
    "postgresql:///db?p%2561ssword=hunter2": "postgresql:///db?p%2561ssword=***",
    "postgresql:///db?sslpassword=hunter2": "postgresql:///db?sslpassword=***",
    "https://host/a?X-Amz-Signature=hunter2&v=1": "https://host/a?X-Amz-Signature=***&v=1",
    "https://host/a?sv=1&sig=hunter2": "https://host/a?sv=1&sig=***",
    "https://host/a?access_token=hunter2": "https://host/a?access_token=***",
    "https://host/a?api-key=hunter2": "https://host/a?api-key=***",
    "host=h user=ann password=hunter2 port=1": "host=h user=ann password=*** port=1",
    "password='hunter2 hunter2'": "password=***",
    "MLFLOW_TRACKING_PASSWORD=hunter2": "MLFLOW_TRACKING_PASSWORD=***",
    "Authorization: Bearer hunter2hunter2": "Authorization: Bearer ***",
    "`storage` is 'postgresql://ann:hunter2@h/s?password=hunter2'. Try.": (
        "`storage` is 'postgresql://ann:***@h/s?password=***'. Try."
    ),
    "https://a:hunter2@h, then postgresql://b:hunter2@i/x": "https://***@h, then postgresql://b:***@i/x",
}
HARMLESS = [
    "postgresql://ann@host/db",
    "postgresql://host:5432/db?sslmode=require",
    "postgresql://host:5432 does not answer, ask ann@example.org",
    "sqlite:////home/ann/mlflow.db",
    "https://huggingface.co/org/name@main",
    "https://host:8080/path/of/it",
    "runs:/0123456789abcdef/checkpoint-40",
    "models:/chat@champion",
    "answers.csv?prompt=question&response=reply",
    "`learning_rate` 1.0 is too high: try a tenth of it.",
    "the bearer of bad news",
    "Check the name and password (PGPASSWORD).",
    "ann@example.org",
    "",
]


@pytest.mark.parametrize(("text", "safe"), SECRETS.items(), ids=SECRETS)
def test_secrets_are_hidden_in_any_text_and_the_rest_of_it_stays(text, safe):
    assert masked(text) == safe and "hunter2" not in safe
    assert masked(f"before {text} after") == f"before {safe} after"


@pytest.mark.parametrize("text", [*HARMLESS, *SECRETS.values()])
def test_a_text_without_secrets_stays_as_it_is(text):
    assert masked(text) == text


@pytest.mark.parametrize("part", ["a", "a://", "a://b:", "?a", "?password=", "'", "://", "password=", "\x1b", "&a=("])
def test_the_time_that_a_text_takes_grows_as_it_does(part):
    def seconds(length):
        began = time.process_time()
        shown(part * (length // len(part)))
        return time.process_time() - began

    short, long = (min(seconds(length) for _ in range(3)) for length in (10_000, 40_000))
    assert long < 10 * short  # Four times as long; it would be sixteen, if each place were compared with each other.


@pytest.mark.parametrize(
    "control",
    ["\x1b", "\x00", "\x07", "\x08", "\r", "\x7f", "\x80", "\x9b", "\x9d", "\x85", "\u2028", "\u2029", "\ufeff"]
    + [chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C, 0xE0041)],
    ids=lambda one: f"U+{ord(one):04X}",
)
def test_characters_that_control_what_is_shown_are_written_out(control):
    found = printable(f"a{control}b")
    assert found.isprintable() and found[0] == "a" and found[-1] == "b" and found[1] == "\\"
    assert f"{ord(control):x}" in found or control == "\r"


def test_what_is_no_control_character_stays_line_ends_and_tabs_too():
    text = "line\n\tnext – “ASR” 98.8 %, ümläut, 日本語, עברית, فارسی‌ها, 🙂"
    assert printable(text) == text


def test_half_a_character_can_be_written_to_a_terminal():
    assert printable("\ud800").encode("utf-8") == b"\\ud800"


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "－1", "=cmd|' /C x'!A0"]
)
def test_a_text_that_a_spreadsheet_would_compute_gets_an_apostrophe(text):
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("value", [-1, -0.5, 0, 1e-9, True, None, "", "plain", "a=b", " =1", "'=1"])
def test_numbers_stay_numbers_and_other_texts_themselves(value):
    assert cell(value) == value and type(cell(value)) is type(value)


def test_trials_csv_holds_no_formula_and_its_numbers_are_numbers():
    trial = made.trial(reason="=HYPERLINK(1)", uri="@host", run="+1", utility=-0.25, params={"safe": -3})
    text = made.search((trial,), best=None, nearest=None).to_csv()
    (line,) = csv.DictReader(io.StringIO(text))
    assert (line["reason"], line["uri"], line["run"]) == ("'=HYPERLINK(1)", "'@host", "'+1")
    assert (line["utility"], line["param_safe"], line["state"]) == ("-0.25", "-3", "complete")
