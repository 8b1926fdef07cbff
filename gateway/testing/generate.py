"""From a scripted reply to an answer: the caller's limits applied, every token counted.

Neutral of the wire API; a surface turns the `Answer` into its own JSON and events.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from gateway.testing.script import Ask, Reply, ToolCall
from gateway.testing.tokens import Pieces, Tokens

_ALPHANUMERIC = string.ascii_letters + string.digits


@dataclass(slots=True)
class Call:
    """A tool call as it goes out. `pieces` are its arguments."""

    id: str
    name: str
    name_tokens: int
    pieces: Pieces

    @property
    def arguments(self) -> str:
        return "".join(part for part, _ in self.pieces)


@dataclass(slots=True)
class Choice:
    """One of the `n` answers."""

    hidden_tokens: int
    reasoning: Pieces
    text: Pieces
    calls: list[Call]
    finish_reason: str
    """`stop`, `length`, `tool_calls`, `content_filter`, or what the script says."""

    @property
    def content(self) -> str:
        return "".join(part for part, _ in self.text)

    @property
    def reasoning_content(self) -> str:
        return "".join(part for part, _ in self.reasoning)


@dataclass(slots=True)
class Answer:
    """All choices and what they bill. Tokens; `created` is in Unix seconds."""

    id: str
    created: int
    ask: Ask
    reply: Reply
    choices: list[Choice]
    prompt_tokens: int
    cached_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    reasoning_tokens: int
    generated: int
    """Tokens really produced."""
    completion_tokens: int
    """Tokens billed once all is produced: `generated`, unless the script says otherwise."""

    @property
    def uncached_tokens(self) -> int:
        """Input that is neither read from a cache nor written to one."""
        return self.prompt_tokens - self.cached_tokens - self.cache_write_tokens

    @property
    def cache_write_tokens(self) -> int:
        """Input written to a cache, whatever its lifetime."""
        return self.cache_write_5m_tokens + self.cache_write_1h_tokens

    def billed(self, generated: int) -> int:
        """Output billed when `generated` of the answer's tokens are produced."""
        if self.completion_tokens == self.generated:
            return generated
        if generated >= self.generated:
            return self.completion_tokens
        return self.completion_tokens * generated // self.generated


class Generator:
    """Makes answers. `random_source` decides the ids, so that a seed makes them repeatable."""

    def __init__(self, tokens: Tokens, random_source: random.Random) -> None:
        self.tokens = tokens
        self._random = random_source

    def new_id(self, prefix: str, length: int = 24) -> str:
        """`prefix` and that many random letters and digits."""
        return prefix + "".join(self._random.choices(_ALPHANUMERIC, k=length))

    def answer(
        self,
        ask: Ask,
        reply: Reply,
        prompt_tokens: int,
        answer_id: str,
        created: int,
        call_prefix: str = "call_",
    ) -> Answer:
        """What the model says to `ask`; `prompt_tokens` is the billed input."""
        limit = None if reply.ignore_limits else ask.output_limit
        choices, generated, reasoning = [], 0, 0
        for index in range(ask.choices):
            choice, tokens, thought = self._choice(ask, reply, index, limit, call_prefix)
            choices.append(choice)
            generated += tokens
            reasoning += thought
        completion = generated
        if reply.completion_tokens is not None and ask.choices:
            completion = reply.completion_tokens
            if limit is not None:
                completion = min(completion, limit * ask.choices)
        cached = min(reply.cached_tokens, prompt_tokens)
        written_5m = min(reply.cache_write_5m_tokens, prompt_tokens - cached)
        written_1h = min(reply.cache_write_1h_tokens, prompt_tokens - cached - written_5m)
        return Answer(
            id=answer_id,
            created=created,
            ask=ask,
            reply=reply,
            choices=choices,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached,
            cache_write_5m_tokens=written_5m,
            cache_write_1h_tokens=written_1h,
            reasoning_tokens=min(reasoning, completion),
            generated=generated,
            completion_tokens=completion,
        )

    def _choice(
        self, ask: Ask, reply: Reply, index: int, limit: int | None, call_prefix: str
    ) -> tuple[Choice, int, int]:
        """The choice, its tokens, and how many of them are reasoning."""
        left = _Allowance(limit)
        whole = not ask.stream and not ask.background
        hidden = left.take(reply.reasoning_tokens)
        reasoning = () if ask.text_only else self._pieces(reply.reasoning, reply, left, whole)
        thought = left.used
        text = reply.text if isinstance(reply.text, str) else reply.text[index % len(reply.text)]
        content = self._pieces(text, reply, left, whole)
        calls = []
        for position, spec in enumerate(() if ask.text_only else reply.tool_calls):
            if left.exhausted:
                left.cut = True
                break
            calls.append(self._call(spec, position, call_prefix, reply, left, whole))
        usual = reply.finish_reason or ("tool_calls" if calls else "stop")
        finish = "length" if left.cut else usual
        return Choice(hidden, reasoning, content, calls, finish), left.used, thought

    def _call(
        self,
        spec: ToolCall | Sequence[object],
        position: int,
        prefix: str,
        reply: Reply,
        left: _Allowance,
        whole: bool,
    ) -> Call:
        call = spec if isinstance(spec, ToolCall) else ToolCall(*spec)  # type: ignore[arg-type]
        arguments = (
            call.arguments if isinstance(call.arguments, str) else orjson.dumps(call.arguments).decode()
        )
        name_tokens = left.take(self.tokens.count(call.name))
        return Call(
            id=self._call_id(reply, position, prefix) if call.id is None else call.id,
            name=call.name,
            name_tokens=name_tokens,
            pieces=self._pieces(arguments, reply, left, whole),
        )

    def _call_id(self, reply: Reply, position: int, prefix: str) -> str:
        match reply.tool_call_ids:
            case "unique":
                return self.new_id(prefix)
            case "colliding":
                return f"{prefix}{position}"
            case "nine":
                return self.new_id("", 9)
            case "empty":
                return ""

    def _pieces(self, text: str, reply: Reply, left: _Allowance, whole: bool) -> Pieces:
        if not text:
            return ()
        count = self.tokens.count(text)
        allowed = left.take(count)
        if not allowed:
            return ()
        if whole and allowed == count:
            return ((text, count),)
        per_piece = reply.chunk_tokens if reply.chunks is None else -(-allowed // reply.chunks)
        return self.tokens.split(text, per_piece, None if allowed == count else allowed)


class _Allowance:
    """What is left of a choice's output limit."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.used = 0
        self.cut = False

    @property
    def exhausted(self) -> bool:
        return self.limit is not None and self.used >= self.limit

    def take(self, wanted: int) -> int:
        granted = wanted if self.limit is None else min(wanted, self.limit - self.used)
        if granted < wanted:
            self.cut = True
        self.used += granted
        return granted
