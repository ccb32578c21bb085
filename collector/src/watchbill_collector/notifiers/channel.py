"""What every kind of channel is. One file of `channels/` is one kind: a docstring whose first paragraph is the
help text, a frozen `Options`, one class, and pure functions that render.

    kind = discover()["webhook"]
    channel = kind(options, surroundings)       # opens nothing yet
    delivered = await channel.send(notice)      # raises SendFailed

A channel knows nothing of its siblings and nothing of routes, groups or silences.
"""

import functools
import importlib
import pkgutil
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Final, Literal

from watchbill.clock import Clock, SystemClock
from watchbill.config import Duration, option
from watchbill.errors import Unreadable
from watchbill.files import UnreadableFile
from watchbill_collector.notifiers.filling import template_fault
from watchbill_collector.notifiers.notice import Delivered, Notice, SendFailed
from watchbill_collector.notifiers.secret import Secret, SecretFile

TIMEOUT_S: Final = 15
TIMEOUT_S_MAX: Final = 120
NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)


def _name(value: str) -> str | None:
    if NAME_PATTERN.fullmatch(value):
        return None
    return "1 to 63 letters, digits, dots, underscores and hyphens: routes and `notify test` name it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What every channel may say."""

    name: str = option(check=_name, help="What routes and `watchbill notify test` call it.", example='"ops"')
    kind: str = option(help="Which kind of channel.", example='"email"')
    timeout: Duration = option(
        Duration(TIMEOUT_S), at_least=1, at_most=TIMEOUT_S_MAX, help="How long one attempt may take, in all."
    )


TITLE_HELP: Final = "Template for the title; Watchbill's own words without it."
TEXT_HELP: Final = "Template for the text; `$text` in it is what Watchbill would have said."


def template_wanted(value: str) -> str | None:
    """For the `check` of a template: what is wanted instead, None when it can be filled in."""
    fault = template_fault(value) if value else ""
    return f"a template that can be filled in: {fault}" if fault else None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What channels may know of the house."""

    version: str
    clock: Clock = field(default_factory=SystemClock)


class Channel(ABC):
    """One configured channel."""

    kind: ClassVar[str]
    options_type: ClassVar[type[Any]]
    instead_of_digest: ClassVar[Literal["page", "none"] | None] = None
    """For a kind that takes no digest: whether what would be one is sent at once, or not at all."""
    alerts_wanted: int = 0
    """Alerts that a notice has to list for this kind, should its route list fewer: for peers that want each of them."""
    refresh_s: float | None = None
    """Seconds within which a notice that still fires has to be sent again, where the peer forgets; else None."""

    @abstractmethod
    def __init__(self, options: Any, surroundings: Surroundings) -> None: ...

    @abstractmethod
    async def send(self, notice: Notice) -> Delivered:
        """Send it now, within the channel's timeout. Raises SendFailed, and nothing else."""

    async def close(self) -> None:  # noqa: B027 - most channels hold nothing open.
        """Let go of what is held open."""

    def secrets_stamp(self) -> tuple[object, ...]:
        """Another value when one of its secret files has changed. Blocks for a look at them."""
        options: Any = getattr(self, "_options", None)
        if not is_dataclass(options):
            return ()
        said = [getattr(options, each.name) for each in fields(options)]
        return tuple(one.stamp() for one in said if isinstance(one, SecretFile))

    def ready(self) -> None:  # noqa: B027 - some channels need nothing.
        """Look whether what the channel needs is there, without sending. Raises SendFailed."""

    @classmethod
    def help(cls) -> str:
        """The first paragraph of its file's docstring."""
        return " ".join((sys.modules[cls.__module__].__doc__ or "").partition("\n\n")[0].split())


@functools.cache
def discover() -> Mapping[str, type[Channel]]:
    """Every kind of channel by its name, sorted."""
    from watchbill_collector.notifiers import channels

    found: dict[str, type[Channel]] = {}
    for module_info in pkgutil.iter_modules(channels.__path__):
        module = importlib.import_module(f"{channels.__name__}.{module_info.name}")
        for thing in vars(module).values():
            if isinstance(thing, type) and issubclass(thing, Channel) and thing.__module__ == module.__name__:
                found[thing.kind] = thing
    return dict(sorted(found.items()))


def read_secret(file: SecretFile) -> Secret:
    """The secret now. Raises SendFailed: transient, for somebody will put the file right."""
    try:
        return file.read()
    except UnreadableFile as exc:
        raise SendFailed(f"the secret {file.place} cannot be read: {exc.got}", transient=True) from exc
    except Unreadable as exc:
        raise SendFailed(f"the secret cannot be read: {exc}", transient=True) from exc
    except OSError as exc:
        why = (exc.strerror or str(exc)).lower()
        raise SendFailed(f"the secret {file.place} cannot be read: {why}", transient=True) from exc
