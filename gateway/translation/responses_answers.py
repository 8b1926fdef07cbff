"""What a chat provider answers, told to Responses clients.

The answer is a whole response object: what the API echoes of a request is echoed, and its items get ids of
their own. The model's thoughts are told, as a summary, to a client that asked for one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from gateway.domain import Json, Surface
from gateway.metering.usage import UsageFold
from gateway.translation.blocks import Block, BlockOrder, Told, first_choice
from gateway.translation.calls import is_object, made_answer_id, made_id
from gateway.translation.counts import responses_usage
from gateway.translation.faults import Fault, chat_error, read_fault
from gateway.translation.pipe import LAST, Stage

_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "auto",
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
"""What a response repeats of its request, with what it says when the request does not."""
_TIERS = ("default", "flex", "scale", "priority", "fast")
"""Those that clients know; other servers have names of their own."""
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_PREFIXES = {"text": "msg", "refusal": "msg", "thinking": "rs", "call": "fc"}
_SPEECH = {
    "text": "output_text",
    "refusal": "refusal",
    "thinking": "reasoning_summary_text",
    "call": "function_call_arguments",
}


def responses_answer(reply: Json, request: Json, *, created: int) -> Json:
    """A chat completion as a response; arguments as for `Translation.answer`."""
    if reply.get("error") and not reply.get("choices"):
        return chat_error(read_fault(reply))
    stage = ChatToResponses(request, created=created)
    # A plain reply is a stream of one chunk.
    choice = first_choice(reply) or {}
    finish = choice.get("finish_reason") or "stop"
    whole = {"index": 0, "delta": choice.get("message"), "finish_reason": finish}
    stage.take({**reply, "choices": [whole]})
    stage.end()
    return stage.response


class ChatToResponses:
    """Chat chunks as Responses stream events; see `Stage`. `response` is the response so far."""

    def __init__(self, request: Json, *, created: int) -> None:
        self._request = request
        self._created = created
        self._order = BlockOrder()
        self._usage = UsageFold(Surface.CHAT)
        self._places: dict[Block, int] = {}
        """Of each block that is told: its place in the output."""
        self._sequence = 0
        self._seed = ""
        self._shows_thoughts = _wants_summary(request)
        self._finish: str | None = None
        self._over = False
        self.response: Json = {}

    def take(self, event: Json) -> list[Json]:
        if self._over:
            return []
        if event is LAST:
            return self._finished("stop") if self.response else []
        if event.get("error"):
            fault = read_fault(event)
            return self._failed(_error_code(fault), fault.message)
        if event.get("usage") is not None or event.get("x_groq") is not None:
            self._usage.feed(event)
        if (choice := first_choice(event)) is None:
            return []
        out = self._start(event)
        if (tier := event.get("service_tier")) in _TIERS:
            self.response["service_tier"] = tier
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
        if self._finish is None:
            return self._failed("server_error", "The provider ended its stream before the answer.")
        self._over = True
        reason = _INCOMPLETE.get(self._finish)
        self.response["status"] = "incomplete" if reason else "completed"
        if reason:
            self.response["incomplete_details"] = {"reason": reason}
        else:
            self.response["completed_at"] = self._created
        if (read := self._usage.result()) is not None:
            self.response["usage"] = responses_usage(read.usage)
        return [self._event(f"response.{self.response['status']}", response=self.response)]

    def _failed(self, code: str, message: str) -> list[Json]:
        out = self._start({})
        self._over = True
        self.response["status"] = "failed"
        self.response["error"] = {"code": code, "message": message}
        out.append(self._event("response.failed", response=self.response))
        return out

    def _finished(self, finish: object) -> list[Json]:
        """The answer is complete; some servers say so by their `[DONE]` alone."""
        if self._finish is not None:
            return []
        self._finish = finish if type(finish) is str else "stop"
        return self._written(self._order.finish())

    def _start(self, chunk: Json) -> list[Json]:
        if self.response:
            return []
        response_id, model = chunk.get("id"), chunk.get("model")
        request = self._request
        self.response = {
            "id": response_id
            if type(response_id) is str and response_id
            else made_answer_id("resp_", request, self._created),
            "object": "response",
            "created_at": self._created,
            "status": "in_progress",
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "model": model if type(model) is str and model else request.get("model"),
            "output": [],
            "previous_response_id": None,
            "store": False,
            "usage": None,
            "tools": [_offered(tool) for tool in request.get("tools") or ()],
            **{
                name: value if (value := request.get(name)) is not None else otherwise
                for name, otherwise in _ECHOED.items()
            },
        }
        self._seed = hashlib.sha256(self.response["id"].encode("utf-8", "replace")).hexdigest()[:32]
        # Written later than the answer may grow.
        begun = {**self.response, "output": []}
        return [
            self._event("response.created", response=begun),
            self._event("response.in_progress", response=begun),
        ]

    def _event(self, kind: str, **facts: Any) -> Json:
        event = {"type": kind, **facts, "sequence_number": self._sequence}
        self._sequence += 1
        return event

    def _written(self, happenings: list[Told]) -> list[Json]:
        out: list[Json] = []
        for happening, block, text in happenings:
            if block.kind == "thinking" and not self._shows_thoughts:
                continue
            if happening == "opened":
                self._places[block] = len(self._places)
                out += self._opened(block)
            elif happening == "added":
                out.append(self._added(block, text))
            else:
                out += self._closed(block)
        return out

    def _opened(self, block: Block) -> list[Json]:
        added = self._event(
            "response.output_item.added",
            output_index=self._places[block],
            item=self._item(block, "in_progress", ""),
        )
        if block.kind == "call":
            return [added]
        kind = "reasoning_summary_part" if block.kind == "thinking" else "content_part"
        return [added, self._at(f"response.{kind}.added", block, part=_part(block, ""))]

    def _added(self, block: Block, text: str) -> Json:
        more: Json = {"logprobs": []} if block.kind == "text" else {}
        return self._at(f"response.{_SPEECH[block.kind]}.delta", block, delta=text, **more)

    def _closed(self, block: Block) -> list[Json]:
        text = block.text
        out: list[Json] = []
        if block.kind == "call":
            if not text and self._finish != "length":
                text = "{}"
                out.append(self._added(block, text))
            out.append(self._at(f"response.{_SPEECH['call']}.done", block, arguments=text))
        else:
            name = "refusal" if block.kind == "refusal" else "text"
            more: Json = {"logprobs": []} if block.kind == "text" else {}
            out.append(self._at(f"response.{_SPEECH[block.kind]}.done", block, **{name: text}, **more))
            kind = "reasoning_summary_part" if block.kind == "thinking" else "content_part"
            out.append(self._at(f"response.{kind}.done", block, part=_part(block, text)))
        item = self._item(block, self._status(block, text), text)
        self.response["output"].append(item)
        place = self._places[block]
        out.append(self._event("response.output_item.done", output_index=place, item=item))
        return out

    def _at(self, kind: str, block: Block, **facts: Any) -> Json:
        """An event inside an item; `facts` after where it is."""
        place: Json = {"item_id": self._item_id(block), "output_index": self._places[block]}
        if block.kind == "thinking":
            place["summary_index"] = 0
        elif block.kind != "call":
            place["content_index"] = 0
        return self._event(kind, **place, **facts)

    def _status(self, block: Block, text: str) -> str:
        if self._finish not in _INCOMPLETE:
            return "completed"
        # What was closed before the end is whole, and so is a call that can be read.
        whole = block.kind == "call" and is_object(text)
        return "completed" if whole else "incomplete"

    def _item_id(self, block: Block) -> str:
        return f"{_PREFIXES[block.kind]}_{self._seed}{self._places[block]:02x}"

    def _item(self, block: Block, status: str, text: str) -> Json:
        item: Json = {"id": self._item_id(block)}
        if block.kind == "call":
            call_id = block.id or made_id(self.response["id"], block.index)
            return {
                **item,
                "type": "function_call",
                "status": status,
                "call_id": call_id,
                "name": block.name,
                "arguments": text,
            }
        parts = [] if status == "in_progress" else [_part(block, text)]
        if block.kind == "thinking":
            return {**item, "type": "reasoning", "summary": parts}
        return {**item, "type": "message", "status": status, "role": "assistant", "content": parts}


def _part(block: Block, text: str) -> Json:
    if block.kind == "thinking":
        return {"type": "summary_text", "text": text}
    if block.kind == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _offered(tool: object) -> object:
    """A tool as a response repeats it: with every field."""
    return {"description": None, "parameters": None, "strict": None, **tool} if type(tool) is dict else tool


def _wants_summary(request: Json) -> bool:
    reasoning = request.get("reasoning")
    if type(reasoning) is not dict:
        return False
    return reasoning.get("summary") is not None or reasoning.get("generate_summary") is not None


def _error_code(fault: Fault) -> str:
    """The code of a failed response; the API knows few."""
    if fault.status == 429 or "rate_limit" in f"{fault.type} {fault.code}":
        return "rate_limit_exceeded"
    return "invalid_prompt" if fault.type == "invalid_request_error" else "server_error"


if TYPE_CHECKING:
    _stage: Stage = ChatToResponses({}, created=0)
