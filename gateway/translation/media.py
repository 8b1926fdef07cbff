"""Pictures and documents: chat's data URLs and the Messages API's sources."""

from __future__ import annotations

import base64
import binascii

from gateway.domain import Json, Surface
from gateway.translation.fields import Pointer, a_string, an_object, cannot, ensure_carried, one_of, wrong

_CACHE_HINTS = ("type", "cache_control", "prompt_cache_breakpoint")
_WEB = ("http://", "https://")
_PDF = "application/pdf"
_PLAIN = "text/plain"


def image_block(part: Json, at: Pointer) -> Json:
    """An `image_url` part as an `image` block. How closely to look (`detail`) is left to the model."""
    ensure_carried(part, ("image_url", *_CACHE_HINTS), at, Surface.MESSAGES)
    image = an_object(part.get("image_url"), (*at, "image_url"))
    at = (*at, "image_url")
    ensure_carried(image, ("url",), at, Surface.MESSAGES, {"detail": ("auto",)})
    url = a_string(image.get("url"), (*at, "url"))
    if url.startswith(_WEB):
        return {"type": "image", "source": {"type": "url", "url": url}}
    media_type, data = _data_url(url, (*at, "url"))
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def document_block(part: Json, at: Pointer) -> Json:
    """A `file` part with its data as a `document` block: PDF or plain text."""
    ensure_carried(part, ("file", *_CACHE_HINTS), at, Surface.MESSAGES)
    at = (*at, "file")
    file = an_object(part.get("file"), at)
    ensure_carried(file, ("file_data", "filename"), at, Surface.MESSAGES)
    url = a_string(file.get("file_data"), (*at, "file_data"))
    if url.startswith(_WEB):
        source: Json = {"type": "url", "url": url}
    else:
        media_type, data = _data_url(url, (*at, "file_data"))
        if media_type == _PDF:
            source = {"type": "base64", "media_type": _PDF, "data": data}
        elif media_type == _PLAIN:
            source = {"type": "text", "media_type": _PLAIN, "data": _plain(data, (*at, "file_data"))}
        else:
            raise cannot((*at, "file_data"), Surface.MESSAGES, f"a file of type {media_type[:64]}")
    block: Json = {"type": "document", "source": source}
    if file.get("filename") is not None:
        block["title"] = a_string(file["filename"], (*at, "filename"))
    return block


def image_part(block: Json, at: Pointer) -> Json:
    """An `image` block as an `image_url` part."""
    ensure_carried(block, ("source", *_CACHE_HINTS), at, Surface.CHAT, {"transformations": ({},)})
    at = (*at, "source")
    source = an_object(block.get("source"), at)
    kind = source.get("type")
    if kind == "url":
        ensure_carried(source, ("type", "url"), at, Surface.CHAT)
        url = a_string(source.get("url"), (*at, "url"))
    elif kind == "base64":
        url = _as_data_url(source, at)
    else:
        raise cannot((*at, "type"), Surface.CHAT, str(kind)[:64])
    return {"type": "image_url", "image_url": {"url": url}}


def document_part(block: Json, at: Pointer) -> Json:
    """A `document` block with its data as a `file` part."""
    ensure_carried(
        block,
        ("source", "title", *_CACHE_HINTS),
        at,
        Surface.CHAT,
        {"citations": ({"enabled": False}, {}), "context": ("",)},
    )
    source = an_object(block.get("source"), (*at, "source"))
    at_source = (*at, "source")
    if source.get("type") == "text":
        ensure_carried(source, ("type", "media_type", "data"), at_source, Surface.CHAT)
        one_of(source.get("media_type"), (_PLAIN,), (*at_source, "media_type"))
        text = a_string(source.get("data"), (*at_source, "data"))
        coded = base64.b64encode(text.encode("utf-8", "replace")).decode()
        url, name = f"data:{_PLAIN};base64,{coded}", "document.txt"
    elif source.get("type") == "base64":
        url, name = _as_data_url(source, at_source), "document.pdf"
    else:
        raise cannot((*at_source, "type"), Surface.CHAT, str(source.get("type"))[:64])
    if block.get("title") is not None:
        name = a_string(block["title"], (*at, "title"))
    return {"type": "file", "file": {"filename": name, "file_data": url}}


def _data_url(url: str, at: Pointer) -> tuple[str, str]:
    head, comma, _ = url[:256].partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise wrong(at, "an http(s) URL or a base64 data URL", url)
    return head[5:].partition(";")[0], url[len(head) + 1 :]


def _as_data_url(source: Json, at: Pointer) -> str:
    ensure_carried(source, ("type", "media_type", "data"), at, Surface.CHAT)
    media_type = a_string(source.get("media_type"), (*at, "media_type"))
    return f"data:{media_type};base64,{a_string(source.get('data'), (*at, 'data'))}"


def _plain(data: str, at: Pointer) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError):
        raise wrong(at, "base64 of UTF-8 text", data) from None
