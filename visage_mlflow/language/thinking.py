"""What a model thinks before it answers, in the marks of each family: no part of the answer."""

from __future__ import annotations

import re

_NAME = (
    r"(?:(?:seed:|longcat_)?think|thinking|thoughts?|reason|reasoning|reflection|scratchpad|analysis|inner_monologue)"
)
_BEGINS = rf"<{_NAME}>|\[think\]|◁think▷|<\|(?:begin_of_thought|start_thinking|inner_prefix)\|>|<\|channel>|<unused94>"
_ENDS = rf"</{_NAME}>|\[/think\]|◁/think▷|<\|(?:end_(?:of_thought|thinking)|inner_suffix)\|>|<channel\|>|<unused95>"
_CLOSING = (
    *(("◁", "◁/"), ("[", "[/"), ("<|channel>", "<channel|>")),
    *(("<|begin", "<|end"), ("<|START", "<|END"), ("<|start", "<|end"), ("<|inner_prefix", "<|inner_suffix")),
    ("<unused94", "<unused95"),
)
_CHANNEL_SIGNS = r"<\|(?:channel|message|start|end|constrain)\|>"
_THINKS_ON = re.compile(rf"\s*(?:{_BEGINS})", re.I)
_BEGUN = re.compile(_BEGINS, re.I)
_ENDED = re.compile(_ENDS, re.I)
_IN_WORDS = re.compile(r"\s*Here is my thought process:.*?(?:\n\s*Here is my response:|\Z)", re.S)
"""How Granite 3.2 thinks, without signs."""
_IN_A_TURN = r"(?:\A\s*|<\|end\|>\s*|<\|start\|>\w*\s*)"
_CHANNEL = re.compile(_IN_A_TURN + r"<\|channel\|>\s*(\w+)[^<]{0,80}<\|message\|>")
_CHANNEL_BEGUN = re.compile(_IN_A_TURN + r"<\|channel\|>[^<]*\Z")
_ENDED_ALONE = re.compile(rf"(?:^[ \t]*(?:{_ENDS})|(?:{_ENDS})[ \t]*$(?=\n))", re.I | re.M)
"""The end of a thinking that began before the text: at the border of a line, where no sentence speaks of it."""
_SIGN = re.compile(rf"{_BEGINS}|{_ENDS}|{_CHANNEL_SIGNS}", re.I)
_OPENS_AT_END = re.compile(rf"(?:{_BEGINS})\s*\Z", re.I)


def is_sign(token: str) -> bool:
    """Whether a token is one by which thinking is told from the answer, so that it must stay in the text.

    >>> is_sign("</think>"), is_sign("<|channel|>"), is_sign("<|im_end|>")
    (True, True, False)
    """
    return _SIGN.fullmatch(token.strip()) is not None


def opened_by(prompt: str) -> str:
    """The sign with which a prompt opens the thinking that the model goes on with; empty if it opens none.

    >>> opened_by("<|Assistant|><think>\\n"), opened_by("<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n")
    ('<think>', '')
    """
    found = _OPENS_AT_END.search(prompt)
    return found[0].strip() if found else ""


def holds_end(text: str) -> bool:
    """Whether a thinking ends in a text.

    >>> holds_end("<|im_start|>assistant\\n<think>\\n\\n</think>"), holds_end("<|Assistant|><think>\\n")
    (True, False)
    """
    return _ENDED.search(text) is not None


def closing(opened: str) -> str:
    """The sign that ends a thinking which begins with another.

    >>> closing("<think>"), closing("[THINK]"), closing("<|START_THINKING|>")
    ('</think>', '[/THINK]', '<|END_THINKING|>')
    """
    for begin, end in _CLOSING:
        if opened.startswith(begin):
            return end + opened.removeprefix(begin)
    return "</" + opened.removeprefix("<")


def inside(thinking: str) -> str:
    """What is thought after the first sign, up to the next, without white space around it.

    >>> inside("<think>\\nHm.\\n</think>"), inside("Hm.</think>")
    ('Hm.', 'Hm.')
    """
    if channel := _CHANNEL.search(thinking):
        return thinking[channel.end() :].partition("<|")[0].strip()
    return _ENDED.split(_THINKS_ON.sub("", thinking, count=1))[0].strip()


def without_thinking(text: str) -> str | None:
    """The answer after the model's thinking; None where the thinking did not end.

    >>> without_thinking("<think>Hm.</think>Yes."), without_thinking("<think>Hm.")
    ('Yes.', None)
    """
    channels = list(_CHANNEL.finditer(text))
    if channels:
        if channels[-1][1] == "analysis":
            return None
        text = text[channels[-1].end() :]
    if _CHANNEL_BEGUN.search(text):
        return None
    if in_words := _IN_WORDS.match(text):
        return text[in_words.end() :] if in_words[0].endswith(":") and in_words.end() < len(text) else None
    is_begun, begins = _THINKS_ON.match(text), _BEGUN.search(text)
    # A template may have opened the thinking, so that only its end is in the answer. Where an answer only speaks of
    # the tags, the first is an opening one, and not at its start.
    ends = list((_ENDED if is_begun else _ENDED_ALONE).finditer(text))
    if ends and (is_begun or begins is None or begins.start() > ends[0].start()):
        text = text[ends[-1].end() :]
    return None if _THINKS_ON.match(text) else text


def parted(text: str) -> tuple[str, str | None]:
    """The thinking, its signs included, and the answer after it; None for an answer that did not come.

    >>> parted("<think>Hm.</think>Yes."), parted("Yes."), parted("<think>Hm.")
    (('<think>Hm.</think>', 'Yes.'), ('', 'Yes.'), ('<think>Hm.', None))
    """
    answer = without_thinking(text)
    if answer is None or answer == text:
        return (text, None) if answer is None else ("", text)
    answer = answer.lstrip()
    return text[: len(text) - len(answer)], answer
