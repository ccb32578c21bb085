"""Which line of a TOML file says what: the standard parser does not tell.

Works on text that `tomllib` has already accepted, so it need not judge, only follow. Paths are tuples of keys
and, inside arrays, of indices: `("threshold", 1, "above")`.
"""

import json
import re
import tomllib

KeyPath = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_SCALAR = re.compile(r"[^,\]}\n#]*")
_BASIC = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL = re.compile(r"'[^'\n]*'")
_LONG_BASIC = re.compile(r'"""(?:[^"\\]|\\[\s\S]|"(?!""))*"{3,5}')
_LONG_LITERAL = re.compile(r"'''(?:[^']|'(?!''))*'{3,5}")


def key_lines(text: str) -> dict[KeyPath, int]:
    """The 1-based line of every key, table and array element of a valid document."""
    return _Scanner(text.replace("\r\n", "\n")).document()


def show_path(path: KeyPath) -> str:
    """`("threshold", 1, "above")` as people write it: `threshold[1].above`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False)
            text += f".{name}" if text else name
    return text


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0
        self._line = 1
        self._counted = 0
        self._lines: dict[KeyPath, int] = {}
        self._tables: dict[KeyPath, int] = {}
        """How many elements each array of tables has so far."""

    def document(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self._skip(_BLANK) < len(self._text):
            if self._text[self._place] == "[":
                table = self._header()
            else:
                self._key_value(table)
        return self._lines

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self._text, self._place)
        assert match is not None, "tomllib has accepted this text"
        self._place = match.end()
        return self._place

    def _mark(self, path: KeyPath) -> None:
        """Note the present line for `path`, unless an earlier one is known."""
        self._line += self._text.count("\n", self._counted, self._place)
        self._counted = self._place
        self._lines.setdefault(path, self._line)

    def _header(self) -> KeyPath:
        is_array = self._text.startswith("[[", self._place)
        self._place += 2 if is_array else 1
        self._skip(_SPACE)
        start = self._place
        keys = self._dotted_key()
        end = self._place
        self._place = start
        path: KeyPath = ()
        for key in keys[:-1]:
            path = self._newest((*path, key))
            self._mark(path)
        path = (*path, keys[-1])
        self._mark(path)
        if is_array:
            count = self._tables.get(path, 0)
            self._tables[path] = count + 1
            path = (*path, count)
        else:
            path = self._newest(path)
        self._mark(path)
        self._place = end
        self._skip(_SPACE)
        self._place += 2 if is_array else 1
        return path

    def _newest(self, path: KeyPath) -> KeyPath:
        """`[a.b]` under `[[a]]` belongs to the newest element of `a`."""
        count = self._tables.get(path)
        return path if count is None else (*path, count - 1)

    def _dotted_key(self) -> list[str]:
        keys = []
        while True:
            keys.append(self._one_key())
            self._skip(_SPACE)
            if not self._text.startswith(".", self._place):
                return keys
            self._place += 1
            self._skip(_SPACE)

    def _one_key(self) -> str:
        start = self._place
        quote = self._text[start]
        if quote == '"':
            self._skip(_BASIC)
            return next(iter(tomllib.loads(f"{self._text[start : self._place]} = 0")))
        if quote == "'":
            self._skip(_LITERAL)
            return self._text[start + 1 : self._place - 1]
        self._skip(_BARE_KEY)
        return self._text[start : self._place]

    def _key_value(self, table: KeyPath) -> None:
        start = self._place
        keys = self._dotted_key()
        end = self._place
        self._place = start
        for length in range(1, len(keys) + 1):
            self._mark((*table, *keys[:length]))
        self._place = end + 1  # The equals sign.
        self._skip(_SPACE)
        self._value((*table, *keys))

    def _value(self, path: KeyPath) -> None:
        self._mark(path)
        text, place = self._text, self._place
        if text.startswith("[", place):
            self._array(path)
        elif text.startswith("{", place):
            self._inline_table(path)
        elif text.startswith('"""', place):
            self._skip(_LONG_BASIC)
        elif text.startswith("'''", place):
            self._skip(_LONG_LITERAL)
        elif text.startswith('"', place):
            self._skip(_BASIC)
        elif text.startswith("'", place):
            self._skip(_LITERAL)
        else:
            self._skip(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        self._place += 1
        index = 0
        while self._text[self._skip(_BLANK)] != "]":
            self._value((*path, index))
            index += 1
            if self._text[self._skip(_BLANK)] == ",":
                self._place += 1
        self._place += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._place += 1
        while self._text[self._skip(_BLANK)] != "}":
            self._key_value(path)
            if self._text[self._skip(_BLANK)] == ",":
                self._place += 1
        self._place += 1
