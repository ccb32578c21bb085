"""actions.d/*.toml and observe.d/*.toml: what root lets be run on this host. No file, nothing runs.

    [[action]]
    name = "svc.restart"
    argv = ["/usr/bin/systemctl", "restart", "--", "{{unit}}"]
    args.unit = { type = "enum", enum = ["nginx.service", "postgresql.service"] }
    effect = "repeat"
    timeout = "60s"

    [[observe]]
    name = "disk.health"
    argv = ["/usr/sbin/smartctl", "--json", "--all", "/dev/sda"]
    format = "json"

Every file stands for itself: one that root does not own, that others may write or that says something wrong is not
used, as a whole, and told. The others go on.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from watchbill.actions import bounds
from watchbill.actions.definition import (
    ARGUMENT_NAME,
    NAME,
    NUMBERS,
    PLACE,
    Action,
    Argument,
    ArgumentRefused,
    Effect,
    Kind,
    Needs,
    Value,
)
from watchbill.actions.owned import owned_fault, way_fault
from watchbill.actions.patterns import pattern_fault
from watchbill.config import ByteSize, Duration, NotWanted, Wrong, load, option
from watchbill.config.convert import show_value
from watchbill.errors import ConfigError

ACTIONS_DIRECTORY: Final = "actions.d"
OBSERVE_DIRECTORY: Final = "observe.d"
FILES_MAX: Final = 200
"""Files of one directory that are read."""
FAULTS_MAX: Final = 100
"""Faults that are told of one directory; the rest is a number."""
OBSERVE_TIMEOUT_MAX: Final = Duration(3600)

_VARIABLE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}", re.ASCII)
_CREDENTIAL: Final = re.compile(r"credential:[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FIXED: Final = frozenset({"PATH", "LANG", "LC_ALL", "HOME", "IFS", "ENV", "BASH_ENV", "PYTHONPATH"})
"""Variables that say how a program runs; a secret is none of them, nor any that the loader obeys (LD_*)."""


def _name(value: str) -> str | None:
    return None if NAME.fullmatch(value) else "1 to 64 of a-z, 0-9, dot, dash and underscore"


def _user(value: str) -> str | None:
    return None if _USER.fullmatch(value) else "the name of a user"


def _sha256(value: str) -> str | None:
    return None if not value or _SHA256.fullmatch(value) else "64 hexadecimal digits"


def _pattern(value: str) -> str | None:
    return pattern_fault(value) or None if value else None


def _argv(values: Sequence[str]) -> Iterator[Wrong]:
    """Absolute, printable, and a placeholder is a whole element: nothing is ever joined to a command."""
    for number, value in enumerate(values):
        if "\0" in value or not value.isprintable() or len(value) > bounds.ARGV_CHARACTERS_MAX:
            yield Wrong(
                (number,), show_value(value), f"printable text of at most {bounds.ARGV_CHARACTERS_MAX}"
            )
        elif ("{{" in value or "}}" in value) and not PLACE.fullmatch(value):
            yield Wrong((number,), show_value(value), "{{argument}} as a whole element")
        elif number == 0 and (PLACE.fullmatch(value) or not _plain_path(value)):
            yield Wrong((number,), show_value(value), "the absolute path of an executable")


def _plain_path(value: str) -> bool:
    path = PurePosixPath(value)
    return path.is_absolute() and ".." not in path.parts and str(path) == value and not value.startswith("//")


def _roots(values: Sequence[str]) -> Iterator[Wrong]:
    for number, value in enumerate(values):
        if not _plain_path(value):
            yield Wrong((number,), show_value(value), 'an absolute directory without ".."')


def _secrets(values: Mapping[str, str]) -> Iterator[Wrong]:
    for name, place in values.items():
        if not _VARIABLE.fullmatch(name) or name in _FIXED or name.startswith(("LD_", "WATCHBILL_")):
            yield Wrong((name,), show_value(name), "a variable such as PGPASSWORD")
        elif not _CREDENTIAL.fullmatch(place) and not _plain_path(place):
            yield Wrong(
                (name,),
                show_value(place),
                "credential:NAME or the absolute path of a file that is root's alone",
            )


# ---------------------------------------------------------------- what the files say


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgumentTable:
    """What one argument may be. Without a default it has to be given."""

    type: Kind = option(Kind.NAME, help="What the value is.")
    enum: list[str] = option([], length_max=bounds.CHOICES_MAX, help="All values there are, of an enum.")
    match: str = option("", check=_pattern, help="A regular expression that all of the value has to match.")
    min: object = option(None, help="The least number, size or duration.")
    max: object = option(None, help="The greatest number, size or duration.")
    roots: list[str] = option([], length_max=bounds.CHOICES_MAX, check=_roots, help="Where a path may lie.")
    self: bool = option(False, help="A host that has to be this one.")
    dash: bool = option(False, help='Whether the value may begin with "-".')
    default: object = option(None, help="The value when none is given.")

    def check(self) -> Iterator[Wrong]:
        """What belongs to which type."""
        for key, said, kinds in (
            ("enum", self.enum, {Kind.ENUM}),
            ("roots", self.roots, {Kind.PATH}),
            ("self", self.self, {Kind.HOST}),
            ("match", self.match, {*Kind} - NUMBERS),
            ("min", self.min is not None, NUMBERS),
            ("max", self.max is not None, NUMBERS),
        ):
            if said and self.type not in kinds:
                yield Wrong(key, f"it for type {self.type.value}", f"it for {', '.join(sorted(kinds))} alone")
        if self.type is Kind.ENUM and not self.enum:
            yield Wrong("enum", "nothing", "the values that there are")
        if self.type is Kind.PATH and not self.roots:
            yield Wrong("roots", "nothing", "the directories that the path may lie in")
        for key in ("min", "max", "default"):
            try:
                self.value(key)
            except NotWanted as exc:
                yield Wrong(key, show_value(getattr(self, key)), str(exc))

    def value(self, key: str) -> Value | None:
        """A key's value as the argument has it: sizes in bytes, durations in whole seconds. Raises NotWanted."""
        found = getattr(self, key)
        if found is None:
            return None
        match self.type:
            case Kind.SIZE:
                return int(ByteSize.from_config(found))
            case Kind.DURATION:
                seconds = Duration.from_config(found)
                if seconds.ms % 1000:
                    raise NotWanted("whole seconds")
                return int(seconds)
            case Kind.INT:
                if not isinstance(found, int) or isinstance(found, bool):
                    raise NotWanted("a whole number")
                return found
            case _:
                if not isinstance(found, str):
                    raise NotWanted("text")
                return found

    def argument(self, name: str) -> Argument:
        """As it is judged by."""
        least, most = self.value("min"), self.value("max")
        assert not isinstance(least, str), "only numbers have bounds"
        assert not isinstance(most, str), "only numbers have bounds"
        return Argument(
            name=name,
            kind=self.type,
            choices=tuple(self.enum),
            match=self.match,
            least=least,
            most=most,
            roots=tuple(self.roots),
            self_only=self.self,
            dash=self.dash,
            default=self.value("default"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsTable:
    """Who has to agree."""

    approvals: int = option(at_least=1, at_most=bounds.APPROVALS_MAX, help="How many different people.")
    role: str = option(length_max=bounds.NAME_CHARACTERS_MAX, help="In which role of the roster.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionTable:
    """One action."""

    name: str = option(check=_name, help="How runbooks call it.")
    about: str = option("", length_max=bounds.ABOUT_CHARACTERS_MAX, help="What it does, for people.")
    argv: list[str] = option(length_max=bounds.ARGV_MAX, check=_argv, help="The command; no shell reads it.")
    args: dict[str, ArgumentTable] = option(
        {}, length_max=bounds.ARGUMENTS_MAX, help="What may be filled in."
    )
    run_as: str = option("root", check=_user, help="The user that runs it.")
    effect: Effect = option(help="What running it again would do.")
    probe: str = option("", help="A read action that tells whether this one has happened.")
    done_when: str = option("", length_max=bounds.ABOUT_CHARACTERS_MAX, help="Its answer that says yes.")
    protected: bool = option(False, help="That people have to agree; needs says who.")
    needs: NeedsTable | None = option(None, help="Who has to agree before it runs.")
    timeout: Duration = option(
        Duration(60), at_least=1, at_most=bounds.TIMEOUT_S_MAX, help="Then it is ended."
    )
    kill_grace: Duration = option(Duration(5), at_least=1, at_most=600, help="From SIGTERM to SIGKILL.")
    cooldown: Duration = option(
        Duration(0), at_most=bounds.COOLDOWN_S_MAX, help="Rest between two runs of it."
    )
    parallel: int = option(1, at_least=1, at_most=bounds.PARALLEL_MAX, help="How many at a time.")
    output: Literal["text", "json"] = option("text", help="What it prints.")
    output_max: ByteSize = option(
        ByteSize(bounds.OUTPUT_BYTES_MAX),
        at_least=1,
        at_most=bounds.OUTPUT_BYTES_MAX,
        help="How much is kept.",
    )
    sha256: str = option("", check=_sha256, help="Of the executable, when it has to be this very one.")
    plan_argv: list[str] = option(
        [], length_max=bounds.ARGV_MAX, check=_argv, help="Shows what it would do and changes nothing."
    )
    secrets: dict[str, str] = option(
        {}, length_max=bounds.SECRETS_MAX, check=_secrets, help="Variables, and where each is read from."
    )

    def check(self) -> Iterator[Wrong]:
        """What concerns several keys."""
        if not self.argv:
            yield Wrong("argv", "nothing", "the absolute path of an executable, and its arguments")
        if self.protected and self.needs is None:
            yield Wrong("protected", "true", "needs = { approvals = 2, role = ... } beside it")
        if self.probe and not self.done_when:
            yield Wrong("done_when", "nothing", 'an expression over the probe, such as out.role == "primary"')
        for name in self.args:
            if not ARGUMENT_NAME.fullmatch(name):
                yield Wrong(("args", name), show_value(name), "a-z, digits and underscores")
        for key, argv in (("argv", self.argv), ("plan_argv", self.plan_argv)):
            for number, element in enumerate(argv):
                place = PLACE.fullmatch(element)
                if place and place[1] not in self.args:
                    yield Wrong((key, number), show_value(element), "an argument that args describes")
        for name, table in self.args.items():
            if "{{" + name + "}}" not in {*self.argv, *self.plan_argv}:
                yield Wrong(("args", name), "an argument that argv does not have", "{{" + name + "}} in argv")
            yield from _default(name, table)

    def action(self) -> Action:
        """As it is run."""
        return Action(
            name=self.name,
            about=self.about,
            argv=tuple(self.argv),
            arguments=tuple(table.argument(name) for name, table in sorted(self.args.items())),
            run_as=self.run_as,
            effect=self.effect,
            probe=self.probe,
            done_when=self.done_when,
            needs=Needs(self.needs.approvals, self.needs.role) if self.needs else Needs(),
            timeout_s=int(self.timeout),
            kill_grace_s=int(self.kill_grace),
            cooldown_s=int(self.cooldown),
            parallel=self.parallel,
            output=self.output,
            output_max=int(self.output_max),
            sha256=self.sha256,
            plan_argv=tuple(self.plan_argv),
            secrets=dict(self.secrets),
        )


def _default(name: str, table: ArgumentTable) -> Iterator[Wrong]:
    """A default has to be a value like any other."""
    try:
        argument = table.argument(name)
        if argument.default is not None:
            argument.judge(argument.default)
    except NotWanted:
        pass  # The table has told it.
    except ArgumentRefused as exc:
        yield Wrong(
            ("args", name, "default"), show_value(table.default), str(exc).partition("wanted ")[2] or str(exc)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionsFile:
    """One file of actions.d."""

    action: list[ActionTable] = option([], length_max=bounds.ACTIONS_MAX, help="What may be run here.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Observe:
    """Something that the agent may have read for it, with more rights than its own: fixed, nothing to fill in."""

    name: str = option(check=_name, help="How the agent asks for it.")
    argv: list[str] = option(length_max=bounds.ARGV_MAX, help="The command; no shell reads it.")
    run_as: str = option("root", check=_user, help="The user that runs it.")
    timeout: Duration = option(
        Duration(60), at_least=1, at_most=OBSERVE_TIMEOUT_MAX, help="Then it is ended."
    )
    format: Literal["text", "json"] = option("text", help="What it prints.")
    output_max: ByteSize = option(
        ByteSize(1024 * 1024), at_least=1, at_most=16 * 1024 * 1024, help="More of its output is an error."
    )

    def check(self) -> Iterator[Wrong]:
        """Nothing in it may be filled in."""
        if not self.argv:
            yield Wrong("argv", "nothing", "the absolute path of an executable, and its arguments")
        for number, element in enumerate(self.argv):
            if PLACE.fullmatch(element):
                yield Wrong(
                    ("argv", number), show_value(element), "fixed text: an observation has no arguments"
                )
        for wrong in _argv(self.argv):
            yield Wrong(("argv", *wrong.key), wrong.got, wrong.wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveFile:
    """One file of observe.d."""

    observe: list[Observe] = option([], length_max=bounds.ACTIONS_MAX, help="What the agent may have read.")


@dataclass(frozen=True, slots=True)
class Allowed:
    """What root allows here. `faults` are what is not used, and why, each naming its file."""

    actions: Mapping[str, Action] = field(default_factory=dict)
    observes: Mapping[str, Observe] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def load_allowed(etc: Path, owner: int) -> Allowed:
    """Both directories. Never raises: what cannot be used is a fault, and not used."""
    faults: list[str] = []
    actions: dict[str, Action] = {}
    observes: dict[str, Observe] = {}
    where: dict[str, Path] = {}
    twice: set[str] = set()
    for path in _files(etc / ACTIONS_DIRECTORY, owner, faults):
        for action in _actions(path, faults):
            if action.name in where:
                twice.add(action.name)
                faults.append(
                    f"{path}: the action {action.name} is in {where[action.name]} as well; neither is used"
                )
            where[action.name] = path
            actions[action.name] = action
    for name in twice:
        del actions[name]
    for name in _unprobed(actions):
        action = actions.pop(name)
        faults.append(
            f"{where[name]}: {name}: got the probe {action.probe}, wanted a read action that takes its arguments"
        )
    for path in _files(etc / OBSERVE_DIRECTORY, owner, faults):
        for observe in _observes(path, faults):
            if observe.name in observes:
                faults.append(f"{path}: {observe.name} is there twice; the first is used")
            observes.setdefault(observe.name, observe)
    if len(actions) > bounds.ACTIONS_MAX:
        faults.append(
            f"{etc / ACTIONS_DIRECTORY}: got {len(actions)} actions, wanted at most {bounds.ACTIONS_MAX}"
        )
        actions = {}
    return Allowed(actions, observes, _few(faults))


def _files(directory: Path, owner: int, faults: list[str]) -> list[Path]:
    """The files of a directory that may be believed; what may not is a fault."""
    try:
        names = sorted(entry.name for entry in directory.iterdir() if entry.name.endswith(".toml"))
    except FileNotFoundError:
        return []
    except OSError as exc:
        faults.append(f"{directory}: {(exc.strerror or 'unreadable').lower()}")
        return []
    fault = owned_fault(directory, owner, directory=True) or way_fault(directory, owner)
    if fault:
        faults.append(f"{directory}: {fault}; nothing in it is used")
        return []
    if len(names) > FILES_MAX:
        faults.append(
            f"{directory}: got {len(names)} files, wanted at most {FILES_MAX}; nothing in it is used"
        )
        return []
    found = []
    for path in (directory / name for name in names if not name.startswith(".")):
        fault = owned_fault(path, owner)
        if fault:
            faults.append(f"{path}: {fault}; it is not used")
        else:
            found.append(path)
    return found


def _actions(path: Path, faults: list[str]) -> list[Action]:
    try:
        return [table.action() for table in load(ActionsFile, path).action]
    except ConfigError as exc:
        faults.extend(str(problem) for problem in exc.problems)
        return []


def _observes(path: Path, faults: list[str]) -> list[Observe]:
    try:
        return load(ObserveFile, path).observe
    except ConfigError as exc:
        faults.extend(str(problem) for problem in exc.problems)
        return []


def _unprobed(actions: Mapping[str, Action]) -> list[str]:
    """Actions whose probe could not be asked."""
    found = []
    for name, action in actions.items():
        if not action.probe:
            continue
        probe = actions.get(action.probe)
        if probe is None or probe.effect is not Effect.READ or not _takes(probe, action):
            found.append(name)
    return found


def _takes(probe: Action, action: Action) -> bool:
    """Whether a probe can be asked with an action's arguments: each that it needs is one of them."""
    names = {one.name for one in action.arguments}
    return all(one.default is not None or one.name in names for one in probe.arguments)


def _few(faults: list[str]) -> tuple[str, ...]:
    if len(faults) <= FAULTS_MAX:
        return tuple(faults)
    return (*faults[:FAULTS_MAX], f"{len(faults) - FAULTS_MAX} more faults")
