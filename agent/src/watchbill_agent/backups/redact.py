"""Takes secrets out of what a tool printed, before it leaves this process.

Two ways, and both are needed. What this process knows to be secret (the values of variables and options whose names
say so, such as RESTIC_PASSWORD) is taken out wherever it stands. And what looks like a secret is taken out by its form:
`password=...`, user and password in an address, tokens of well-known services, private keys. Neither is a proof; a
tool that prints a password in a sentence of its own is not caught by its form.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

HIDDEN: Final = "[redacted]"
CHARACTERS_MAX: Final = 32 * 1024
"""Of a text that is looked through; of a longer one the end is what counts, and the rest is dropped."""
KNOWN_CHARACTERS_MIN: Final = 4
"""A shorter value stands in half of all words."""
KNOWN_MAX: Final = 256
"""Known secrets, at most; the longest count."""

_NAME: Final = (
    r"(?:password|passwd|passphrase|passwort|pwd|secret|token|credential|api[_-]?key|access[_-]?key|"
    r"account[_-]?key|private[_-]?key|sas[_-]?key|authorization|auth[_-]?key)"
)
_SECRET_NAME = re.compile(rf"(?i){_NAME}s?(?![a-z])|(?i:pass)$|^(?i:pg|mysql_?)(?i:password|pwd)$")
_NOT_THE_SECRET = re.compile(r"(?i)(?:file|command|cmd|path|name|id|_fd|dir|askpass)$|^(?:OLD)?PWD$")
"""These name where the secret is, or how it is called; and the directory that one is in."""
_NO_SECRETS: Final = frozenset({"true", "false", "none", "null", "auto", "prompt"})
"""Values that say how to get one, or whether there is one."""

_FORMS: Final = (
    # Private keys, also those whose beginning is not here any more.
    (
        re.compile(
            r"(?s)(?:-----BEGIN [A-Z ]*PRIVATE KEY-----|\A).{0,16384}?-----END [A-Z ]*PRIVATE KEY-----"
        ),
        HIDDEN,
    ),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.{0,16384})"), HIDDEN),
    # user:password@ in an address.
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,30}://[^\s/:@]{0,256}):[^\s/@]{1,512}@"), rf"\1:{HIDDEN}@"),
    (re.compile(r"(?i)\b(bearer|basic|digest)\s+[a-z0-9._~+/=-]{8,4096}"), rf"\1 {HIDDEN}"),
    # "name": "value", name=value, --name value; the name may have words before and after it.
    (
        re.compile(
            rf"(?i)({_NAME}s?\w{{0,2}}[\"']?\s{{0,4}}[:=]\s{{0,4}})(?:\"(?:[^\"\\]|\\.){{1,4096}}\"?|'[^']{{1,4096}}'?|[^\s,;&\"']{{1,4096}})"
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(rf"(?i)(--?[\w-]{{0,64}}{_NAME}\s{{1,4}})[^\s-]\S{{0,4096}}"), rf"\1{HIDDEN}"),
    # Tokens that are known by their beginning.
    (
        re.compile(
            r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20,255}|\bgithub_pat_\w{20,255}|\bglpat-[\w-]{20,255}"
            r"|\bxox[abprs]-[\w-]{10,255}|\bsk-[\w-]{20,255}|\bAGE-SECRET-KEY-1[A-Z0-9]{20,255}"
            r"|\beyJ[\w-]{8,4096}\.[\w-]{8,4096}\.[\w-]{0,4096}"
        ),
        HIDDEN,
    ),
)


class Redactor:
    """Takes out `known` values and everything that has the form of a secret."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        values = {
            value
            for value in known
            if len(value) >= KNOWN_CHARACTERS_MIN and value.lower() not in _NO_SECRETS
        }
        self._known = sorted(values, key=len, reverse=True)[:KNOWN_MAX]

    def __call__(self, text: str) -> str:
        """The text without them: its end, where it is too long."""
        text = text[-CHARACTERS_MAX:]
        for value in self._known:
            text = text.replace(value, HIDDEN)
        for form, instead in _FORMS:
            text = form.sub(instead, text)
        return text


def known_secrets(environment: Mapping[str, str], argv: Sequence[str]) -> list[str]:
    """Values of variables and of options whose names say that they are secret."""
    found = [value for name, value in environment.items() if _says_secret(name)]
    for place, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if not argument.startswith("-") or not _says_secret(name):
            continue
        if equals:
            found.append(value)
        elif place + 1 < len(argv) and not argv[place + 1].startswith("-"):
            found.append(argv[place + 1])
    return found


def _says_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None and _NOT_THE_SECRET.search(name) is None
