"""Bodies that a server sent compressed, as they were before: never more than somebody allows."""

import zlib

from watchbill_agent.checks.check import Failed


def decompressed(body: bytes, bytes_max: int, *, gzip: bool) -> bytes:
    """What it was before. Raises Failed for more than `bytes_max`, and for what was never compressed."""
    if not gzip and body[:1] and (body[0] & 0x0F != 8 or int.from_bytes(body[:2], "big") % 31):
        bits = -zlib.MAX_WBITS  # Some servers send deflate without zlib's head.
    else:
        bits = zlib.MAX_WBITS | 32
    machine = zlib.decompressobj(bits)
    try:
        whole = machine.decompress(body, bytes_max + 1)
    except zlib.error as exc:
        raise Failed("body-encoding", f"what it sends is not what it says: {exc}") from exc
    if len(whole) > bytes_max:
        raise Failed("body-too-long", f"more than {bytes_max} bytes when decompressed")
    if not machine.eof:
        raise Failed("body-incomplete", "the compressed body has no end")
    return whole
