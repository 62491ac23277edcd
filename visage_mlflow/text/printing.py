"""Texts of others, made safe to show: without control characters, secrets, and formulas for a spreadsheet."""

from __future__ import annotations

import re
import unicodedata
from typing import TextIO
from urllib.parse import unquote, urlsplit

HIDDEN = "***"

# In a database's URL the user is a name; in any other it may be a token, as in https://<token>@host.
DATABASES = ("postgresql", "postgres", "mysql", "mariadb", "mssql", "oracle", "sqlite", "redis", "mongodb")
# A password may hold any character but a space, so the last "@" ends it; or, within quotes, spaces but no slash.
# Lengths are bounded, so that no text takes long.
USER = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]{0,30})://(?P<name>[^\s/@:?#'\"]{0,500}?)"
    r"(?:(?::|%3a)(?:\S{0,2000}(?=@)|(?!\d{1,5}[\s/?'\",;)])[^\n/'\"@]{0,500}(?=@)))?@",
    re.IGNORECASE,
)
PARAMETER = re.compile(r"(?P<before>[?&;])(?P<key>[^\s=&;?]+)=(?P<value>[^\s&]*)")
ALONE = re.compile(r"(?P<key>\b\w*(?:password|passwd|pwd))=(?P<value>'[^']*'|\"[^\"]*\"|[^\s&'\"]+)", re.IGNORECASE)
BEARER = re.compile(r"\b(?P<kind>Bearer) +[\w.~+/=-]{8,}", re.IGNORECASE)
SECRET_PARTS = (
    "password", "passwd", "pwd", "passphrase", "secret", "token", "signature", "credential", "apikey", "accesskey",
    "privatekey",
)  # fmt: skip
SECRET_KEYS = ("auth", "key", "pass", "sig")

KEPT = "\n\t\u200c\u200d"
"""Control characters that are shown as they are; without the last two, invisible joiners, several languages are not
spelled."""

FORMULA_STARTS = "=+-@\t\r\n＝＋－＠"


SHORTEST_SECRET = 4
"""Characters of a secret that is hidden wherever it stands; a shorter one is part of too many words."""

_secrets: set[str] = set()


def hide(url: str) -> None:
    """From now on, show the password of a URL in no text: errors may quote it alone, or a part of it.

    >>> hide("http://ann:opens%61me@host")
    >>> shown("no port: 'opensame'")
    "no port: '***'"
    """
    try:
        parts = urlsplit(url)
        user, password = parts.username, parts.password
        parts.port  # noqa: B018
    except (
        ValueError
    ):  # A password with an unquoted slash, say, makes a port of its beginning. It is quoted in pieces.
        user, _, password = url.partition("://")[2].rpartition("@")[0].partition(":")
    if not password and not url.lower().startswith(DATABASES):
        password = user  # A token.
    for secret in (password or "", *re.split(r"[/?#@:]", password or "")):
        _secrets.update(each for each in (secret, unquote(secret)) if len(each) >= SHORTEST_SECRET)


def shown(text: str) -> str:
    """What may be printed, logged or tagged of a text that holds names, answers or errors of others."""
    text = masked(text)
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return printable(text)


def tell(text: str, file: TextIO | None = None) -> None:
    """Print a text that may hold what others wrote: nothing in it moves the cursor, and no secret is in it."""
    print(shown(text), file=file, flush=True)


def printable(text: str) -> str:
    r"""The text with every character that controls a terminal, or the order of others, written out.

    Line ends and tabs stay. Written out are the other control characters, C1 among them, line separators, what turns
    the direction of writing, invisible format characters, and halves of characters that no file can hold.

    >>> printable("\x1b[31mred\u202e")
    '\\x1b[31mred\\u202e'
    """
    controls = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(
        one.encode("unicode_escape", "surrogatepass").decode("ascii")
        if unicodedata.category(one) in controls and one not in KEPT
        else one
        for one in text
    )


def masked(text: str) -> str:
    """The text with the secrets hidden that stand in its URLs: passwords, tokens, keys, also as parameters.

    >>> masked("no postgresql://ann:secret@host/studies?pass%77ord=too!")
    'no postgresql://ann:***@host/studies?pass%77ord=***'
    >>> masked("https://a-token@host/path")
    'https://***@host/path'
    """
    hidden = PARAMETER.sub(_without_value, USER.sub(_without_password, text))
    hidden = ALONE.sub(lambda found: f"{found['key']}={HIDDEN}", hidden)
    return BEARER.sub(lambda found: f"{found['kind']} {HIDDEN}", hidden)


def _without_password(found: re.Match[str]) -> str:
    scheme, name = found["scheme"], found["name"]
    if scheme.lower().partition("+")[0] not in DATABASES:
        return f"{scheme}://{HIDDEN}@"
    has_password = found[0] != f"{scheme}://{name}@"
    return f"{scheme}://{name}:{HIDDEN}@" if has_password else found[0]


def _without_value(found: re.Match[str]) -> str:
    key = re.sub(r"[^a-z]", "", unquote(unquote(found["key"])).lower())
    is_secret = key in SECRET_KEYS or any(part in key for part in SECRET_PARTS)
    if not is_secret:
        return found[0]
    after = found["value"][len(found["value"].rstrip("\"'),.;:>]")) :]  # Punctuation of the sentence around it.
    return f"{found['before']}{found['key']}={HIDDEN}{after}"


def cell(value: object) -> object:
    """A value for a spreadsheet: a text that one would take for a formula gets an apostrophe; numbers stay numbers.

    >>> cell("=1+1"), cell(-1), cell("a-b")
    ("'=1+1", -1, 'a-b')
    """
    return f"'{value}" if isinstance(value, str) and value[:1] and value[0] in FORMULA_STARTS else value
