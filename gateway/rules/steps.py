"""What a step of an agent is for, as far as its request tells, and what it needs of a model.

Pure. Texts are looked at near their ends only, so that a step costs the same whatever its tools returned.
Headers are not looked at: a request is classified alike whoever sends it, and alike on every surface.

    the user spoke last     planning, where tools are offered; else what is asked for tells
    results came last       the next call (tool_selection), unless something says that the answer is due:
                            no tool may be called, a last step is announced, a list of things to do is ticked
                            off. Nothing of this is certain, so what decided stands in `Classified.why`
    neither agent nor task  helper calls of clients (title), answers in a given form (formatting)

Agents without tools on the wire, which write their calls as text, are known by their stop sequences and by
how their results begin.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gateway.domain import Item, Json, Role, Step, Surface
from gateway.policy.sections.providers import Ability
from gateway.policy.sections.routing import StepKind
from gateway.values import frozen

BYTES_PER_TOKEN = 4
LARGE_CHARS = 6_000
"""Results of so many characters are read for what is in them: some 1,500 tokens."""
LONG_CONVERSATION = 2_000
"""Tokens of a conversation above which its summary is more than a caption."""
_PROBE_TOKENS = 4
_END = 400
"""Characters looked at on either end of a text."""
_PROMPT_END = 8_000
"""Characters of a prompt that holds a whole conversation as text in which its last result is looked for."""
_PLAN_CHARS = 2_000
_LIST_CHARS = 16_384
"""Longer arguments are no list of things to do."""
_MOST_TURNS = 512
"""Items back to which the task is looked for."""
_SYSTEM, _USER, _ASSISTANT, _TOOL = Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.TOOL
_NO_TURN = Item(Role.ASSISTANT)
_CONVERSES = frozenset({Surface.CHAT, Surface.RESPONSES, Surface.MESSAGES})
_BILLING_HEADER = "x-anthropic-billing-header"
_START = 200
"""Characters by which a text is known for a result or a client's note."""
_SHORT = 120
"""Characters of a sentence that says nothing but to go on."""
_PROBE = 2_000
"""Bytes of a request that only tries whether the provider answers."""
_FEW = 8
"""Texts of one item, stop sequences and output tools that are looked at."""
_NOTES = (
    "<system-reminder", "<environment_context", "<user_instructions", "<local-command", "<command-",
    "<permissions", "# agents.md", "<ide_", "<turn_aborted", "<env>",
)  # fmt: skip
"""How texts begin that clients put beside the user's."""
_OBSERVED = (
    "observation", "call id:", "<tool_response", "<tool_result", "<function_result", "<observation",
    "tool result", "tool output", "[tool_result", "[tool result", "execution result", "<returncode",
    "execution logs", "<output>", "result of ",
)  # fmt: skip
"""How results begin that agents without tools on the wire tell as the user."""
_STOPS = (
    "Observation:", "Observation", "Calling tools:", "<end_code>", "</code>", "<end_plan>", "</tool_call>",
)  # fmt: skip
_OUTPUT_TOOLS = frozenset(
    ("final_answer", "final_result", "structured_output", "StructuredOutput", "submit_answer", "respond")
)
_CODE_TOOLS = frozenset(
    (
        "bash", "shell", "local_shell", "read", "grep", "glob", "edit", "multiedit", "write", "ls",
        "apply_patch", "exec_command", "str_replace_editor", "str_replace_based_edit_tool", "read_file",
        "list_dir", "list_files", "search_files", "run_command", "run_tests", "terminal", "execute_bash",
        "grep_search", "codebase_search", "run_terminal_cmd", "write_stdin", "notebookedit", "view_image",
    )
)  # fmt: skip
"""What these return is read to find the next thing to do, however long it is."""
_CAPTION = re.compile(
    r"new conversation topic|\btitle generator\b|thread title|session title|chat title"
    r"|\b(?:generate|write|create|suggest|come up with|produce)\b(?:(?! and | with | about )[^.\n]){0,60}"
    r"\b(?:title|headline|caption|tags categori[sz]ing|follow[- ]up questions|emoji)\b"
    r"|title (?:for|of) (?:this|the) (?:chat|conversation|session|thread|task)"
    r"|summari[sz]e this (?:coding )?conversation in under|command prefix|<policy_spec>"
    r"|is_displaying_contents|autocompletion"
)
_SUMS_UP = (
    "detailed summary of the conversation", "detailed summary of our conversation",
    "summarize the conversation",
    "summarise the conversation", "summarizing conversations", "summary of the conversation",
    "summarize the lines of conversation", "context checkpoint compaction", "handoff summary",
    "summarize our conversation", "compact the conversation", "conversation summary",
)  # fmt: skip
_CONDENSE = ("summar", "condense", "tl;dr", "tldr", "key points", "boil down", "abstract of", "zusammenfass")
_FINAL = (
    "final answer", "final report", "final summary", "write the report", "write up your findings",
    "provide an answer to", "write your report", "give your conclusion", "answer the question now",
    "answer now", "summarize your findings", "summarise your findings", "summarize what you found",
    "present your findings", "write the answer",
)  # fmt: skip
_LAST_STEP = (
    "is its last step", "is your last step", "is the last step", "reached its limit", "no more tool calls",
    "do not call any more tools", "don't call any more tools", "without calling any",
    "do not use any more tools", "maximum number of steps", "max steps", "maximum steps", "steps left: 0",
    "steps left: 1", "1 step left", "one step left", "steps remaining: 0", "steps remaining: 1",
    "remaining steps: 0", "remaining steps: 1", "out of steps", "final turn", "must now provide",
    "tools are disabled", "tool calls are no longer", "step budget is used",
)  # fmt: skip
_STEP_WORDS = (
    "step",
    "limit",
    "more tool",
    "calling any",
    "final turn",
    "must now",
    "tools are",
    "tool calls",
)
"""One of these is in every phrase for a last step."""
_GO_ON = ("continue", "go on", "go ahead", "proceed", "keep going", "carry on", "please continue", "weiter")
_REVIEW_OWN = re.compile(
    r"\b(?:review|critique|critici[sz]e|double[- ]check|reflect on|re-?examine|verify|proofread|evaluate"
    r"|find (?:the )?(?:mistakes|errors|flaws|problems) in|check)\b[^.\n]{0,40}"
    r"\b(?:your|you (?:just )?wrote|you gave|the above|above)\b"
    r"|\breflect(?:ion)?\b[^.\n]{0,40}\b(?:you|your|previous|mistake|failed)\b"
    r"|(?:are you sure|is (?:your|the) (?:answer|solution|output) (?:\w+ )?(?:correct|right|complete))"
)
_REVIEWER = re.compile(
    r"\b(?:generate|write|provide|give)\b[^.\n]{0,30}\b(?:critique|critical feedback)\b|\bcritique the\b"
    r"|\byou are an? [^.\n]{0,40}\b(?:critic|reviewer|grader)\b|\bgrading an?\b"
    r"|reflect on (?:your|the) previous"
)
_FIELDS = re.compile(
    r"\bextract(?:ing)?\b(?! method| function| class| into)|\bfill in the\b|\bpull out the\b"
    r"|\bjson\b[^.\n]{0,40}\b(?:fields?|keys?)\b|\b(?:fields?|keys?)\b[^.\n]{0,40}\bjson\b"
    r"|\b(?:only|just) (?:return |give |tell )?(?:me )?the "
    r"(?:number|value|date|name|price|amount|email|id|total)\b"
    r"|\bextrahier|\bextrai[st]|\bextrae\b|\bestrai\b"
)
_NOT_YET = (
    "don't have", "do not have", "once i have", "when i have", "not enough", "not yet", "before i have",
)  # fmt: skip
_ENOUGH = (
    "have all the information", "have all information", "have everything i need", "have enough information",
    "have enough to", "have gathered enough", "have all the data", "have all the details", "ready to answer",
    "have all i need", "have what i need", "that's everything i need",
)  # fmt: skip
_WRITES = re.compile(
    r"\b(?:write|compile|give|draft|compose|present|prepare|summari[sz]e|produce|deliver"
    r"|put together|answer)\b[^.\n]{0,40}"
    r"\b(?:report|answer|summary|comparison|conclusion|recommendation|reply|response|brief|memo"
    r"|findings|question|you)\b"
)
_AT_LAST = ("now ", "last", "final", "one more", "everything", "enough", "all the")
_DONE = ('"completed"', '"done"', '"complete"', '"finished"')
_OPEN = ('"pending"', '"in_progress"', '"not_started"', '"todo"', '"open"', '"blocked"', '"in-progress"')
_WRITING = (
    "write", "summar", "report", "answer", "respond", "compile", "present", "reply", "draft", "conclu",
)  # fmt: skip
_NOTHING_LEFT = (
    '"remaining": 0', '"remaining":0', "remaining: 0", "no remaining", "nothing left", "no more items",
    '"remaining": []', '"remaining":[]', "all items processed", "all tasks complete",
    "all tasks are complete", "queue is empty", "task complete", "no open tasks", "no tasks left",
    "all done", "no further items",
)  # fmt: skip
_SEALED_ITEMS = ("reasoning", "compaction", "item_reference")
_SEALED_FIELDS = ("reasoning_details", "thinking_blocks", "reasoning_signature", "encrypted_content")
_USUAL_FIELDS = frozenset(("role", "content", "tool_calls", "refusal", "name"))
_SEALED_BLOCKS = ("thinking", "redacted_thinking", "compaction")
_PROVIDER_FIELDS = frozenset((
    "web_search_options", "search_parameters", "enable_search", "plugins", "mcp_servers", "container",
    "cached_content",
))  # fmt: skip
_PLAIN_TOOLS = frozenset(("function", ""))


@frozen
class Classified:
    """One step, classified."""

    kind: StepKind
    why: str
    """One short clause, for the record of the decision."""
    tokens: int
    """Input tokens, estimated from size: a quarter of the bytes of text."""
    tools: int
    """Tools that the request offers."""
    needs: frozenset[Ability]
    """What the request needs of a model."""
    state: bool
    """It depends on something that one provider keeps, seals or runs: a conversation, items, files, sealed
    reasoning, tools of its own."""
    previous_tokens: int
    """About how much of the input was sent with the step before: everything before the assistant's last turn.
    0 where the history tells of no such turn."""


def classify(step: Step, *, ordinal: int, is_retry: bool) -> Classified:
    """What the step is for. `ordinal` is its number in its run, from 1; `is_retry` means that the same
    request was made before. Deterministic, linear in the number of items, never raises."""
    view = _view(step)
    kind, why = _kind(step, view, ordinal, is_retry)
    return Classified(
        kind=kind,
        why=why,
        tokens=step.text_bytes // BYTES_PER_TOKEN,
        tools=len(step.tools),
        needs=needs_of(step),
        state=depends_on_provider(step),
        previous_tokens=max(0, step.text_bytes - view.new_chars) // BYTES_PER_TOKEN if view.has_turn else 0,
    )


# -- what is looked at ------------------------------------------------------------------------------


@dataclass(slots=True)
class _View:
    """The end of the conversation. Texts are ends of texts, in lower case."""

    system: str = ""
    """The first instructions."""
    said: str = ""
    """What the user, or an instruction, said last, results and clients' notes aside."""
    task: str = ""
    """What the user said before that, or before the results: the task at hand."""
    results: int = 0
    """Tool results after the assistant's last turn."""
    result_chars: int = 0
    last_result: str = ""
    failed: bool = False
    """The last result is an error."""
    has_turn: bool = False
    """The assistant has said something."""
    turn: Item = _NO_TURN
    """The assistant's last turn."""
    turns: int = 0
    """Of the assistant, since the task was set."""
    first_turn: Item = _NO_TURN
    """How the assistant began with the task."""
    earlier: bool = False
    """Tools were called before the assistant's last turn, or in it, since the task was set."""
    new_chars: int = 0
    """Characters since the assistant's last turn began, it included."""
    as_text: bool = False
    """Results are told as texts of the user."""


def _view(step: Step) -> _View:
    items = step.items
    last = len(items) - 1
    while last >= 0 and (items[last].role is not _ASSISTANT or items[last].aside):
        last -= 1
    view = _View(system=_system(items))
    if last >= 0:
        view.has_turn = True
        view.turn = items[last]
        view.new_chars = _chars(items[last])
    for i in range(last + 1, len(items)):
        item = items[i]
        if view.has_turn:
            view.new_chars += _chars(item)
        if not item.aside:
            _read_new(view, item)
    if view.has_turn:
        _read_before(view, items, last)
    elif not view.results:
        view.task = view.said
    return view


def _read_new(view: _View, item: Item) -> None:
    """An item after the assistant's last turn."""
    if item.role is _SYSTEM:
        if view.has_turn and item.texts:
            view.said = _ends(item.texts[-1].text)
        return
    if item.role is _USER:
        text, observed = _words(item)
        view.said = text or view.said
        if not observed or not (view.has_turn or view.results):
            return
        view.as_text = True
    view.results += 1
    view.result_chars += _chars(item)
    view.last_result = _ends(item.texts[-1].text) if item.texts else ""
    view.failed = item.failed


def _read_before(view: _View, items: tuple[Item, ...], last: int) -> None:
    """Back to the task that the results belong to; where the user spoke last, to the one before."""
    for i in range(last, max(-1, last - _MOST_TURNS), -1):
        item = items[i]
        if item.aside or item.role is _SYSTEM:
            continue
        if item.role is _ASSISTANT:
            view.earlier = view.earlier or bool(item.calls)
            view.turns += 1
            view.first_turn = item
        elif item.role is _TOOL:
            view.earlier = True
        else:
            text, observed = _words(item)
            if observed and i:
                view.earlier = True
            elif text:
                view.task = text
                return


def _chars(item: Item) -> int:
    chars = 0
    for text in item.texts:
        chars += len(text.text)
    for call in item.calls:
        chars += len(call.arguments)
    return chars


def _words(item: Item) -> tuple[str, bool]:
    """The ends of what the user says last in an item, results and clients' notes aside; whether a result is
    told there."""
    said = ""
    observed = False
    for text in item.texts[-_FEW:]:
        start = text.text[:_START].lstrip().lower()
        if start.startswith(_OBSERVED) or (start[:1] == "[" and "] result:" in start):
            observed = True
            said = ""
        elif not start.startswith(_NOTES):
            said = text.text
    return _ends(said), observed


def _ends(text: str) -> str:
    """Both ends of a text in lower case."""
    if len(text) > 2 * _END:
        text = f"{text[:_END]}\n{text[-_END:]}"
    return text.lower()


def _system(items: tuple[Item, ...]) -> str:
    """The ends of the first instructions."""
    for item in items:
        if item.role is _SYSTEM:
            if item.texts and not item.texts[0].text.startswith(_BILLING_HEADER):
                first = item.texts[0].text
                if len(item.texts) > 1 and len(first) < _END:
                    first = f"{first}\n{item.texts[-1].text[:_END]}"
                return _ends(first)
        elif not item.aside:
            break
    return ""


# -- what it is for ---------------------------------------------------------------------------------

Reading = tuple[StepKind, str]


def _kind(step: Step, view: _View, ordinal: int, is_retry: bool) -> Reading:
    if is_retry:
        return "retry", "the same request was made before"
    if step.surface not in _CONVERSES:
        return "other", "no conversation"
    choice = _choice(step.body)
    may_call = bool(step.tools) and choice != "none"
    if not step.tools:
        helper = _helper(step, view)
        if helper is not None:
            return helper
        if view.as_text or _writes_calls(step.body):
            may_call = True
            view.as_text = True
    if view.as_text and not view.results and not view.has_turn and _has_observed(step.items):
        return "tool_selection", "a result stands at the end of the prompt"
    if view.results:
        return _after_results(step, view, choice, may_call)
    return _after_words(step, view, choice, may_call, ordinal)


def _after_words(step: Step, view: _View, choice: str, may_call: bool, ordinal: int) -> Reading:
    """The user spoke last, or the assistant itself."""
    if view.said and _asks_for_review(view, step):
        return "reflection", "the model is asked to review work"
    if may_call and _only_output(step, choice):
        return "formatting", "the only tool is the form of the answer"
    if not may_call:
        if wants_form(step.body):
            return "formatting", "a form is set and no tool offered"
        if view.earlier and (not view.said or _found(_FINAL, view.said)):
            return "synthesis", "tools were used and none is offered for the answer"
        if view.said and _found(_CONDENSE, view.said) and step.text_bytes >= LARGE_CHARS:
            return "digest", "a long text is to be condensed"
        return "other", "no tools and no task of an agent"
    if view.earlier and view.said:
        if _is_last_step(view.said) or _found(_FINAL, view.said):
            return "synthesis", "the user asks for the final answer"
        if len(view.said) <= _SHORT and view.said.strip(" .!\n\t").startswith(_GO_ON):
            return "tool_selection", "the user only says to go on"
    elif not view.said and view.has_turn:
        return "tool_selection", "the assistant is to go on"
    return "planning", "first step of the run" if ordinal == 1 else "nothing follows the user's last words"


def _after_results(step: Step, view: _View, choice: str, may_call: bool) -> Reading:
    """Results of tools came last, perhaps with words behind them."""
    if choice == "none":
        return "synthesis", "no tool may be called after the results"
    if view.said and _is_last_step(view.said):
        return "synthesis", "it is told to be the last step"
    if view.said and _asks_for_review(view, step):
        return "reflection", "the model is asked to review work"
    if not may_call:
        return _without_tools(view)
    if (due := _is_due(step, view, choice)) is not None:
        return "synthesis", due
    if view.failed:
        return "tool_selection", "the tool failed"
    reads_code = bool(view.turn.calls) and view.turn.calls[-1].name.lower() in _CODE_TOOLS
    if view.results == 1 and not reads_code and _asks_for_fields(view):
        return "extraction", "one result, and fields are to be taken from it"
    if view.result_chars >= LARGE_CHARS and not reads_code:
        return "digest", f"{view.result_chars} characters of results to read"
    return "tool_selection", "tools are offered after results"


def _without_tools(view: _View) -> Reading:
    """No tool is offered after results."""
    if view.results == 1 and _asks_for_fields(view):
        return "extraction", "one result, and fields are to be taken from it"
    if view.result_chars >= LARGE_CHARS and view.said and _found(_CONDENSE, view.said):
        return "digest", "large results are to be condensed"
    return "synthesis", "no tool is offered after the results"


def _is_due(step: Step, view: _View, choice: str) -> str | None:
    """What says that the final answer comes next, though tools are offered."""
    if _only_output(step, choice) or choice in _OUTPUT_TOOLS:
        return "only the tool for the final answer may be called"
    if view.said and _found(_FINAL, view.said):
        return "the final answer is asked for"
    turn = view.turn
    if any(_is_done_list(call.name, call.arguments) for call in turn.calls):
        return "every entry of the list of things to do is done"
    text = turn.texts[-1].text[-_PLAN_CHARS:].lower() if turn.texts else ""
    if text.count("- [x]") > 1 and "- [ ]" not in text:
        return "every entry of the list of things to do is done"
    if text and _announces(text[-_END:], view.turns):
        return "the assistant announced the answer"
    begun = view.first_turn.texts
    planned = _planned(begun[0].text[:_PLAN_CHARS]) if begun and view.turns > 1 else 0
    if planned and view.turns >= planned:
        return f"the {planned} steps of the plan before the answer are done"
    if _found(_NOTHING_LEFT, view.last_result[-_END:]):
        return "the last result says that nothing is left"
    if _is_last_step(view.last_result[-_END:]):
        return "the last result says that no step is left"
    return None


# -- helper calls -----------------------------------------------------------------------------------


def _helper(step: Step, view: _View) -> Reading | None:
    """Calls that a client makes beside the conversation."""
    if not view.has_turn:
        if step.output_limit is not None and step.output_limit <= _PROBE_TOKENS and step.text_bytes < _PROBE:
            return "title", "a probe: hardly any output is allowed"
        if _is_caption(view.system) or _is_caption(view.said):
            return "title", "a title, topic or tag is asked for"
    elif _is_caption(view.said) or (_is_caption(view.system) and not view.earlier):
        return "title", "a title, topic or tag is asked for"
    if _found(_SUMS_UP, view.said) or (not view.has_turn and _found(_SUMS_UP, view.system)):
        if step.text_bytes < LONG_CONVERSATION * BYTES_PER_TOKEN:
            return "title", "a short conversation is to be summed up"
        return "digest", "a long conversation is to be summed up"
    return None


@lru_cache(maxsize=512)
def _is_caption(text: str) -> bool:
    """Whether a text asks for a caption. The instructions of an agent are the same with every step."""
    return bool(text) and _CAPTION.search(text) is not None


def _found(words: tuple[str, ...], text: str) -> bool:
    for word in words:  # noqa: SIM110 - a generator takes twice as long
        if word in text:
            return True
    return False


def _is_last_step(text: str) -> bool:
    return _found(_STEP_WORDS, text) and _found(_LAST_STEP, text)


def _asks_for_review(view: _View, step: Step) -> bool:
    if view.has_turn and _REVIEW_OWN.search(view.said):
        return True
    return not step.tools and (
        _REVIEWER.search(view.system) is not None or _REVIEWER.search(view.said) is not None
    )


def _asks_for_fields(view: _View) -> bool:
    return _is_about_fields(view.said or view.task) or _is_about_fields(view.system)


@lru_cache(maxsize=512)
def _is_about_fields(text: str) -> bool:
    """Whether single values are asked for. Tasks and instructions are the same over many steps."""
    return _FIELDS.search(text) is not None


def _announces(text: str, turns: int) -> bool:
    if _found(_NOT_YET, text):
        return False
    if _found(_ENOUGH, text):
        return True
    return turns > 1 and _WRITES.search(text) is not None and _found(_AT_LAST, text)


def _is_done_list(name: str, arguments: str) -> bool:
    """Whether a call keeps a list of things to do in which all is done."""
    name = name.lower()
    if ("todo" not in name and "plan" not in name) or len(arguments) > _LIST_CHARS:
        return False
    return _found(_DONE, arguments) and not _found(_OPEN, arguments)


def _planned(text: str) -> int:
    """The steps before the answer in a numbered plan whose last step is to write it; else 0."""
    steps = [line.strip() for line in text.split("\n") if line.lstrip()[:1].isdigit()]
    steps = [line.lower() for line in steps if line[1:3].startswith((".", ")", "0.", "1.", "2."))]
    if len(steps) > 1 and _found(_WRITING, steps[-1][:_SHORT]):
        return max(2, len(steps) - 1)
    return 0


def _has_observed(items: tuple[Item, ...]) -> bool:
    """Whether a prompt that holds the whole conversation ends behind a result."""
    for item in reversed(items):
        if item.role is _USER and not item.aside and item.texts:
            text = item.texts[-1].text[-_PROMPT_END:]
            return text.find("\nObservation:", max(0, text.rfind("\nQuestion:"))) >= 0
    return False


# -- what the body says ------------------------------------------------------------------------------


def _choice(body: Json) -> str:
    """`auto`, `none`, `required`, or the name of the tool that has to be called."""
    choice = body.get("tool_choice", body.get("function_call"))
    if type(choice) is str:
        return choice
    if type(choice) is not dict:
        return "auto"
    for holder in (choice.get("function"), choice):
        if type(holder) is dict and type(name := holder.get("name")) is str:
            return name
    kind = choice.get("type")
    return "required" if kind == "any" else kind if type(kind) is str else "auto"


def _only_output(step: Step, choice: str) -> bool:
    """Whether all that may be called is the form of the answer."""
    tools = step.tools
    if len(tools) == 1 and choice not in ("auto", "none"):
        return choice == tools[0].name or tools[0].name in _OUTPUT_TOOLS
    return bool(tools) and len(tools) <= _FEW and all(tool.name in _OUTPUT_TOOLS for tool in tools)


def wants_form(body: Json) -> bool:
    """Whether the answer is to be JSON, with a schema or without."""
    form = answer_form(body)
    return form is not None and form.get("type") in ("json_schema", "json_object")


def answer_form(body: Json) -> Json | None:
    """The form that a request sets for its answer, by whichever field its API has for that."""
    form = body.get("response_format") or body.get("output_format")
    for name in ("text", "output_config"):
        if form is None and type(holder := body.get(name)) is dict:
            form = holder.get("format")
    return form if type(form) is dict else None


def _writes_calls(body: Json) -> bool:
    """Whether the model is stopped where it would make up a tool's result."""
    stops = body.get("stop") or body.get("stop_sequences")
    stops = [stops] if type(stops) is str else stops
    if type(stops) is not list:
        return False
    return any(type(stop) is str and stop.strip() in _STOPS for stop in stops[:_FEW])


# -- what it needs ----------------------------------------------------------------------------------

_MEDIA: dict[str, Ability] = {"image": "images", "file": "files", "audio": "audio"}


def needs_of(step: Step) -> frozenset[Ability]:
    """What a request needs of a model, whatever it is for."""
    needs: set[Ability] = set()
    body = step.body
    if step.tools:
        needs.add("tools")
    if body.get("parallel_tool_calls") is True:
        needs.add("parallel_tools")
    for item in step.items:
        if item.calls:
            needs.add("tools")
            if len(item.calls) > 1:
                needs.add("parallel_tools")
        if item.media:
            needs.update(_MEDIA[media.kind] for media in item.media if media.kind in _MEDIA)
    form = answer_form(body)
    if form is not None and form.get("type") == "json_schema":
        needs.add("json_schema")
    if asks_to_think(body):
        needs.add("reasoning")
    return _interned(frozenset(needs))


@lru_cache(maxsize=256)
def _interned(needs: frozenset[Ability]) -> frozenset[Ability]:
    return needs


def asks_to_think(body: Json) -> bool:
    """Whether a request asks for reasoning or says how much of it."""
    effort = body.get("reasoning_effort")
    if effort is not None and effort != "none":
        return True
    thinking = body.get("thinking")
    if type(thinking) is dict and thinking.get("type") in ("enabled", "adaptive"):
        return True
    for name in ("reasoning", "output_config"):
        asked = body.get(name)
        if type(asked) is dict and any(
            asked.get(key) not in (None, "none", False) for key in ("effort", "max_tokens", "enabled", "mode")
        ):
            return True
    return False


def depends_on_provider(step: Step) -> bool:
    """Whether a step depends on something that one provider keeps, seals or runs."""
    return step.kept or step.background or bool(seals(step)) or bool(hosted_tool(step))


def seals(step: Step) -> str | None:
    """What the conversation carries that only the model that made it can read; None without."""
    body = step.body
    if step.surface is Surface.RESPONSES:
        given = body.get("input")
        for item in given if type(given) is list else ():
            if type(item) is dict and item.get("type") in _SEALED_ITEMS:
                return "reasoning items"
        return None
    messages = body.get("messages")
    for message in messages if type(messages) is list else ():
        if type(message) is dict and message.get("role") == "assistant":
            sealed = _sealed_in(message)
            if sealed is not None:
                return sealed
    return None


def _sealed_in(message: Json) -> str | None:
    if not message.keys() <= _USUAL_FIELDS and any(message.get(name) for name in _SEALED_FIELDS):
        return "sealed thoughts"
    content = message.get("content")
    if type(content) is list:
        for block in content:
            if type(block) is dict and block.get("type") in _SEALED_BLOCKS:
                return "signed thoughts"
    calls = message.get("tool_calls")
    if type(calls) is list:
        for call in calls:
            if type(call) is dict and ("extra_content" in call or "thought_signature" in call):
                return "signed calls"
    return None


def hosted_tool(step: Step) -> str | None:
    """The kind of a tool that the provider itself defines or runs, or of something else that only it has;
    None without."""
    body = step.body
    if not _PROVIDER_FIELDS.isdisjoint(body):
        for name in sorted(_PROVIDER_FIELDS & body.keys()):
            # An empty object switches a search on as well.
            if body[name] not in (None, False, "", []):
                return name
    for kind in _tool_types(body.get("tools")):
        if kind not in _PLAIN_TOOLS:
            return kind
    return None


def _tool_types(tools: Any) -> Iterator[str]:
    for tool in tools if type(tools) is list else ():
        if type(tool) is dict and type(kind := tool.get("type")) is str:
            # On the Messages API a caller's own tool may be called so; elsewhere it has a grammar.
            yield "function" if kind == "custom" and "input_schema" in tool else kind
