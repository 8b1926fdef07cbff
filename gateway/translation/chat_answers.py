"""What a provider of the Messages API answers, told to chat clients.

Thoughts become `reasoning_content`; redacted ones, hosted tools and citations have no place in a chat
answer, and no translated request asks for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.domain import Json, Surface
from gateway.metering.usage import UsageFold, read_messages_usage
from gateway.translation.calls import arguments_of, made_answer_id
from gateway.translation.counts import chat_tier, chat_usage, finish_reason
from gateway.translation.faults import Fault, chat_error, read_fault
from gateway.translation.pipe import Stage


def chat_answer(reply: Json, request: Json, *, created: int) -> Json:
    """A message as a chat completion; arguments as for `Translation.answer`."""
    if reply.get("error"):
        return chat_error(read_fault(reply))
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    content = reply.get("content")
    for block in content if type(content) is list else ():
        if type(block) is not dict:
            continue
        kind = block.get("type")
        if kind == "text":
            texts.append(_string(block.get("text")))
        elif kind == "thinking":
            thoughts.append(_string(block.get("thinking")))
        elif kind == "tool_use":
            calls.append(_call(block, arguments_of(block.get("input"))))
    text = "".join(texts)
    message: Json = {
        "role": "assistant",
        "content": text if text or not calls else None,
        "refusal": _explanation(reply),
    }
    if reasoning := "".join(thoughts):
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    out: Json = {
        "id": _string(reply.get("id")) or made_answer_id("chatcmpl-", request, created),
        "object": "chat.completion",
        "created": created,
        "model": _string(reply.get("model")) or request.get("model"),
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": finish_reason(reply.get("stop_reason"), calls=bool(calls)),
            }
        ],
    }
    if (read := read_messages_usage(reply)) is not None:
        out["usage"] = chat_usage(read.usage)
    if tier := _tier(reply):
        out["service_tier"] = tier
    return out


def _string(value: object) -> str:
    return value if type(value) is str else ""


def _explanation(source: Json) -> str | None:
    details = source.get("stop_details")
    if type(details) is not dict or source.get("stop_reason") != "refusal":
        return None
    return _string(details.get("explanation")) or None


def _tier(message: Json) -> str | None:
    usage = message.get("usage")
    return chat_tier(usage.get("service_tier")) if type(usage) is dict else None


def _index(event: Json) -> int:
    index = event.get("index")
    return index if type(index) is int else 0


def _call(block: Json, arguments: str) -> Json:
    return {
        "id": _string(block.get("id")),
        "type": "function",
        "function": {"name": _string(block.get("name")), "arguments": arguments},
    }


class _Use:
    """A `tool_use` block while it streams."""

    __slots__ = ("given", "id", "position", "streamed")

    def __init__(self, position: int, use_id: object, given: object) -> None:
        self.position = position
        self.id = use_id
        self.given = given
        """Its input as the block's start had it: the whole, from servers that do not stream it."""
        self.streamed = False


class MessagesToChat:
    """The Messages API's stream events as chat chunks; see `Stage`."""

    def __init__(self, request: Json, *, created: int, include_usage: bool) -> None:
        self._chunk: Json = {
            "id": "",
            "object": "chat.completion.chunk",
            "created": created,
            "model": request.get("model"),
        }
        self._request = request
        self._include_usage = include_usage
        self._usage = UsageFold(Surface.MESSAGES)
        self._uses: dict[int, _Use] = {}
        self._calls = 0
        self._started = False
        self._finished = False
        self._over = False

    def take(self, event: Json) -> list[Json]:
        kind = event.get("type")
        if self._over:
            return []
        if kind == "error" or (kind is None and event.get("error")):
            self._over = True
            return [chat_error(read_fault(event))]
        if self._finished:
            self._usage.feed(event)
            return []
        if kind == "content_block_delta":
            return self._delta(event)
        if kind == "content_block_start":
            return self._opening(event)
        if kind == "content_block_stop":
            return self._closing(event)
        if kind == "message_start":
            return self._start(event.get("message"))
        if kind == "message_delta":
            return self._finish(event)
        return []

    def end(self) -> list[Json]:
        if self._over:
            return []
        self._over = True
        if not self._finished:
            return [chat_error(Fault("The provider ended its stream before the answer.", "api_error"))]
        if not self._include_usage:
            return []
        read = self._usage.result()
        return [{**self._chunk, "choices": [], "usage": chat_usage(read.usage) if read else None}]

    def _told(self, delta: Json, finish: str | None = None) -> Json:
        chunk = {
            **self._chunk,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        }
        if self._include_usage:
            chunk["usage"] = None
        return chunk

    def _start(self, message: object = None) -> list[Json]:
        if self._started:
            return []
        self._started = True
        if type(message) is dict:
            self._usage.feed({"type": "message_start", "message": message})
            for name in ("id", "model"):
                if type(value := message.get(name)) is str and value:
                    self._chunk[name] = value
            if tier := _tier(message):
                self._chunk["service_tier"] = tier
        if not self._chunk["id"]:
            self._chunk["id"] = made_answer_id("chatcmpl-", self._request, self._chunk["created"])
        return [self._told({"role": "assistant", "content": "", "refusal": None})]

    def _opening(self, event: Json) -> list[Json]:
        out = self._start()
        block = event.get("content_block")
        if type(block) is not dict:
            return out
        if block.get("type") == "tool_use":
            known = self._uses.get(_index(event))
            if known is not None and known.id and known.id == block.get("id"):
                # Its start has come twice.
                return out
            use = self._uses[_index(event)] = _Use(self._calls, block.get("id"), block.get("input"))
            self._calls += 1
            out.append(self._told({"tool_calls": [{"index": use.position, **_call(block, "")}]}))
        elif block.get("type") == "text" and (text := _string(block.get("text"))):
            out.append(self._told({"content": text}))
        elif block.get("type") == "thinking" and (thought := _string(block.get("thinking"))):
            out.append(self._told({"reasoning_content": thought}))
        return out

    def _delta(self, event: Json) -> list[Json]:
        delta = event.get("delta")
        if type(delta) is not dict:
            return []
        kind = delta.get("type")
        if kind == "text_delta":
            text = _string(delta.get("text"))
            return [*self._start(), self._told({"content": text})] if text else []
        if kind == "thinking_delta":
            thought = _string(delta.get("thinking"))
            return [*self._start(), self._told({"reasoning_content": thought})] if thought else []
        if kind == "input_json_delta":
            use = self._uses.get(_index(event))
            arguments = _string(delta.get("partial_json"))
            if use is not None and arguments:
                use.streamed = True
                return [self._arguments(use, arguments)]
        return []

    def _closing(self, event: Json) -> list[Json]:
        use = self._uses.get(_index(event))
        if use is None or use.streamed:
            return []
        use.streamed = True
        return [self._arguments(use, arguments_of(use.given))]

    def _arguments(self, use: _Use, text: str) -> Json:
        return self._told({"tool_calls": [{"index": use.position, "function": {"arguments": text}}]})

    def _finish(self, event: Json) -> list[Json]:
        self._usage.feed(event)
        delta = event.get("delta")
        if type(delta) is not dict or delta.get("stop_reason") is None:
            return []
        out = self._start()
        if explanation := _explanation(delta):
            out.append(self._told({"refusal": explanation}))
        self._finished = True
        out.append(self._told({}, finish_reason(delta.get("stop_reason"), calls=bool(self._calls))))
        return out


if TYPE_CHECKING:
    _stage: Stage = MessagesToChat({}, created=0, include_usage=False)
