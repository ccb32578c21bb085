"""The page's files, read once into memory: a name either is one of them or does not exist, so there is no
path to escape from.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from starlette.datastructures import Headers
from starlette.responses import Response

from watchbill_collector.api.answers import COMPRESS_BYTES_MIN, gzip_bytes, wants_gzip

FILES_MAX = 64
FILE_BYTES_MAX = 4 << 20

ADDRESSES = ("/", "/graph", "/query", "/alerts", "/rules")
"""Where the page is found. Those of Prometheus' own page are among them, because notices and dashboards link to them;
the page turns them into its own.
"""

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
"""Scripts and styles from our own files alone: whatever a hostile agent puts into a label, it never runs."""

MEDIA = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file: its bytes, its gzip (empty where that saves nothing), its media type and its tag."""

    content: bytes
    packed: bytes
    media: str
    tag: str


def load_page() -> Mapping[str, PageFile]:
    """The files of the bundle in the package by URL path; empty when the page has not been built."""
    dist = resources.files("watchbill_collector").joinpath("web", "dist")
    found: dict[str, PageFile] = {}
    if dist.is_dir():
        _collect(dist, "", found)
    if "/index.html" in found:
        for address in ADDRESSES:
            found[address] = found["/index.html"]
    return found


def _collect(directory: Traversable, prefix: str, found: dict[str, PageFile]) -> None:
    for entry in sorted(directory.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            _collect(entry, f"{prefix}/{entry.name}", found)
            continue
        media = MEDIA.get("." + entry.name.rpartition(".")[2])
        if media is None or len(found) >= FILES_MAX:
            continue
        content = entry.read_bytes()
        if len(content) <= FILE_BYTES_MAX:
            found[f"{prefix}/{entry.name}"] = page_file(content, media)


def page_file(content: bytes, media: str) -> PageFile:
    """A file, packed and tagged."""
    packed = gzip_bytes(content) if len(content) >= COMPRESS_BYTES_MIN else b""
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    return PageFile(content, packed if len(packed) < len(content) else b"", media, tag)


def page_answer(file: PageFile, headers: Headers) -> Response:
    """The file, or that it has not changed."""
    # no-cache: kept by the browser, asked about every time, so that an upgrade is seen at the next reload.
    common = {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": PAGE_POLICY,  # Of a 304, too: a browser takes its headers over.
        "ETag": file.tag,
        "Vary": "Accept-Encoding",
    }
    if file.tag in headers.get("if-none-match", ""):
        return Response(status_code=304, headers=common)
    if file.packed and wants_gzip(headers):
        return Response(file.packed, headers=common | {"Content-Encoding": "gzip"}, media_type=file.media)
    return Response(file.content, headers=common, media_type=file.media)
