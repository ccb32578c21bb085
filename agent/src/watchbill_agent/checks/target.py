"""Where a request over HTTP goes."""

import urllib.parse
from typing import Final, NamedTuple

_PORTS: Final = {"http": 80, "https": 443}


class Target(NamedTuple):
    """Where a request goes."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        """Who is told a secret."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """As the header Host has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """As a proxy wants it."""
        return f"{self.scheme}://{self.authority}{self.path}"


def read_url(url: str) -> Target | str:
    """Where it points; otherwise what is wanted instead."""
    wanted = "an address such as https://shop.example/health"
    if any(c <= " " or c == "\x7f" for c in url):
        return f"{wanted}, without spaces"
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
        if not host.isascii():
            host = host.encode("idna").decode("ascii")
    except (ValueError, UnicodeError):
        return wanted
    if parts.scheme not in _PORTS or not host:
        return wanted
    if parts.username is not None or parts.password is not None:
        return f"{wanted}, without a password: username and password_file"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    path = urllib.parse.quote(path, safe="/%:?#[]@!$&'()*+,;=-._~") if not path.isascii() else path
    return Target(parts.scheme, host, _PORTS[parts.scheme] if port is None else port, path)
