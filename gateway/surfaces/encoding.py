"""Compressed bodies, decoded under a cap that holds while decoding: a small bomb never becomes large."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import brotli
import zstandard

from gateway.errors import CallerError

MAX_LAYERS = 2
_PIECE = 256 * 1024


def decode(body: bytes, encodings: Sequence[bytes], limit: int) -> bytes:
    """The body with its `Content-Encoding` layers undone, at most `limit` bytes.

    Raises `CallerError`: `unsupported_encoding` for unknown or too many layers, `request_too_large` when
    more than `limit` bytes come out, `invalid_json` when the data is broken or cut short.
    """
    layers = [name.strip().lower() for value in encodings for name in value.split(b",") if name.strip()]
    layers = [name for name in layers if name != b"identity"]
    if len(layers) > MAX_LAYERS:
        raise CallerError("unsupported_encoding", f"More than {MAX_LAYERS} content encodings.")
    for name in reversed(layers):
        decoder = _DECODERS.get(name)
        if decoder is None:
            raise CallerError(
                "unsupported_encoding",
                "Content-Encoding has to be one of gzip, deflate, br, zstd or identity.",
            )
        body = decoder(body, limit)
    return body


def _too_large(limit: int) -> CallerError:
    return CallerError("request_too_large", f"The body decompresses to more than {limit} bytes.")


def _broken(name: str) -> CallerError:
    return CallerError("invalid_json", f"The body is no valid {name} data.")


def _inflate(body: bytes, limit: int, wbits: int, name: str) -> bytes:
    out = bytearray()
    while body:
        # gzip data may consist of several members, one after another.
        decoder = zlib.decompressobj(wbits)
        try:
            while body and not decoder.eof:
                out += decoder.decompress(body, min(_PIECE, limit + 1 - len(out)))
                body = decoder.unconsumed_tail if not decoder.eof else decoder.unused_data
                if len(out) > limit:
                    raise _too_large(limit)
        except zlib.error:
            raise _broken(name) from None
        if not decoder.eof:
            raise _broken(name)
    return bytes(out)


def _gzip(body: bytes, limit: int) -> bytes:
    return _inflate(body, limit, 16 + zlib.MAX_WBITS, "gzip")


def _deflate(body: bytes, limit: int) -> bytes:
    # Half of the world sends raw deflate under this name; the zlib header tells which.
    raw = len(body) < 2 or body[0] & 0x0F != 8 or int.from_bytes(body[:2], "big") % 31 != 0
    return _inflate(body, limit, -zlib.MAX_WBITS if raw else zlib.MAX_WBITS, "deflate")


def _zstd(body: bytes, limit: int) -> bytes:
    out = bytearray()
    # The window is what a hostile frame can make the decoder allocate before the first byte comes out.
    decoder = zstandard.ZstdDecompressor(max_window_size=8 * 1024 * 1024)
    try:
        with decoder.stream_reader(body, read_across_frames=True) as reader:
            while piece := reader.read(min(_PIECE, limit + 1 - len(out))):
                out += piece
                if len(out) > limit:
                    raise _too_large(limit)
    except zstandard.ZstdError:
        raise _broken("zstd") from None
    return bytes(out)


def _brotli(body: bytes, limit: int) -> bytes:
    out = bytearray()
    decoder = brotli.Decompressor()
    try:
        for start in range(0, len(body), 1024):
            out += decoder.process(body[start : start + 1024], output_buffer_limit=limit + 1 - len(out))
            while not decoder.can_accept_more_data() and len(out) <= limit:
                out += decoder.process(b"", output_buffer_limit=limit + 1 - len(out))
            if len(out) > limit:
                raise _too_large(limit)
    except brotli.error:
        raise _broken("br") from None
    if not decoder.is_finished():
        raise _broken("br")
    return bytes(out)


_DECODERS: dict[bytes, Callable[[bytes, int], bytes]] = {
    b"gzip": _gzip,
    b"x-gzip": _gzip,
    b"deflate": _deflate,
    b"zstd": _zstd,
    b"br": _brotli,
}
