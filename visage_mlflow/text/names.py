"""Names of files and folders that are no text: bytes that UTF-8 cannot decode, which neither MLflow nor JSON can keep.

Python reads such a byte, from 0x80 to 0xff, as a half of a character, from U+DC80 to U+DCFF.
"""

from __future__ import annotations

import re

from visage_mlflow.text.errors import Mistake, chain

BYTE = re.compile("[\udc80-\udcff]")
WORD = re.compile("[^\\s'\"]*[\udc80-\udcff][^\\s'\"]*")
RENAME = "Rename the file or folder in UTF-8, or give a link to it that has such a name"


def check_decodable(what: str, text: str, cure: str = RENAME) -> None:
    """Raise Mistake for a text that holds bytes which are not UTF-8; `what` names it."""
    if found := BYTE.search(text):
        raise Mistake(
            f"{what} is '{in_bytes(text)}', a name with the undecodable byte 0x{ord(found[0]) - 0xDC00:02x}: it is "
            f"not UTF-8, so no run or result could keep it. {cure}."
        )


def in_bytes(text: str) -> str:
    r"""The text with its undecodable bytes as they are.

    >>> in_bytes("caf\udce9")
    'caf\\xe9'
    """
    return BYTE.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)


def undecodable(error: BaseException) -> Mistake | None:
    """What to tell of an error that was raised because a name somewhere holds bytes that are not UTF-8."""
    for one in chain(error):
        if isinstance(one, UnicodeEncodeError) and (found := WORD.search(one.object)):
            try:
                check_decodable("A name in use", found[0])
            except Mistake as mistake:
                return mistake
    return None
