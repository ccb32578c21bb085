"""An action: what root of a host allows to be run there, with which arguments, as whom.

The runner reads it from `actions.d` at every use; the collector holds a copy by digest, to plan with and to show to
who approves. Nothing that comes over the network can make one. How a value may look is decided here, for both.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Final, Literal

from watchbill.actions import bounds
from watchbill.actions.canonical import NUMBER_MAX, canonical
from watchbill.errors import Refused, Unreadable

Value = str | int
"""Of an argument. Sizes are bytes, durations seconds, both whole."""

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
"""Of an action."""
ARGUMENT_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
PLACE: Final = re.compile(r"\{\{([a-z][a-z0-9_]{0,63})\}\}", re.ASCII)
"""Where an argument goes: a whole element of an argv and nothing else."""
DIGEST_CHARACTERS: Final = 64

_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:+-]{0,127}", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", re.ASCII)


class Effect(StrEnum):
    """What running an action again would do."""

    READ = "read"
    """Nothing: it only looks. Allowed in plans, preflights and drills."""
    REPEAT = "repeat"
    """The same as running it once."""
    ONCE = "once"
    """Something else: it is never run twice without a person or a probe that says so."""


class Kind(StrEnum):
    """What the value of an argument is."""

    INT = "int"
    SIZE = "size"
    DURATION = "duration"
    ENUM = "enum"
    NAME = "name"
    HOST = "host"
    PATH = "path"
    STRING = "string"


NUMBERS: Final = frozenset({Kind.INT, Kind.SIZE, Kind.DURATION})


class ArgumentRefused(Refused):
    """A value that an action does not take. `argument` is its name."""

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(f"{argument}: {message}")
        self.argument = argument


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument. `least` and `most` bound numbers; `choices` are an enum's; `match` has to fit a text whole;
    `roots` are the directories that a path lies in; `self_only`: a host that must be the one it runs on; `dash`: the
    value may begin with "-". Without a default it has to be given.
    """

    name: str
    kind: Kind
    choices: tuple[str, ...] = ()
    match: str = ""
    least: int | None = None
    most: int | None = None
    roots: tuple[str, ...] = ()
    self_only: bool = False
    dash: bool = False
    default: Value | None = None

    def judge(self, value: object, own_host: str = "") -> Value:
        """The value, when this argument takes it. Raises ArgumentRefused.

        `own_host` is the instance it would run on; "" leaves `self_only` unjudged, for who only reads a runbook.
        """
        if self.kind in NUMBERS:
            return self._number(value)
        if not isinstance(value, str):
            raise ArgumentRefused(self.name, f"got {_shown(value)}, wanted text")
        if not value or len(value) > bounds.ARGUMENT_CHARACTERS_MAX:
            raise ArgumentRefused(
                self.name, f"got {len(value)} characters, wanted 1 to {bounds.ARGUMENT_CHARACTERS_MAX}"
            )
        if not value.isascii() or not value.isprintable():
            # A look-alike letter, a line's end and NUL are never what was meant where a program reads them.
            raise ArgumentRefused(self.name, f"got {_shown(value)}, wanted printable ASCII")
        if value.startswith("-") and not self.dash:
            raise ArgumentRefused(self.name, f'got {_shown(value)}, wanted no "-" at its beginning')
        self._text(value, own_host)
        if self.match and not _compiled(self.match).fullmatch(value):
            raise ArgumentRefused(self.name, f"got {_shown(value)}, wanted all of it to match {self.match}")
        return value

    def _number(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ArgumentRefused(self.name, f"got {_shown(value)}, wanted a whole number")
        least = self.least if self.least is not None else (-NUMBER_MAX if self.kind is Kind.INT else 0)
        most = self.most if self.most is not None else NUMBER_MAX
        if not least <= value <= most:
            raise ArgumentRefused(self.name, f"got {value}, wanted {least} to {most}")
        if value < 0 and not self.dash:
            raise ArgumentRefused(self.name, f'got {value}, wanted no "-" at its beginning')
        return value

    def _text(self, value: str, own_host: str) -> None:
        match self.kind:
            case Kind.ENUM if value not in self.choices:
                raise ArgumentRefused(
                    self.name, f"got {_shown(value)}, wanted one of {', '.join(self.choices)}"
                )
            case Kind.NAME if not _PLAIN.fullmatch(value):
                raise ArgumentRefused(
                    self.name, f"got {_shown(value)}, wanted letters, digits and . _ @ : + -"
                )
            case Kind.HOST if not _HOST.fullmatch(value):
                raise ArgumentRefused(self.name, f"got {_shown(value)}, wanted the name of a host")
            case Kind.HOST if self.self_only and own_host and value != own_host:
                raise ArgumentRefused(self.name, f"got {_shown(value)}, wanted this host, {own_host}")
            case Kind.PATH:
                self._path(value)
            case _:
                pass

    def _path(self, value: str) -> None:
        path = PurePosixPath(value)
        if not path.is_absolute() or ".." in path.parts or str(path) != value or value.startswith("//"):
            raise ArgumentRefused(
                self.name, f'got {_shown(value)}, wanted an absolute path without "..", "." and "//"'
            )
        if not any(path.is_relative_to(root) and str(path) != root for root in self.roots):
            raise ArgumentRefused(
                self.name, f"got {_shown(value)}, wanted a path below {', '.join(self.roots)}"
            )

    def document(self) -> dict[str, Any]:
        """For a canonical document; what is not said is left out."""
        found: dict[str, Any] = {"type": self.kind.value}
        if self.choices:
            found["enum"] = list(self.choices)
        if self.match:
            found["match"] = self.match
        if self.least is not None:
            found["min"] = self.least
        if self.most is not None:
            found["max"] = self.most
        if self.roots:
            found["roots"] = list(self.roots)
        if self.self_only:
            found["self"] = True
        if self.dash:
            found["dash"] = True
        if self.default is not None:
            found["default"] = self.default
        return found


@dataclass(frozen=True, slots=True)
class Needs:
    """How many people have to agree before it runs, and in which role; 0: nobody."""

    approvals: int = 0
    role: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One action. Durations are seconds, sizes bytes.

    `probe` is a read action of the same host that tells whether this one has happened, `done_when` the expression over
    its output that says yes. `plan_argv` shows what would be done and changes nothing. `secrets` are names of
    environment variables and the credential or file on the host that each is read from. `sha256` pins the executable.
    """

    name: str
    argv: tuple[str, ...]
    effect: Effect
    about: str = ""
    arguments: tuple[Argument, ...] = ()
    run_as: str = "root"
    probe: str = ""
    done_when: str = ""
    needs: Needs = Needs()
    timeout_s: int = 60
    kill_grace_s: int = 5
    cooldown_s: int = 0
    parallel: int = 1
    output_max: int = bounds.OUTPUT_BYTES_MAX
    output: Literal["text", "json"] = "text"
    sha256: str = ""
    plan_argv: tuple[str, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)

    @property
    def protected(self) -> bool:
        """Whether people have to sign before it runs."""
        return self.needs.approvals > 0

    def argument(self, name: str) -> Argument | None:
        """By its name."""
        return next((one for one in self.arguments if one.name == name), None)

    def document(self) -> dict[str, Any]:
        """All of it but where secrets are read from: what the collector is told and what approvers see."""
        return {
            "v": 1,
            "name": self.name,
            "about": self.about,
            "argv": list(self.argv),
            "args": {one.name: one.document() for one in self.arguments},
            "run_as": self.run_as,
            "effect": self.effect.value,
            "probe": self.probe,
            "done_when": self.done_when,
            "approvals": self.needs.approvals,
            "role": self.needs.role,
            "timeout_s": self.timeout_s,
            "kill_grace_s": self.kill_grace_s,
            "cooldown_s": self.cooldown_s,
            "parallel": self.parallel,
            "output": self.output,
            "output_max": self.output_max,
            "sha256": self.sha256,
            "plan_argv": list(self.plan_argv),
            "secrets": sorted(self.secrets),
        }

    def digest(self) -> str:
        """SHA-256 of its document, in hexadecimal: what a command names, so that what was read is what runs."""
        return hashlib.sha256(canonical(self.document())).hexdigest()

    def bind(self, given: Mapping[str, object], own_host: str = "") -> dict[str, Value]:
        """All arguments with their values, defaults filled in. Raises ArgumentRefused."""
        unknown = sorted(set(given) - {one.name for one in self.arguments})
        if unknown:
            raise ArgumentRefused(unknown[0], f"{self.name} has no such argument")
        bound: dict[str, Value] = {}
        for one in self.arguments:
            value = given.get(one.name, one.default)
            if value is None:
                raise ArgumentRefused(one.name, f"{self.name} needs it")
            bound[one.name] = one.judge(value, own_host)
        return bound

    def command_line(self, bound: Mapping[str, Value], *, plan: bool = False) -> tuple[str, ...]:
        """The argv for arguments that `bind` has judged; of `plan_argv` when only a plan is wanted."""
        return tuple(
            str(bound[place[1]]) if (place := PLACE.fullmatch(element)) else element
            for element in (self.plan_argv if plan else self.argv)
        )


def read_action(document: Mapping[str, Any]) -> Action:
    """An action from its document, as a host sent it. What a newer host says beyond it is left out; `secrets` come back
    as names without their places. Raises Unreadable.
    """
    try:
        found = Action(
            name=_text(document["name"], bounds.NAME_CHARACTERS_MAX),
            about=_text(document.get("about", ""), bounds.ABOUT_CHARACTERS_MAX),
            argv=_argv(document["argv"]),
            effect=Effect(document["effect"]),
            arguments=tuple(_argument(name, one) for name, one in sorted(dict(document["args"]).items())),
            run_as=_text(document["run_as"], bounds.NAME_CHARACTERS_MAX),
            probe=_text(document.get("probe", ""), bounds.NAME_CHARACTERS_MAX),
            done_when=_text(document.get("done_when", ""), bounds.ABOUT_CHARACTERS_MAX),
            needs=Needs(
                _whole(document.get("approvals", 0), bounds.APPROVALS_MAX),
                _text(document.get("role", ""), bounds.NAME_CHARACTERS_MAX),
            ),
            timeout_s=_whole(document["timeout_s"], bounds.TIMEOUT_S_MAX),
            kill_grace_s=_whole(document.get("kill_grace_s", 5), bounds.TIMEOUT_S_MAX),
            cooldown_s=_whole(document.get("cooldown_s", 0), bounds.COOLDOWN_S_MAX),
            parallel=_whole(document.get("parallel", 1), bounds.PARALLEL_MAX),
            output="json" if document.get("output") == "json" else "text",
            output_max=_whole(document.get("output_max", bounds.OUTPUT_BYTES_MAX), bounds.OUTPUT_BYTES_MAX),
            sha256=_text(document.get("sha256", ""), DIGEST_CHARACTERS),
            plan_argv=_argv(document.get("plan_argv", [])),
            secrets={_text(one, bounds.NAME_CHARACTERS_MAX): "" for one in document.get("secrets", [])},
        )
    except (KeyError, ValueError, TypeError, AttributeError) as exc:
        raise Unreadable(f"an action's description: {exc!r}") from exc
    if not NAME.fullmatch(found.name) or not found.argv:
        raise Unreadable(
            f"an action's description: the name {found.name!r}, {len(found.argv)} elements of argv"
        )
    return found


def _argument(name: str, found: Mapping[str, Any]) -> Argument:
    if not ARGUMENT_NAME.fullmatch(name):
        raise ValueError(f"an argument {name!r}")
    return Argument(
        name=name,
        kind=Kind(found["type"]),
        choices=tuple(_text(one, bounds.ARGUMENT_CHARACTERS_MAX) for one in found.get("enum", [])),
        match=_text(found.get("match", ""), bounds.ABOUT_CHARACTERS_MAX),
        least=found.get("min"),
        most=found.get("max"),
        roots=tuple(_text(one, bounds.ARGV_CHARACTERS_MAX) for one in found.get("roots", [])),
        self_only=bool(found.get("self", False)),
        dash=bool(found.get("dash", False)),
        default=found.get("default"),
    )


def _argv(found: object) -> tuple[str, ...]:
    if not isinstance(found, list) or len(found) > bounds.ARGV_MAX:
        raise ValueError(f"argv is no list of at most {bounds.ARGV_MAX}")
    return tuple(_text(one, bounds.ARGV_CHARACTERS_MAX) for one in found)


def _text(found: object, characters_max: int) -> str:
    if not isinstance(found, str) or len(found) > characters_max:
        raise ValueError(f"got {_shown(found)}, wanted text of at most {characters_max} characters")
    return found


def _whole(found: object, most: int) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= most:
        raise ValueError(f"got {_shown(found)}, wanted a whole number from 0 to {most}")
    return found


@lru_cache(bounds.ACTIONS_MAX)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII)


def _shown(value: object) -> str:
    """For an error: short, on one line, with nothing that a terminal would obey."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
