"""Which devices, mounts and fields a sampler reports, by regular expressions as node_exporter has them."""

import re

from watchbill.errors import UsageError


class WrongOption(UsageError):
    """An option of a sampler that cannot be used: which field, what is there, and what is wanted."""

    def __init__(self, sampler: str, field: str, got: str, wanted: str) -> None:
        super().__init__(f"sampler {sampler}: {field}: got {got}, wanted {wanted}")
        self.field = field
        self.got = got
        self.wanted = wanted


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

        Raises WrongOption when one is no regular expression.
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
        from watchbill.config.convert import show_value

        got = f"{show_value(pattern)}, which is no regular expression ({exc})"
        raise WrongOption(sampler, field, got, "a regular expression") from exc
