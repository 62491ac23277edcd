import json

import pytest

from visage_mlflow.language import prompts
from visage_mlflow.language.prompts import Row, first, read, read_hub


@pytest.fixture
def write(tmp_path):
    """A function that writes a file and returns its path as text."""

    def make(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return make


def refusal(source, **options):
    """The error of reading: one line that names the setting and the source."""
    with pytest.raises(ValueError) as caught:
        read(source, setting="safe_data", **options)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("`safe_data` ")
    assert message.endswith((".", "`")), message
    return message


# What is read


def test_a_csv_has_goal_and_target_as_advbench_does(write):
    path = write("a.csv", 'goal,target\nSteal it,"Sure, here"\n  Rob it  ,Of course\n')
    assert read(path, setting="prompts") == [Row("Steal it", "Sure, here"), Row("Rob it", "Of course")]


def test_jsonl_has_prompt_response_and_category(write):
    lines = [{"prompt": "a", "response": "b", "category": "c", "other": 1}, {"prompt": "ä"}]
    path = write("a.jsonl", "\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    assert read(path, setting="prompts") == [Row("a", "b", "c"), Row("ä")]


@pytest.mark.parametrize("name", ["a.csv", "a.CSV"])
def test_columns_are_named_after_a_question_mark(write, name):
    path = write(name, "question,reply text\nq,r\n")
    assert read(f"{path}?prompt=question&response=reply+text", setting="prompts") == [Row("q", "r")]
    assert read(f"{path}?response=reply%20text&prompt=question", setting="prompts") == [Row("q", "r")]


def test_columns_of_jsonl_are_named_the_same_way(write):
    path = write("a.jsonl", '{"q": "a", "r": "b"}\n')
    assert read(f"{path}?prompt=q&response=r", setting="prompts", needs_response=True) == [Row("a", "b")]


def test_a_byte_order_mark_is_no_part_of_the_first_column(write):
    assert read(write("a.csv", b"\xef\xbb\xbfgoal,target\na,b\n"), setting="prompts") == [Row("a", "b")]
    assert read(write("a.jsonl", b'\xef\xbb\xbf{"prompt": "a"}'), setting="prompts") == [Row("a")]


def test_windows_line_ends_quoted_line_ends_and_blank_lines_are_read(write):
    path = write("a.csv", b'goal,target\r\n"two\r\nlines","say ""hi"""\r\n\r\nb,c\r\n')
    assert read(path, setting="prompts") == [Row("two\nlines", 'say "hi"'), Row("b", "c")]
    assert len(read(write("a.jsonl", b'{"prompt": "a"}\r\n\r\n  \n{"prompt": "b"}'), setting="prompts")) == 2


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0c"])
def test_a_line_separator_inside_a_text_does_not_end_the_row(write, separator):
    text = f"one{separator}two"
    if separator != "\x0c":  # JSON wants control characters escaped.
        path = write("a.jsonl", json.dumps({"prompt": text}, ensure_ascii=False))
        assert read(path, setting="prompts") == [Row(text)]
    assert read(write("a.csv", f"goal,target\n{text},b\n"), setting="prompts") == [Row(text, "b")]


def test_a_response_may_be_missing_where_none_is_needed(write):
    assert read(write("a.csv", "goal\na\n"), setting="prompts") == [Row("a")]
    assert read(write("a.csv", "goal,target\na,\nb\n"), setting="prompts") == [Row("a"), Row("b")]


@pytest.mark.parametrize("source", prompts.BUILTIN)
def test_each_builtin_set_reads_and_has_responses_if_it_names_a_column(source):
    has_responses = prompts.BUILTIN[source][1] != ""
    rows = read(source, setting="prompts", needs_response=has_responses)
    assert all(row.prompt and row.category and bool(row.response) == has_responses for row in rows)


def test_harmful_and_safe_ask_the_same_and_answer_differently():
    harmful, safe = (read(f"builtin:{name}", setting="prompts") for name in ("harmful", "safe"))
    assert [row.prompt for row in harmful] == [row.prompt for row in safe]
    assert all(one.response != other.response for one, other in zip(harmful, safe, strict=True))


def test_the_rows_of_a_data_set_are_read_by_split_as_the_hub_library_reads_them(tmp_path, monkeypatch):
    """A folder stands in for the hub: the library takes both by the same call."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.csv").write_text("goal,target\na,b\n")
    (folder / "test.csv").write_text("goal,target\nc,d\ne,f\n")
    assert [dict(row) for row in read_hub(str(folder), "test")] == [
        {"goal": "c", "target": "d"},
        {"goal": "e", "target": "f"},
    ]
    with pytest.raises(ValueError, match=r"split validation.*Check the spelling") as caught:
        read_hub(str(folder), "validation")
    assert "\n" not in str(caught.value)


def test_the_first_rows_are_taken_in_order_and_too_many_are_refused():
    rows = [Row("a"), Row("b"), Row("c")]
    assert first(rows, 2, setting="n_prompts") == rows[:2] and first(rows, 3, setting="n_prompts") == rows
    with pytest.raises(ValueError, match=r"^`n_prompts` is 4, but the set has 3 rows. Ask for at most 3.$"):
        first(rows, 4, setting="n_prompts")


# What is refused


@pytest.mark.parametrize("name", ["gone.csv", "gone.jsonl"])
def test_a_missing_file_is_refused(tmp_path, name):
    message = refusal(str(tmp_path / name))
    assert name in message and "No such file" in message and "Check the path" in message


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", ""), ("a.csv", "goal,target\n"), ("a.jsonl", ""), ("a.jsonl", "\n \n")]
)
def test_an_empty_file_and_one_with_a_header_only_are_refused(write, name, content):
    path = write(name, content)
    assert repr(path) in (message := refusal(path)) and "no rows" in message and "at least one prompt" in message


def test_a_missing_column_is_refused_with_those_there_are(write):
    path = write("a.csv", "question,reply\nq,r\n")
    message = refusal(path)
    assert "no column 'goal'" in message and "question, reply" in message and f"{path}?prompt=" in message
    assert "no column 'target'" in refusal(write("b.csv", "goal\na\n"), needs_response=True)
    assert "row 2 has no column 'prompt'" in refusal(write("a.jsonl", '{"prompt": "a"}\n{"Prompt": "b"}'))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "goal,target\na,b\n,c\n"),
        ("a.csv", "goal,target\na,b\n   ,c\n"),
        ("a.csv", "target,goal\nb,a\nc\n"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": ""}'),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": 3}'),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": null}'),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": ["b"]}'),
    ],
)
def test_an_empty_or_non_text_cell_is_refused_with_its_row(write, name, content):
    path = write(name, content)
    message = refusal(path)
    assert repr(path) in message and "row 2" in message and "Mend or remove the row" in message


def test_an_empty_response_is_refused_where_one_is_needed(write):
    path = write("a.csv", "goal,target\na,b\nb,\n")
    assert "row 2 has '' in column 'target'" in refusal(path, needs_response=True)


def test_a_response_that_is_no_text_is_refused_even_where_none_is_needed(write):
    assert "row 1 has 7 in column 'response'" in refusal(write("a.jsonl", '{"prompt": "a", "response": 7}'))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
@pytest.mark.parametrize("content", [b"goal\nna\xefve\n", "goal\na".encode("utf-16"), b"\xff\xfe"])
def test_a_file_that_is_not_utf8_is_refused(write, name, content):
    path = write(name, content)
    assert repr(path) in (message := refusal(path)) and "not UTF-8" in message and "Save the file again" in message


@pytest.mark.parametrize("line", ["{", "prompt: b", '{"prompt": "b"} {"prompt": "c"}', '{"prompt": "b\tc"}'])
def test_a_bad_json_line_is_refused_with_its_number(write, line):
    path = write("a.jsonl", f'{{"prompt": "a"}}\n\n{line}\n')
    assert repr(path) in (message := refusal(path)) and "line 3 is not JSON" in message


@pytest.mark.parametrize("line", ['"text"', "3", "null", '["prompt"]'])
def test_a_json_line_that_is_no_object_is_refused(write, line):
    message = refusal(write("a.jsonl", f'{{"prompt": "a"}}\n{line}\n'))
    assert "line 2 must be a JSON object" in message and '{"prompt": …}' in message


def test_a_quote_that_is_never_closed_in_a_large_file_is_refused(write):
    message = refusal(write("a.csv", 'goal,target\na,"b\n' + "c,d\n" * 50_000))
    assert "not CSV" in message and "never closed" in message


@pytest.mark.parametrize("source", ["builtin:harmfull", "builtin:", "builtin:benign_eval.jsonl"])
def test_an_unknown_builtin_set_is_refused_with_those_there_are(source):
    message = refusal(source)
    assert repr(source) in message and all(name in message for name in prompts.BUILTIN)


@pytest.mark.parametrize("query", ["promt=a", "prompt", "prompt=a&response", "prompt=", "prompt=a&seed=1", "&", "="])
def test_an_unknown_or_empty_option_is_refused(write, query):
    source = f"{write('a.csv', 'a,b' + chr(10) + 'c,d' + chr(10))}?{query}"
    message = refusal(source)
    assert repr(source) in message and "prompt, response, split, rows as `name=value`" in message


@pytest.mark.parametrize("query", ["rows=1..2&rows=5..6", "prompt=goal&prompt=target", "rows=1..1&rows=1..1"])
def test_an_option_given_twice_is_refused(write, query):
    message = refusal(f"{write('a.csv', 'goal,target' + chr(10) + 'a,b' + chr(10))}?{query}")
    assert f"but names {query[: query.index('=')]} more than once. Give each option once." in message


def test_a_file_has_no_split(write):
    for path in (write("a.csv", "goal,target\na,b\n"), write("a.jsonl", '{"prompt": "a"}')):
        assert "but only a hub data set has a split. Leave out `split`" in refusal(f"{path}?split=test")


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.tsv", "a.xlsx", "a.parquet", "rows"])
def test_another_kind_of_file_is_refused(write, name):
    path = write(name, "Steal it\n")
    assert repr(path) in (message := refusal(path)) and "must be a .csv or .jsonl file" in message


@pytest.mark.parametrize("source", ["gone.txt", ""])
def test_a_missing_text_file_and_an_empty_setting_are_not_looked_for_on_the_hub(source):
    assert "must be a .csv or .jsonl file" in refusal(source)


@pytest.mark.parametrize("name", ["folder", "folder.csv", "folder.jsonl"])
def test_a_folder_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    assert repr(str(tmp_path / name)) in refusal(str(tmp_path / name))


@pytest.mark.parametrize("source", ["no-such-org/no-such-set", "no-such-set"])
def test_an_unknown_hub_data_set_is_refused_offline(source):
    message = refusal(source)
    assert repr(source) in message and "split train" in message and "Check the spelling and the network" in message


def test_options_after_a_built_in_set_are_refused():
    with pytest.raises(ValueError, match="built-in sets take no option but `rows`"):
        prompts.read("builtin:harmful?prompt=goal", setting="harmful_data")


def test_a_built_in_set_without_responses_is_refused_where_they_are_needed():
    with pytest.raises(ValueError, match="has no responses. Try one of builtin:benign_eval"):
        prompts.read("builtin:harmful_eval", setting="benign_prompts", needs_response=True)


# Some rows of a source


@pytest.mark.parametrize(
    ("rows", "taken"), [("1..", "abcde"), ("2..3", "bc"), ("4..", "de"), ("5..5", "e"), ("3..5", "cde")]
)
def test_rows_are_counted_from_1_with_both_ends(write, rows, taken):
    path = write("a.csv", "goal\na\nb\nc\nd\ne\n")
    assert "".join(row.prompt for row in read(f"{path}?rows={rows}", setting="prompts")) == taken


@pytest.mark.parametrize("rows", ["0..3", "3..2", "03", "..3", "a..b", "-1..2", "1...2", "²..3"])
def test_rows_that_are_no_range_are_refused(write, rows):
    message = refusal(f"{write('a.csv', 'goal,target' + chr(10) + 'a,b' + chr(10))}?rows={rows}")
    assert "but `rows` must be a first and a last row, counted from 1, got" in message and "Try rows=1..80" in message


def test_rows_beyond_the_end_and_wrong_ones_in_the_middle_are_told_by_their_number(write):
    path = write("a.csv", "goal,target\na,b\nc,d\n,f\n")
    assert "but there are 3 rows, and `rows=4..` asks for more. Begin earlier." in refusal(f"{path}?rows=4..")
    whole = write("b.csv", "goal,target\na,b\nc,d\n")
    assert "but there are 2 rows, and `rows=2..4` asks for more. Try `rows=2..`." in refusal(f"{whole}?rows=2..4")
    assert "got '3'. For that row alone, write rows=3..3." in refusal(f"{path}?rows=3")
    assert "whose row 3 has ''" in refusal(f"{path}?rows=2..")
    assert len(read(f"{path}?rows=1..2", setting="prompts")) == 2


def test_built_in_sets_have_rows_too():
    whole = prompts.read("builtin:harmful_eval", setting="prompts")
    assert prompts.read("builtin:harmful_eval?rows=3..5", setting="prompts") == whole[2:5]
