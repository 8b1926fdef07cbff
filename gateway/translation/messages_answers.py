"""What a chat provider answers, told to clients of the Messages API.

Thoughts become `thinking` blocks for a client that asked to think, as the API itself has it. They carry no
signature, so only their reader is served: no provider takes them back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.domain import Json, Surface, Usage
from gateway.metering.usage import UsageFold, read_chat_usage
from gateway.surfaces.chat import reasoning_in, text_in
from gateway.translation.blocks import Block, BlockOrder, Told, first_choice
from gateway.translation.calls import input_of, is_object, made_answer_id, made_id, written
from gateway.translation.counts import messages_tier, messages_usage, stop_reason
from gateway.translation.faults import Fault, messages_error, read_fault
from gateway.translation.pipe import LAST, Stage


def messages_answer(reply: Json, request: Json, *, created: int) -> Json:
    """A chat completion as a message; arguments as for `Translation.answer`."""
    if reply.get("error") and not reply.get("choices"):
        return messages_error(read_fault(reply))
    choice = first_choice(reply) or {}
    message = choice.get("message")
    message = message if type(message) is dict else {}
    finish = choice.get("finish_reason")
    content: list[Json] = []
    reasoning = reasoning_in(message)
    if reasoning and _shows_thoughts(request):
        content.append(_thinking(reasoning))
    if text := text_in(message.get("content")):
        content.append({"type": "text", "text": text})
    refusal = message.get("refusal")
    if type(refusal) is str and refusal:
        content.append({"type": "text", "text": refusal})
    uses = _uses(message.get("tool_calls"), str(reply.get("id")), cut=finish == "length")
    content.extend(uses)
    read = read_chat_usage(reply)
    ending = _ending(finish, refusal, calls=bool(uses))
    usage = messages_usage(read.usage if read else Usage())
    if tier := messages_tier(reply.get("service_tier")):
        usage["service_tier"] = tier
    return {**_message(reply, request, created), "content": content, **ending, "usage": usage}


def _shows_thoughts(request: Json) -> bool:
    """Whether a messages client asked to see thinking."""
    thinking = request.get("thinking")
    return (
        type(thinking) is dict
        and thinking.get("type") in ("enabled", "adaptive")
        and thinking.get("display") != "omitted"
    )


def _message(reply: Json, request: Json, created: int) -> Json:
    message_id, model = reply.get("id"), reply.get("model")
    return {
        "id": message_id
        if type(message_id) is str and message_id
        else made_answer_id("msg_", request, created),
        "type": "message",
        "role": "assistant",
        "model": model if type(model) is str and model else request.get("model"),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
    }


def _ending(finish: object, refusal: object, *, calls: bool) -> Json:
    told = refusal if type(refusal) is str and refusal else None
    reason = "refusal" if told else stop_reason(finish, calls=calls)
    details = {"type": "refusal", "category": None, "explanation": told} if reason == "refusal" else None
    return {"stop_reason": reason, "stop_details": details}


def _thinking(text: str) -> Json:
    """A thinking block of a model that signs nothing. It is for reading; no provider takes it back."""
    return {"type": "thinking", "thinking": text, "signature": ""}


def _uses(calls: object, seed: str, *, cut: bool) -> list[Json]:
    """The `tool_use` blocks of a plain answer. A call that the output limit cut short is no call."""
    uses: list[Json] = []
    for i, call in enumerate(calls if type(calls) is list else ()):
        function = call.get("function") if type(call) is dict else None
        if type(function) is not dict:
            continue
        arguments = function.get("arguments")
        if type(arguments) is not str:
            arguments = written(arguments) if arguments is not None else ""
        if cut and arguments and not is_object(arguments):
            continue
        call_id, name = call.get("id"), function.get("name")
        uses.append(
            {
                "type": "tool_use",
                "id": call_id if type(call_id) is str and call_id else made_id(seed, i),
                "name": name if type(name) is str else "",
                "input": input_of(arguments),
            }
        )
    return uses


class ChatToMessages:
    """Chat chunks as the Messages API's stream events; see `Stage`."""

    def __init__(self, request: Json, *, created: int) -> None:
        self._request = request
        self._created = created
        self._shows_thoughts = _shows_thoughts(request)
        self._order = BlockOrder()
        self._usage = UsageFold(Surface.CHAT)
        self._indexes: dict[Block, int] = {}
        self._id = ""
        self._refusal: list[str] = []
        self._calls = False
        self._started = False
        self._finish: str | None = None
        self._over = False

    def take(self, event: Json) -> list[Json]:
        if self._over:
            return []
        if event is LAST:
            return self._finished("stop") if self._started else []
        if event.get("error"):
            self._over = True
            return [messages_error(read_fault(event))]
        if event.get("usage") is not None or event.get("x_groq") is not None:
            self._usage.feed(event)
        if (choice := first_choice(event)) is None:
            return []
        out = self._start(event)
        if self._finish is not None:
            return out
        delta = choice.get("delta")
        if type(delta) is dict:
            out += self._written(self._order.take(delta))
        if (finish := choice.get("finish_reason")) is not None:
            out += self._finished(finish)
        return out

    def end(self) -> list[Json]:
        if self._over:
            return []
        self._over = True
        if self._finish is None:
            return [messages_error(Fault("The provider ended its stream before the answer."))]
        read = self._usage.result()
        usage = messages_usage(read.usage if read else Usage())
        # A part of `message_start` alone.
        del usage["cache_creation"]
        ending = _ending(self._finish, "".join(self._refusal), calls=self._calls)
        return [
            {"type": "message_delta", "delta": {**ending, "stop_sequence": None}, "usage": usage},
            {"type": "message_stop"},
        ]

    def _finished(self, finish: object) -> list[Json]:
        """The answer is complete; some servers say so by their `[DONE]` alone."""
        if self._finish is not None:
            return []
        self._finish = finish if type(finish) is str else "stop"
        return self._written(self._order.finish())

    def _start(self, chunk: Json) -> list[Json]:
        if self._started:
            return []
        self._started = True
        message = _message(chunk, self._request, self._created)
        self._id = message["id"]
        # Chat providers count at the end: the real figures come with `message_delta`.
        return [{"type": "message_start", "message": {**message, "usage": messages_usage(Usage())}}]

    def _written(self, happenings: list[Told]) -> list[Json]:
        out: list[Json] = []
        for happening, block, text in happenings:
            if block.kind == "thinking" and not self._shows_thoughts:
                continue
            if happening == "opened":
                self._indexes[block] = len(self._indexes)
                out.append(self._event("start", block, content_block=self._opened(block)))
            elif happening == "added":
                if block.kind == "refusal":
                    self._refusal.append(text)
                out.append(self._event("delta", block, delta=_delta(block, text)))
            else:
                out.append(self._event("stop", block))
        return out

    def _event(self, name: str, block: Block, **facts: Json) -> Json:
        return {"type": f"content_block_{name}", "index": self._indexes[block], **facts}

    def _opened(self, block: Block) -> Json:
        if block.kind == "call":
            self._calls = True
            call_id = block.id or made_id(self._id, block.index)
            return {"type": "tool_use", "id": call_id, "name": block.name, "input": {}}
        return _thinking("") if block.kind == "thinking" else {"type": "text", "text": ""}


def _delta(block: Block, text: str) -> Json:
    if block.kind == "call":
        return {"type": "input_json_delta", "partial_json": text}
    if block.kind == "thinking":
        return {"type": "thinking_delta", "thinking": text}
    return {"type": "text_delta", "text": text}


if TYPE_CHECKING:
    _stage: Stage = ChatToMessages({}, created=0)
