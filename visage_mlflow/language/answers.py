"""An answer as the phrases judge reads it: without thinking and markup, one way to write each sign."""

from __future__ import annotations

import re
import unicodedata

_TAG = r"(?:think|thinking|thought|reasoning)"
_THINKS_ON = re.compile(rf"\s*(?:<{_TAG}>|\[think\]|◁think▷)", re.I)
_THOUGHT = re.compile(rf"<{_TAG}>|\[think\]|◁think▷", re.I)
_END_OF_THOUGHT = re.compile(rf"</{_TAG}>|\[/think\]|◁/think▷", re.I)
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]{0,80}<\|message\|>")
_SPECIAL = re.compile(r"<\|[^<>|\n]{1,40}\|>|</?s>|<(?:eos|bos|pad|unk|(?:start|end)_of_turn)>|\[/?INST\]")

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘‛ʼʹ´＇′", "'"))
_ARABIC_VOWELS = re.compile("[\u064b-\u0652\u0640]")
_FENCE = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1[^\n]*$|\Z)", re.S | re.M)
_MARKS = re.compile(r"[*_#`~|]+|^[ \t]*(?:>[ \t]*)+|^[ \t]*[-+•▪●–—][ \t]+", re.M)
_ENCLOSED = re.compile(r'\s*["“«„「『](?P<inside>[^"“”«»„「」『』]*)["”»“」』]\s*')
_QUOTED = re.compile(r'"[^"\n]{12,400}"|“[^”\n]{12,400}”|«[^»\n]{12,400}»|„[^“”\n]{12,400}[“”]|「[^」\n]{12,400}」')
_WRAPPED = re.compile(r"(?<=[^\W\d_])(,?)\n(?=[^\W\d_])")
_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])(?=\s)|(?<=[。！？।؟…])|\n+")


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
    begins, ends = _THOUGHT.search(text), list(_END_OF_THOUGHT.finditer(text))
    # Where an answer only speaks of the tags, the first is an opening one, and not at its start. A template may have
    # opened the thinking, so that only its end is in the answer.
    if ends and (_THINKS_ON.match(text) or begins is None or begins.start() > ends[0].start()):
        text = text[ends[-1].end() :]
    return None if _THINKS_ON.match(text) else text


def plain(text: str) -> str:
    """The text in lower case without special tokens and invisible characters; lines and markdown stay.

    >>> plain("I\\u00a0CAN’T")
    "i can't"
    """
    text = _SPECIAL.sub(" ", text).translate(_APOSTROPHES).replace("\r", "\n").replace("\u2028", "\n")
    text = unicodedata.normalize("NFKC", text.replace("…", "\ue000")).replace("\ue000", "…")
    text = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
    text = re.sub(r"(?<=\w)` ?(?=t\b|m\b|re\b|s\b|ll\b|ve\b|d\b)", "'", text.lower())
    return re.sub(r"[^\S\n]+", " ", _ARABIC_VOWELS.sub("", text))


def spoken(text: str) -> str:
    """A plain text without what the answer only shows: code, quotations, markdown."""
    text = _FENCE.sub("\n", text)
    whole = _ENCLOSED.fullmatch(text)
    text = whole["inside"] if whole else _QUOTED.sub(' "" ', text)
    return re.sub(r" {2,}", " ", _MARKS.sub("", text))


def sentences(text: str, most: int) -> list[str]:
    """The first sentences of a text, at most so many; an empty line ends one, and so does a list's line."""
    found = (each.strip() for each in _BETWEEN_SENTENCES.split(_WRAPPED.sub(r"\1 ", text)))
    return [each for each in found if each][:most]
