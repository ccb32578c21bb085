"""Talks to a collector over HTTP: standard library alone, because importing a client library takes longer
than most commands.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from watchbill_collector.cli.collectors import Collector
from watchbill_collector.cli.errors import CommandFailed, Misused, Refused, Unreachable
from watchbill_collector.cli.screen import clean

BASE = "/api/watchbill/v1"
TIMEOUT_S = 90.0
CONNECT_HINT = "watchbill demo starts one here; --url or WATCHBILL_URL names another"
ANSWER_BYTES_MAX = 128 << 20

Fields = Mapping[str, str | Sequence[str]]


class Client:
    """One collector. Every method raises CommandFailed, with the exit code that fits."""

    def __init__(self, collector: Collector, timeout_s: float = TIMEOUT_S) -> None:
        self.collector = collector
        self._timeout_s = timeout_s

    def get(self, path: str, fields: Fields | None = None) -> Any:
        """The document at a path of ours."""
        query = f"?{urlencode(fields, doseq=True)}" if fields else ""
        return self._json("GET", f"{BASE}{path}{query}")

    def download(self, path: str, fields: Fields | None = None) -> bytes:
        """What a path of ours answers, when it is no document."""
        query = f"?{urlencode(fields, doseq=True)}" if fields else ""
        status, content = self._ask("GET", f"{BASE}{path}{query}", None, "")
        if status < 400:
            return content
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            document = {}
        raise _failure(status, document, self.collector)

    def post(self, path: str, document: Mapping[str, Any] | None = None) -> Any:
        """Change something."""
        body = json.dumps(document or {}).encode()
        return self._json("POST", f"{BASE}{path}", body, "application/json")

    def delete(self, path: str) -> Any:
        """Remove something."""
        return self._json("DELETE", f"{BASE}{path}")

    def prometheus(self, path: str, fields: Fields) -> Any:
        """Prometheus' envelope; parameters go as a form, which has no length to mind."""
        body = urlencode(fields, doseq=True).encode()
        return self._json("POST", f"/api/v1{path}", body, "application/x-www-form-urlencoded")

    def prometheus_get(self, path: str) -> Any:
        """The same, of a path that takes no form."""
        return self._json("GET", f"/api/v1{path}")

    def _json(self, method: str, target: str, body: bytes | None = None, media: str = "") -> Any:
        status, content = self._ask(method, target, body, media)
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as exc:
            raise CommandFailed(
                f"{self.collector.url} answered {status} with something that is not JSON: is it a collector?",
                "watchbill doctor --url URL",
            ) from exc
        if status >= 400:
            raise _failure(status, document, self.collector)
        return document

    def _ask(self, method: str, target: str, body: bytes | None, media: str) -> tuple[int, bytes]:
        import http.client

        headers = {"Accept": "application/json"}
        if media:
            headers["Content-Type"] = media
        if self.collector.token:
            headers["Authorization"] = f"Bearer {self.collector.token}"
        connection = self._connection()
        try:
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            content = answer.read(ANSWER_BYTES_MAX + 1)
        except TimeoutError as exc:
            raise Unreachable(
                f"{self.collector.url} did not answer within {self._timeout_s:.0f} s", "watchbill doctor"
            ) from exc
        except (
            OSError,
            http.client.HTTPException,
            UnicodeError,
        ) as exc:  # Such as a name that is too long for DNS.
            raise Unreachable(
                f"{self.collector.url} cannot be reached: {_reason(exc)}", CONNECT_HINT
            ) from exc
        finally:
            connection.close()
        if len(content) > ANSWER_BYTES_MAX:
            raise CommandFailed(f"the answer has more than {ANSWER_BYTES_MAX} bytes", "ask for fewer series")
        return answer.status, content

    def _tls_context(self) -> Any:
        """Who may vouch for the collector: the authority that `login` was given, or those of this machine."""
        import ssl

        if not self.collector.authority:
            return ssl.create_default_context()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.collector.authority)
        return context

    def _connection(self) -> Any:
        import http.client

        parts = urlsplit(self.collector.url)
        host = parts.hostname or ""
        if parts.scheme == "https":
            return http.client.HTTPSConnection(
                host, parts.port, timeout=self._timeout_s, context=self._tls_context()
            )
        return http.client.HTTPConnection(host, parts.port, timeout=self._timeout_s)


def segment(name: str) -> str:
    """A name as one piece of a path."""
    if not name:
        raise Misused("the name is empty")
    return quote(name, safe="")


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return clean(str(text).lower())


def _failure(status: int, document: Any, collector: Collector) -> CommandFailed:
    fields = document if isinstance(document, dict) else {}
    message = clean(str(fields.get("error") or f"the collector answered {status}"), 2_000)
    hint = clean(str(fields.get("hint") or ""), 500)
    if status == 401:
        return Refused(message, hint or f"watchbill login {collector.url}")
    if status in (403, 409, 421, 429):
        return Refused(message, hint)
    if status == 400:
        return Misused(message, hint)
    if status == 404:
        return CommandFailed(message, hint or ("" if "watchbill " in message else "watchbill --help"))
    if status == 503 and fields.get("errorType") == "unavailable":
        return Unreachable(message, hint or ("" if "watchbill " in message else "try again in a moment"))
    return CommandFailed(message, hint)
