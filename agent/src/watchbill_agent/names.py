"""Which devices, mounts and fields a sampler reports, by regular expressions as node_exporter has them."""

import re

from watchbill.errors import UsageError


class NameFilter:
    """Keeps what `include` finds; without an `include`, what `exclude` does not find. Neither is anchored."""

    def __init__(
        self, include: re.Pattern[str] | None = None, exclude: re.Pattern[str] | None = None
    ) -> None:
        self._include = include
        self._exclude = exclude

    @classmethod
    def of(cls, sampler: str, options: object, *, include: str, exclude: str = "") -> "NameFilter":
        """The filter of two fields of a sampler's options; an empty field is none.

        Raises UsageError, naming sampler and field, when one is no regular expression.
        """
        return cls(_compiled(sampler, options, include), _compiled(sampler, options, exclude))

    def keeps(self, name: str) -> bool:
        """Whether this one is reported."""
        if self._include is not None:
            return self._include.search(name) is not None
        return self._exclude is None or self._exclude.search(name) is None


def _compiled(sampler: str, options: object, field: str) -> re.Pattern[str] | None:
    pattern = getattr(options, field) if field else ""
    if not pattern:
        return None
    try:
        return re.compile(pattern)
    except re.error as exc:
        raise UsageError(f"sampler {sampler}: {field} = {pattern!r} is no regular expression: {exc}") from exc
