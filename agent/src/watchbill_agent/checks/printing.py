"""The sample of checks.d and its reference, printed from what reads it: the keys of every check, then of each kind."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from watchbill.config import Duration, option
from watchbill.config.printer import reference as printed_reference
from watchbill.config.printer import sample_file
from watchbill_agent.checks import kinds
from watchbill_agent.checks.config import CheckTable


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """Checks of this host: checks.d/*.toml. Beside the keys of every check stand those of its kind."""

    checks: list[CheckTable] = option([], name="check")


def sample() -> str:
    """A complete commented file."""
    return "\n".join([sample_file(_File), *_kinds(sample_file, '# ---- with kind = "{}":\n#\n# {}\n')])


def reference() -> str:
    """Markdown, one section a kind."""
    return "\n".join([printed_reference(_File), *_kinds(printed_reference, '## `kind = "{}"`\n\n{}\n')])


def _kinds(printed: Callable[[type], str], heading: str) -> Iterator[str]:
    for name, kind in kinds.discover().items():
        pace = f"Every {Duration(kind.interval_s)} unless said otherwise, for at most {Duration(kind.timeout_s)}."
        yield heading.format(name, f"{kind.help()} {pace}")
        yield printed(kind.options_type)
