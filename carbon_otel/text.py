"""Text that was written elsewhere, made safe for the place where people read it.

Names of runs and stages, and messages of other libraries, may contain passwords, terminal escapes, line breaks,
halves of surrogate pairs or formulas of spreadsheets.

================  =====================================================
`printable`       hides passwords and tokens in addresses and messages; can be encoded
`one_line`        for a terminal, a page or a log
`shown`           both of these
`cell`            for a CSV file that a spreadsheet may open
`storable`        for a database or a file
`command_line`    the words of a command line, as one line
================  =====================================================
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import unquote

_HIDDEN: Final = "***"
# Nobody reads more than this of one text.
_LONGEST: Final = 100_000

# Patterns are compiled at their first use: most programs need none. Repetitions are bounded, because a hostile
# text may be long.
_VALUE: Final = r"\"[^\"]{0,999}\"|'[^']{0,999}'"
_SECRETS: Final = (
    # user:password@ of an address. Digits up to a slash are a port.
    (r"(?<=://)([^/?#\s@:\"'<>]{0,99}):(?!\d{1,5}(?:[/?#\s]|$))[^\s\"<>]{0,999}@", r"\1@"),
    # A token in place of the user: of a server, whatever its length; a database has users without password.
    (r"((?:https?|grpcs?)://)[^/?#\s@:\"'<>]{1,999}@", r"\1***@"),
    (r"(?<=://)[^/?#\s@:\"'<>]{16,999}@", "***@"),
    # Parameters of addresses and of ODBC: `password` in libpq, `passwd` in pymysql, `PWD` in ODBC, `sig` in Azure,
    # `;jsessionid` in Java.
    (
        r"((?:[?&;#]|%3B|%26|%3F)[^=&;%\s]{0,60}"
        r"(?:pass|pwd|secret|token|key|signature|credential|auth|jwt|sess(?:ion)?_?id|"
        r"(?<![a-z])s(?:ig|id)(?![a-z]))"
        r"[^=&;%\s]{0,60}(?:=|%3D))(?:\{[^}]{0,999}\}|(?:(?!%3B|%26)[^&;\s\"<>])*)",
        r"\1***",
    ),
    # The same in a sentence or in a connection string: `password=…`, `api_key='…'`.
    (
        r"((?<![\w/.-])[\w.-]{0,60}"
        r"(?:passw(?:or)?d|pwd|secret|token|api[_-]?key|access[_-]?key|signature|credential|authorization)"
        rf"[\w.-]{{0,60}}[\"']?(?:=|%3D))({_VALUE}|\{{[^}}]{{0,999}}\}}|"
        r"(?:(?:basic|bearer|token)(?:\s|%20){1,9})?(?:(?!%3B|%26)[^\s,;&\"'<>)\]}])+)",
        r"\1***",
    ),
    (r"((?<![\w-])(?:set-)?cookie[\"']?:\s*b?[\"']?)[^\r\n\"']{1,9999}", r"\1***"),
    # A header: `Authorization: …`, `"api-key": "…"`.
    (
        r"((?<![\w-])(?:[\w-]{0,60}authorization|[\w-]{0,60}api[_-]?key|[\w-]{0,60}token|password)"
        rf"[\"']?:\s*b?)({_VALUE}|(?:(?:basic|bearer|token)\s{{1,9}})?[^\s,;\"'<>)\]}}]+)",
        r"\1***",
    ),
)
_SCHEME: Final = r"\b(basic|bearer)((?:\s|%20){1,9})(?=[^\s,;\"'\d=]{0,99}[\d=])[\w.~+/=-]{8,}"
_SECRET_VARIABLE: Final = r"pass|_pwd|secret|token|key|headers|credential|dsn"
# Not `--tokenizer` and not `--max-tokens`.
_SECRET_OPTION: Final = r"passw|pwd|secret|token$|key$|credential|dsn"
_PASSWORD: Final = r"://[^/?#\s@:]*:([^\s]*)@"

# Joiners of emoji and of several scripts.
_HARMLESS: Final = frozenset("\u200c\u200d\u00a0")
_UNSAFE: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_NOT_STORABLE: Final = "[\x00\ud800-\udfff]"
_FORMULA: Final = frozenset("=+-@\uff1d\uff0b\uff0d\uff20")


def without_credentials(text: str) -> str:
    """An address, or a message that contains addresses, without passwords and tokens, by their form."""
    text = _replaced(_SCHEME, r"\1\2***", text)
    if ":" not in text and "=" not in text and "%3D" not in text:
        return text
    for pattern, shown_instead in _SECRETS:
        text = _replaced(pattern, shown_instead, text)
    return text


def printable(text: str) -> str:
    """The text without passwords and tokens: by their form, and those that the environment has, in any form."""
    return hider()(text)


def hider(environ: Mapping[str, str] = os.environ) -> Callable[[str], str]:
    """`printable` for many texts; it reads the environment once.

    A text that cannot be encoded, such as the error of a file whose name is not UTF-8, would lose the batch of an
    exporter. So it becomes `storable`, too.
    """
    secrets = sorted({text for value in _secrets(environ) for text in (value, unquote(value))}, key=len)
    known = [secret for secret in reversed(secrets) if _is_secret(secret)]

    def hide(text: str) -> str:
        if len(text) > _LONGEST:
            text = f"{text[:_LONGEST]}… ({len(text)} characters)"
        for secret in known:
            text = text.replace(secret, _HIDDEN)
        return storable(without_credentials(text))

    return hide


def one_line(text: str) -> str:
    """The text without characters that move a cursor, break a line, turn the direction of writing or are invalid.

    They are shown as Python writes them, such as `\\x1b`.
    """
    return text if text.isprintable() else "".join(map(_visible, text))


def shown(text: str) -> str:
    """The text as one line for people, without secrets."""
    return one_line(printable(text))


def command_line(words: Sequence[str], longest: int = 500) -> str:
    """The command line of a program as one line, without secrets, and without the folders of program and script.

    The word after an option such as `--api-key` is a secret, too.
    """
    if not words:
        return ""
    told = [_file_name(words[0])]
    words = [_file_name(word) if n == 1 and word.endswith(".py") else word for n, word in enumerate(words)]
    for before, word in itertools.pairwise(words):
        secret = (
            before.startswith("-") and "=" not in before and re.search(_SECRET_OPTION, before, re.IGNORECASE)
        )
        told.append(_HIDDEN if secret and not word.startswith("-") else word)
    text = shown(" ".join(shlex.quote(word) if " " in word else word for word in told))
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _file_name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def cell(text: str) -> str:
    """The text for a CSV file: one line, and no formula of a spreadsheet."""
    text = one_line(text)
    return f"'{text}" if text.lstrip()[:1] in _FORMULA and text.lstrip() else text


def storable(text: str) -> str:
    """The text without NUL and without halves of surrogate pairs, which databases and files do not accept."""
    return re.sub(_NOT_STORABLE, lambda match: _visible(match[0]), text)


def _replaced(pattern: str, by: str, text: str) -> str:
    return re.sub(pattern, by, text, flags=re.IGNORECASE)


def _visible(character: str) -> str:
    if unicodedata.category(character) in _UNSAFE and character not in _HARMLESS:
        return character.encode("unicode_escape").decode()
    return character


def _secrets(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        yield from re.findall(_PASSWORD, value)
        if not re.search(_SECRET_VARIABLE, name, re.IGNORECASE) or name.upper().endswith(
            ("_FILE", "_PATH", "_DIR")
        ):
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
