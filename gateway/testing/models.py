"""The `sim/*` models a newcomer finds: what each does, on every surface alike, and the functions that play
them. Surfaces without tool calls (legacy completions) are spoken to in ReAct.

All of them say that they are simulated. Agents among them look only at the request (how many of their own
actions are in it), so any number of agents can run at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from gateway.testing.script import Ask, Reply, Script, ToolOffer, error_reply

PREFIX = "sim/"
OWNER = "simulated"
LABEL = "[simulated]"

CATALOGUE: dict[str, str] = {
    "echo": "answers at once, quoting the last user message",
    "slow": "streams one token every 100 ms",
    "long": "streams a very long text, about 800 tokens a second",
    "printer": "a runaway agent: calls the first tool with the query 'printer' again and again",
    "steps-5": "calls the first tool four times, then answers (sim/steps-N: N-1 times)",
    "error-500": "fails with that status (sim/error-STATUS, 400 to 599)",
    "error-429": "is rate limited, with a Retry-After header",
    "tokens-1000-500": "claims and bills 1000 input and 500 output tokens (sim/tokens-IN-OUT)",
}
"""Names below `sim/`, as `GET /v1/models` lists them."""

_QUOTED = 200
_LONG_PARAGRAPHS = 250

_SLOW_TEXT = (
    f"{LABEL} This answer arrives slowly, one token every tenth of a second, so that there is time to look "
    "at a stream while it runs, to leave it half way, or to press the kill switch and see where it stops."
)
_LONG_TEXT = f"{LABEL} A very long answer follows.\n\n" + "\n\n".join(
    f"Paragraph {number}. Nothing in this paragraph was written by a model: it is filler of the simulated "
    "provider, made to run for a while and to cost something on paper. An agent that asked for a short note "
    "and got this should have set an output limit, and a gateway that watches the bill should end it early. "
    "The text goes on in the same manner, with no more to say than before, until its last paragraph."
    for number in range(1, _LONG_PARAGRAPHS + 1)
)


def find(name: str) -> Script | None:
    """The script of `sim/<name>`; `None` if there is no such model."""
    if name in _FIXED:
        return _FIXED[name]
    if match := re.fullmatch(r"steps-([1-9]\d{0,3})", name):
        return _stepper(int(match[1]))
    if match := re.fullmatch(r"error-([45]\d\d)", name):
        return _failing(int(match[1]))
    if match := re.fullmatch(r"tokens-(\d{1,9})-(\d{1,9})", name):
        return _claiming(int(match[1]), int(match[2]))
    return None


def _echo(ask: Ask) -> Reply:
    return _echo_reply(ask.last_user_text[: _QUOTED + 1])


@lru_cache(maxsize=256)
def _echo_reply(said: str) -> Reply:
    quoted = said if len(said) <= _QUOTED else said[:_QUOTED] + "…"
    return Reply(f"{LABEL} Hello! You said: “{quoted}”. No model was called for this answer.")


_SLOW = Reply(_SLOW_TEXT, chunk_delay_s=0.1)
_LONG = Reply(_LONG_TEXT, chunk_tokens=4, chunk_delay_s=0.005)


def _printer(ask: Ask) -> Reply:
    """The incident this product is for: 1,200 look-ups of one word, each as fruitless as the last."""
    if not ask.tools:
        done = sum(turn.role == "tool" for turn in ask.turns)
        return Reply(
            f"{LABEL} I looked up 'printer' {done} times and found no answer. Without tools I have to stop "
            "here: please check the printer's cable and ask a colleague."
        )
    tool = ask.tools[0]
    takes_query = not tool.schema.get("properties") or "query" in tool.schema["properties"]
    arguments = {"query": "printer"} if takes_query else fill(tool, "printer", 1)
    return Reply(tool_calls=[(tool.name, arguments)])


def _stepper(steps: int) -> Script:
    def reply(ask: Ask) -> Reply:
        done = actions_so_far(ask)
        if done >= steps - 1:
            return Reply(_final(ask, steps))
        if ask.tools:
            arguments = fill(ask.tools[0], ask.last_user_text[:60] or "next", done + 1)
            return Reply(tool_calls=[(ask.tools[0].name, arguments)])
        if any(turn.role == "tool" for turn in ask.turns):
            # The agent has tools, and this request forbids them: a model can only answer now.
            return Reply(_final(ask, done + 1))
        return Reply(
            f"Thought: {LABEL} this is step {done + 1} of {steps}.\n"
            f"Action: {_react_tool(ask)}\n"
            f'Action Input: {{"query": "step {done + 1}"}}'
        )

    return reply


def _final(ask: Ask, steps: int) -> str:
    text = f"{LABEL} Done after {steps} steps."
    speaks_in_text = not ask.body.get("tools") and steps > 1
    return f"Thought: I know the answer.\nFinal Answer: {text}" if speaks_in_text else text


def actions_so_far(ask: Ask) -> int:
    """Actions the agent has taken since the last answer it finished.

    Counted from its own messages, as some agents send tool results as user messages; an agent that keeps its
    notes in one prompt is counted by the observations in them.
    """
    actions = 0
    for turn in reversed(ask.turns):
        if turn.role != "assistant":
            continue
        if not turn.calls and "Action:" not in turn.text:
            break
        actions += 1
    if actions or not ask.turns:
        return actions
    # The instructions before "Begin!" explain the format, and so hold the word themselves.
    _, begun, notes = ask.last_user_text.rpartition("Begin!")
    return len(re.findall(r"^\s*Observation:", notes, re.MULTILINE)) if begun else 0


def _react_tool(ask: Ask) -> str:
    for turn in ask.turns:
        if named := re.search(r"one of \[([^\],]+)", turn.text):
            return named[1].strip(" '\"")
    return "search"


def fill(tool: ToolOffer, topic: str, step: int) -> dict[str, Any]:
    """Plausible arguments by the tool's schema; free texts and numbers differ from step to step."""
    properties = tool.schema.get("properties")
    if not isinstance(properties, Mapping):
        return {"query": f"{topic} (step {step})"}
    return {name: _value(name, schema, topic, step, depth=0) for name, schema in properties.items()}


def _value(name: str, schema: Any, topic: str, step: int, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > 4:
        return f"{topic} (step {step})"
    for fixed in ("const", "default"):
        if fixed in schema:
            return schema[fixed]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][(step - 1) % len(schema["enum"])]
    for options in ("anyOf", "oneOf"):
        if isinstance(schema.get(options), list) and schema[options]:
            return _value(name, schema[options][0], topic, step, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list) and kind:
        kind = kind[0]
    match kind:
        case "integer" | "number":
            low, high = schema.get("minimum", 1), schema.get("maximum")
            wanted = low + step - 1
            return wanted if high is None else min(wanted, high)
        case "boolean":
            return True
        case "null":
            return None
        case "array":
            return [_value(name, schema.get("items", {}), topic, step, depth + 1)]
        case "object":
            inside = schema.get("properties", {})
            return {key: _value(key, value, topic, step, depth + 1) for key, value in inside.items()}
        case _:
            text = _EXAMPLES.get(str(schema.get("format")), f"{topic} (step {step})")
            longest = schema.get("maxLength")
            return text[:longest] if isinstance(longest, int) else text


_EXAMPLES = {
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "date": "2026-01-15",
    "date-time": "2026-01-15T09:00:00Z",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def _failing(status: int) -> Script:
    headers = [("retry-after", "1")] if status in (429, 503) else []
    reply = error_reply(status, headers=headers)
    return lambda ask: reply


def _claiming(prompt: int, completion: int) -> Script:
    reply = Reply(
        f"{LABEL} This answer claims {prompt} input and {completion} output tokens.",
        prompt_tokens=prompt,
        completion_tokens=completion,
        ignore_limits=True,
    )
    return lambda ask: reply


_FIXED: dict[str, Script] = {
    "echo": _echo,
    "slow": lambda ask: _SLOW,
    "long": lambda ask: _LONG,
    "printer": _printer,
}
