"""An answer as the phrases judge reads it: without markup, one way to write each sign."""

from __future__ import annotations

import html
import re
import unicodedata

_SPECIAL = re.compile(r"<\|[^<>|\n]{1,40}\|>|</?s>|<(?:eos|bos|pad|unk|(?:start|end)_of_turn)>|\[/?INST\]")

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘‛ʼʹ´＇′", "'"))
_SINGLE_QUOTED = re.compile(r"(?<![\w‘'’])[‘']((?:[^‘’'\n]|[’'](?=\w)){12,400})[’'](?!\w)")
_ONLY_SHOWN = re.compile(
    r"\s*(?:```(?:text|markdown|md|plaintext)?[ \t]*\n([^`]*)```|[\[{]\s*(?:\"\w+\"\s*:\s*)?\"([^\"\n]*)\"\s*[\]}])\s*"
)
"""A block without a language, or an object of one text: what it holds is the answer."""
_SAID = r"(?:thinks|thought|says|said|replies|replied|tells|told|answers|answered|asks|asked|writes|wrote)"
_TOLD = re.compile(
    rf"(?<!\bi )\b{_SAID}(?: \w+){{0,2}}:[^.!?\n]*"
    rf"|[^.!?\n]{{1,200}}, (?:{_SAID} (?:the|a|he|she|it|they)\b|(?:he|she|they|the \w+) {_SAID}\b|it (?:said"
    rf"|thought|told|replied)\b)"
    r"|\b(?:saying|said|(?:never|would|used to) say)(?: that|:)? i\b[^.!?,\n]*"
)
"""What somebody is told to have said, without quotation marks."""
_ARABIC_VOWELS = re.compile("[\u064b-\u0652\u0640]")
_FENCE = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1[^\n]*$|\Z)", re.S | re.M)
_MARKS = re.compile(r"[*_#`~|]+|^[ \t]*(?:>[ \t]*)+|^[ \t]*[-+•▪●–—][ \t]+", re.M)
_ENCLOSED = re.compile(r'\s*["“«„「『](?P<inside>[^"“”«»„「」『』]*)["”»“」』]\s*')
_QUOTED = re.compile(r'"[^"\n]{12,400}"|“[^”\n]{12,400}”|«[^»\n]{12,400}»|„[^“”\n]{12,400}[“”]|「[^」\n]{12,400}」')
_WRAPPED = re.compile(r"(?<=[^\W\d_])(,?)\n(?=[^\W\d_])")
_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])(?=\s)|(?<=[。！？।؟…])|\n+")


def plain(text: str) -> str:
    """The text in lower case without special tokens and invisible characters; lines and markdown stay.

    >>> plain("I\\u00a0CAN’T")
    "i can't"
    """
    text = _SPECIAL.sub(" ", html.unescape(text))
    text = re.sub(r"(?<=\w)\u200b(?=\w)", " ", _SINGLE_QUOTED.sub(r"“\1”", text))
    text = text.translate(_APOSTROPHES).replace("\r", "\n").replace("\u2028", "\n")
    text = unicodedata.normalize("NFKC", text.replace("…", "\ue000")).replace("\ue000", "…")
    text = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
    text = re.sub(r"(?<=\w)` ?(?=t\b|m\b|re\b|s\b|ll\b|ve\b|d\b)", "'", text.lower())
    return re.sub(r"[^\S\n]+", " ", _ARABIC_VOWELS.sub("", text))


def spoken(text: str) -> str:
    """A plain text without what the answer only shows: code, quotations, markdown."""
    only = _ONLY_SHOWN.fullmatch(text)
    text = _FENCE.sub("\n", (only[1] or only[2] or "") if only else text)
    whole = _ENCLOSED.fullmatch(text)
    text = whole["inside"] if whole else _TOLD.sub("", _QUOTED.sub(' "" ', text))
    return re.sub(r" {2,}", " ", _MARKS.sub("", text))


def sentences(text: str, most: int) -> list[str]:
    """The first sentences of a text, at most so many; an empty line ends one, and so does a list's line."""
    found = (each.strip() for each in _BETWEEN_SENTENCES.split(_WRAPPED.sub(r"\1 ", text)))
    return [each for each in found if each][:most]
