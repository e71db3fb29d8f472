"""Text that was written elsewhere, made safe for the place where people read it.

Names of runs and stages, and messages of other libraries, may contain passwords, terminal escapes, line breaks,
halves of surrogate pairs or formulas of spreadsheets.

================  =====================================================
`printable`       hides passwords and tokens in addresses and messages
`one_line`        for a terminal, a page or a log
`shown`           both of these
`cell`            for a CSV file that a spreadsheet may open
`storable`        for a database or a file
================  =====================================================
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Final
from urllib.parse import unquote

_HIDDEN: Final = "***"
# Nobody reads more than this of one text.
_LONGEST: Final = 100_000

# Repetitions are bounded, since a hostile text may be long.
# user:password@ of an address. Digits up to a slash are a port.
_USERINFO: Final = re.compile(
    r"(?<=://)([^/?#\s@:\"'<>]{0,99}):(?!\d{1,5}(?:[/?#\s]|$))[^\s\"<>]{0,999}@", re.IGNORECASE
)
# A token in place of the user.
_TOKEN_AS_USER: Final = re.compile(r"(?<=://)[^/?#\s@:\"'<>]{16,999}@")
# Parameters of addresses and of ODBC: `password` in libpq, `passwd` in pymysql, `PWD` in ODBC, `sig` in Azure.
_PARAMETER: Final = re.compile(
    r"((?:[?&;#]|%3B|%26|%3F)[^=&;%\s]{0,60}"
    r"(?:pass|pwd|secret|token|key|signature|credential|auth|jwt|(?<![a-z])sig(?![a-z]))[^=&;%\s]{0,60}(?:=|%3D))"
    r"(?:\{[^}]{0,999}\}|(?:(?!%3B|%26)[^&;\s\"<>])*)",
    re.IGNORECASE,
)
# The same in a sentence, a header or a connection string: `password=…`, `api_key='…'`, `"Authorization": "…"`.
_WORD: Final = re.compile(
    r"((?<![\w/.-])[\w.-]{0,60}"
    r"(?:passw(?:or)?d|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|signature|credential|authorization)"
    r"[\w.-]{0,60}[\"']?(?:=|%3D))"
    r"(\"[^\"]{0,999}\"|'[^']{0,999}'|\{[^}]{0,999}\}|(?:(?:basic|bearer|token)(?:\s|%20){1,9})?(?:(?!%3B|%26)[^\s,;&\"'<>)\]}])+)",
    re.IGNORECASE,
)
_HEADER: Final = re.compile(
    r"((?<![\w-])(?:[\w-]{0,60}authorization|[\w-]{0,60}api[_-]?key|[\w-]{0,60}token|password)[\"']?:\s*b?)"
    r"(\"[^\"]{0,999}\"|'[^']{0,999}'|(?:(?:basic|bearer|token)\s{1,9})?[^\s,;\"'<>)\]}]+)",
    re.IGNORECASE,
)
_SCHEME: Final = re.compile(
    r"\b(basic|bearer)((?:\s|%20){1,9})(?=[^\s,;\"'\d=]{0,99}[\d=])[\w.~+/=-]{8,}", re.IGNORECASE
)
_SECRET_VARIABLE: Final = re.compile(r"pass|_pwd|secret|token|key|headers|credential|dsn", re.IGNORECASE)
_PASSWORD: Final = re.compile(r"://[^/?#\s@:]*:([^\s]*)@")

# Joiners of emoji and of several scripts.
_HARMLESS: Final = frozenset("\u200c\u200d\u00a0")
_UNSAFE: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_NOT_STORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_FORMULA: Final = frozenset("=+-@\uff1d\uff0b\uff0d\uff20")


def without_credentials(text: str) -> str:
    """An address, or a message that contains addresses, without passwords and tokens, by their form."""
    text = _SCHEME.sub(r"\1\2" + _HIDDEN, text)
    if ":" not in text and "=" not in text and "%3D" not in text:
        return text
    text = _TOKEN_AS_USER.sub(_HIDDEN + "@", _USERINFO.sub(r"\1@", text))
    text = _PARAMETER.sub(r"\1" + _HIDDEN, text)
    text = _WORD.sub(r"\1" + _HIDDEN, text)
    return _HEADER.sub(r"\1" + _HIDDEN, text)


def printable(text: str) -> str:
    """The text without passwords and tokens: by their form, and those that the environment has, in any form."""
    return hider()(text)


def hider(environ: Mapping[str, str] = os.environ) -> Callable[[str], str]:
    """`printable` for many texts; it reads the environment once."""
    secrets = sorted({text for value in _secrets(environ) for text in (value, unquote(value))}, key=len)
    known = [secret for secret in reversed(secrets) if _is_secret(secret)]

    def hide(text: str) -> str:
        if len(text) > _LONGEST:
            text = f"{text[:_LONGEST]}… ({len(text)} characters)"
        for secret in known:
            text = text.replace(secret, _HIDDEN)
        return without_credentials(text)

    return hide


def one_line(text: str) -> str:
    """The text without characters that move a cursor, break a line, turn the direction of writing or are invalid.

    They are shown as Python writes them, such as `\\x1b`.
    """
    return text if text.isprintable() else "".join(map(_visible, text))


def shown(text: str) -> str:
    """The text as one line for people, without secrets."""
    return one_line(printable(text))


def cell(text: str) -> str:
    """The text for a CSV file: one line, and no formula of a spreadsheet."""
    text = one_line(text)
    return f"'{text}" if text.lstrip()[:1] in _FORMULA and text.lstrip() else text


def storable(text: str) -> str:
    """The text without NUL and without halves of surrogate pairs, which databases and files do not accept."""
    return _NOT_STORABLE.sub(lambda match: _visible(match[0]), text)


def _visible(character: str) -> str:
    if unicodedata.category(character) in _UNSAFE and character not in _HARMLESS:
        return character.encode("unicode_escape").decode()
    return character


def _secrets(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        yield from _PASSWORD.findall(value)
        if not _SECRET_VARIABLE.search(name) or name.upper().endswith(("_FILE", "_PATH", "_DIR")):
            continue
        if name.upper().endswith("HEADERS"):
            for header in value.split(","):
                content = header.partition("=")[2].strip()
                yield content
                yield unquote(content).rpartition(" ")[2]  # without its scheme, such as Bearer
        else:
            yield value


def _is_secret(text: str) -> bool:
    """Whether the text is unlikely to be a word of a message; a variable may have any value."""
    return len(text) >= 16 or (len(text) >= 8 and not text.isalpha())
