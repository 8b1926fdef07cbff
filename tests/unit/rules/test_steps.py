"""What steps of agents are for: a labelled corpus, told on every surface, and the edges of the classifier."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any, NamedTuple, get_args

import orjson
import pytest

from gateway.domain import Item, Json, Role, Step, Surface, Text
from gateway.policy.sections.routing import StepKind
from gateway.rules.steps import Classified, classify
from gateway.surfaces import CODECS

Turn = tuple[str, str, tuple[tuple[str, Json], ...]]


def sy(text: str) -> Turn:
    return ("system", text, ())


def us(text: str) -> Turn:
    return ("user", text, ())


def to(*results: str) -> Turn:
    """Results of the calls of the turn before, in their order."""
    return ("tool", "\0".join(results), ())


def ai(text: str, *calls: tuple[str, Json]) -> Turn:
    return ("assistant", text, calls)


class Case(NamedTuple):
    """One request: what it is for, and what a client says in it."""

    kind: StepKind
    name: str
    turns: list[Turn]
    tools: str = ""
    """Names of the tools offered."""
    choice: str | None = None
    """`auto`, `none`, `required`, or the name of a tool."""
    schema: Json | None = None
    """The form that the answer is to have."""
    limit: int | None = None
    stop: tuple[str, ...] = ()
    retry: bool = False


def _chat(case: Case) -> Json:
    messages: list[Json] = []
    ids: list[str] = []
    for i, (role, text, calls) in enumerate(case.turns):
        if role == "tool":
            for call_id, result in zip(ids, text.split("\0"), strict=False):
                messages.append({"role": "tool", "tool_call_id": call_id, "content": result})
            continue
        message: Json = {"role": role, "content": text or None}
        ids = [f"call_{i:02}{j}xxxxxxxxxxxxxxxxxxx" for j in range(len(calls))]
        if calls:
            message["tool_calls"] = [
                {"id": n, "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
                for n, (name, given) in zip(ids, calls, strict=True)
            ]
        messages.append(message)
    body: Json = {"model": "gpt-4o", "messages": messages}
    if case.tools:
        body["tools"] = [
            {"type": "function", "function": {"name": n, "description": "", "parameters": _PARAMETERS}}
            for n in case.tools.split()
        ]
    if case.choice is not None:
        named = case.choice not in ("auto", "none", "required")
        body["tool_choice"] = (
            {"type": "function", "function": {"name": case.choice}} if named else case.choice
        )
    if case.schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": case.schema, "strict": True},
        }
    if case.limit is not None:
        body["max_completion_tokens"] = case.limit
    if case.stop:
        body["stop"] = list(case.stop)
    return body


def _messages(case: Case) -> Json:
    system: list[Json] = []
    messages: list[Json] = []
    ids: list[str] = []
    for i, (role, text, calls) in enumerate(case.turns):
        if role == "system":
            if messages:
                # What is said to the model in the middle is a user's turn here.
                _join(messages, "user", [{"type": "text", "text": text}])
            else:
                system.append({"type": "text", "text": text})
        elif role == "tool":
            results = [
                {"type": "tool_result", "tool_use_id": n, "content": result}
                for n, result in zip(ids, text.split("\0"), strict=False)
            ]
            _join(messages, "user", results)
        else:
            ids = [f"toolu_{i:02}{j}xxxxxxxxxxxxxxxxx" for j in range(len(calls))]
            blocks: list[Json] = [{"type": "text", "text": text}] if text else []
            blocks += [
                {"type": "tool_use", "id": n, "name": name, "input": given}
                for n, (name, given) in zip(ids, calls, strict=True)
            ]
            _join(messages, role, blocks)
    body: Json = {"model": "claude-opus-4-5", "max_tokens": case.limit or 32_000, "messages": messages}
    if system:
        body["system"] = system
    if case.tools:
        body["tools"] = [
            {"name": n, "description": "", "input_schema": _PARAMETERS} for n in case.tools.split()
        ]
    if case.choice is not None:
        kinds = {"auto": "auto", "none": "none", "required": "any"}
        body["tool_choice"] = (
            {"type": kinds[case.choice]} if case.choice in kinds else {"type": "tool", "name": case.choice}
        )
    if case.schema is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": case.schema}}
    if case.stop:
        body["stop_sequences"] = list(case.stop)
    return body


def _join(messages: list[Json], role: str, blocks: list[Json]) -> None:
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"] += blocks
    else:
        messages.append({"role": role, "content": blocks})


def _responses(case: Case) -> Json:
    items: list[Json] = []
    ids: list[str] = []
    body: Json = {"model": "gpt-5.1", "store": False}
    for i, (role, text, calls) in enumerate(case.turns):
        if role == "system" and i == 0:
            body["instructions"] = text
        elif role == "tool":
            for call_id, result in zip(ids, text.split("\0"), strict=False):
                items.append({"type": "function_call_output", "call_id": call_id, "output": result})
        elif role == "assistant":
            ids = [f"call_{i:02}{j}xxxxxxxxxxxxxxxxxxx" for j in range(len(calls))]
            if text:
                part = {"type": "output_text", "text": text, "annotations": []}
                items.append({"type": "message", "role": role, "content": [part]})
            items += [
                {"type": "function_call", "call_id": n, "name": name, "arguments": json.dumps(given)}
                for n, (name, given) in zip(ids, calls, strict=True)
            ]
        else:
            role = "developer" if role == "system" else role
            items.append({"role": role, "content": [{"type": "input_text", "text": text}]})
    body["input"] = items
    if case.tools:
        body["tools"] = [
            {"type": "function", "name": n, "description": "", "parameters": _PARAMETERS, "strict": False}
            for n in case.tools.split()
        ]
    if case.choice is not None:
        named = case.choice not in ("auto", "none", "required")
        body["tool_choice"] = {"type": "function", "name": case.choice} if named else case.choice
    if case.schema is not None:
        body["text"] = {
            "format": {"type": "json_schema", "name": "answer", "schema": case.schema, "strict": True}
        }
    if case.limit is not None:
        body["max_output_tokens"] = case.limit
    if case.stop:
        body["stop"] = list(case.stop)
    return body


_PARAMETERS = {"type": "object", "properties": {"q": {"type": "string"}}}
_TOLD = {Surface.CHAT: _chat, Surface.MESSAGES: _messages, Surface.RESPONSES: _responses}
_PERSON = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}

CODING = "Bash Glob Grep Read Edit Write TodoWrite Task WebFetch"
CODEX = "shell update_plan apply_patch view_image"
CLAUDE_CODE = "You are Claude Code, Anthropic's official CLI for Claude.\nYou are an interactive CLI tool."
CODEX_CLI = "You are Codex, based on GPT-5. You are running as a coding agent in the Codex CLI."
HELPER = "You are a helpful assistant"
SUPPORT = "You are a support agent for Acme Telecom. Use your tools. Never invent order numbers."
RESEARCH = (
    "You are a research agent. Use web_search and fetch_page to gather evidence, then write a report with "
    "sources."
)
PAGE = (
    "Solid-state batteries replace the liquid electrolyte with a solid one. In 2025 several carmakers "
    "announced pilot lines; yields remain low and interfaces degrade. Analysts disagree on dates. "
) * 60
CODE = "def handler(event):\n    order = load(event['order_id'])\n    return settle(order)\n\n" * 150
REACT = (
    "Answer the following questions as best you can. You have access to the following tools:\n\nSearch: "
    "looks things up\n\nUse the following format:\n\nQuestion: the input question\nThought: think\nAction: "
    "the action, one of [Search]\nAction Input: the input\nObservation: the result\n... \nFinal Answer: the "
    "final answer\n\nBegin!\n\nQuestion: "
)
SMOL = (
    "You are an expert assistant who can solve any task using tool calls. To do so, you have been given "
    'access to some tools. ... Action:\n{"name": "final_answer", "arguments": {"answer": "..."}}'
)


def todo(*statuses: str) -> tuple[str, Json]:
    return (
        "TodoWrite",
        {"todos": [{"content": f"Step {i}", "status": s, "activeForm": ""} for i, s in enumerate(statuses)]},
    )


def plan(*statuses: str) -> tuple[str, Json]:
    return ("update_plan", {"plan": [{"step": f"Step {i}", "status": s} for i, s in enumerate(statuses)]})


FIRST = [
    # -- planning
    Case(
        "planning",
        "claude code, first step",
        [
            sy(CLAUDE_CODE),
            us("<system-reminder>\nToday is 2026-11-20.\n</system-reminder>"),
            us("The checkout tests fail since yesterday. Find out why and fix it."),
        ],
        CODING,
    ),
    Case(
        "planning",
        "codex, first step",
        [
            sy(CODEX_CLI),
            us("<environment_context>\n<cwd>/repo</cwd>\n</environment_context>"),
            us("add retries to the uploader"),
        ],
        CODEX,
        "auto",
    ),
    Case(
        "planning",
        "openai-agents, first step",
        [sy(SUPPORT), us("Hi, my order 88412 never arrived. Can I get a refund?")],
        "find_order refund transfer_to_human",
    ),
    Case(
        "planning",
        "langgraph, a second task in the same thread",
        [
            sy(HELPER),
            us("What's the weather in Oslo?"),
            ai("", ("get_weather", {"city": "Oslo"})),
            to("4 °C"),
            ai("It is 4 °C in Oslo."),
            us("And compare the next ten days with Bergen and Tromsø."),
        ],
        "get_weather get_forecast",
    ),
    Case(
        "planning",
        "pydantic-ai with an output tool among others",
        [sy("Plan trips."), us("Three days in Lisbon with kids, below 900 euros.")],
        "search_flights search_hotels final_result",
        "required",
    ),
    Case(
        "planning",
        "vercel ai, research",
        [sy(RESEARCH), us("What is the state of solid-state batteries?")],
        "web_search fetch_page",
        "auto",
    ),
    Case(
        "planning",
        "langchain's react prompt, first step",
        [
            us(
                REACT
                + "Who is the president of the country where the inventor of dynamite was born?\nThought:"
            )
        ],
        stop=("\nObservation",),
    ),
    Case(
        "planning",
        "smolagents, first step",
        [sy(SMOL), us("New task:\nHow many studio albums did Mercedes Sosa publish from 2000 to 2009?")],
        "web_search visit_webpage final_answer",
        "required",
        stop=("Observation:", "Calling tools:"),
    ),
    # -- tool selection
    Case(
        "tool_selection",
        "claude code reads a file",
        [
            sy(CLAUDE_CODE),
            us("The checkout tests fail. Fix it."),
            ai("", ("Grep", {"pattern": "settle"})),
            to("src/pay.py:3: def handler"),
            ai("", ("Read", {"file_path": "/r/src/pay.py"})),
            to(CODE),
        ],
        CODING,
    ),
    Case(
        "tool_selection",
        "claude code with reminders behind the result",
        [
            sy(CLAUDE_CODE),
            us("Rename load() everywhere."),
            ai("", todo("in_progress", "pending")),
            to("Todos have been modified successfully."),
            us("<system-reminder>\nYour todo list has changed. Do not mention this.\n</system-reminder>"),
        ],
        CODING,
    ),
    Case(
        "tool_selection",
        "codex lists files",
        [
            sy(CODEX_CLI),
            us("add retries to the uploader"),
            ai("I'll look at the uploader first.", ("shell", {"command": ["ls", "src"]})),
            to('{"output":"api.py\\nuploader.py\\n","metadata":{"exit_code":0}}'),
        ],
        CODEX,
        "auto",
    ),
    Case(
        "tool_selection",
        "codex keeps a plan with open entries",
        [
            sy(CODEX_CLI),
            us("add retries"),
            ai("", plan("completed", "in_progress", "pending")),
            to("Plan updated"),
        ],
        CODEX,
        "auto",
    ),
    Case(
        "tool_selection",
        "a lookup in support",
        [
            sy(SUPPORT),
            us("My order 88412 never arrived. Can I get a refund?"),
            ai("", ("find_order", {"q": "88412"})),
            to('{"id": 88412, "status": "lost", "total": 42.1}'),
        ],
        "find_order refund transfer_to_human",
    ),
    Case(
        "tool_selection",
        "several calls at once",
        [
            sy(HELPER),
            us("Compare the prices of these three suppliers and order from the cheapest."),
            ai("", ("price", {"q": "a"}), ("price", {"q": "b"}), ("price", {"q": "c"})),
            to('{"eur": 12.4}', '{"eur": 11.9}', '{"eur": 13.0}'),
        ],
        "price place_order",
    ),
    Case(
        "tool_selection",
        "the search's own hits",
        [
            sy(RESEARCH),
            us("What is the state of solid-state batteries?"),
            ai("", ("web_search", {"q": "solid-state batteries 2026"})),
            to(
                '[{"title": "Solid state", "url": "https://a.example/1"}, {"title": "B", "url": "https://b"}]'
            ),
        ],
        "web_search fetch_page",
        "auto",
    ),
    Case(
        "tool_selection",
        "a tool that failed",
        [
            sy(HELPER),
            us("Book the room for Tuesday."),
            ai("", ("book", {"q": "tuesday"})),
            to("Error: room 4 is taken at that time. Try another room."),
        ],
        "book list_rooms",
    ),
    Case(
        "tool_selection",
        "a react observation in the prompt",
        [
            us(
                REACT
                + "Who invented dynamite?\nThought: I should search.\nAction: Search\nAction Input: dynamite"
                "\nObservation: Dynamite is an explosive.\nThought:"
            )
        ],
        stop=("\nObservation",),
    ),
    Case(
        "tool_selection",
        "smolagents tells its observation as the user",
        [
            sy(SMOL),
            us("New task:\nHow many albums?"),
            ai(
                "Calling tools:\n[{'id': 'call_1', 'type': 'function', 'function': {'name': 'web_search', "
                "'arguments': {'query': 'Mercedes Sosa'}}}]"
            ),
            us("Observation:\nMercedes Sosa was an Argentine singer (born 1935)."),
        ],
        "web_search visit_webpage final_answer",
        "required",
        stop=("Observation:", "Calling tools:"),
    ),
    Case(
        "tool_selection",
        "the user only says to go on",
        [
            sy(HELPER),
            us("Migrate all twelve tables."),
            ai("", ("migrate", {"q": "users"})),
            to("ok"),
            ai("The first table is migrated."),
            us("continue"),
        ],
        "migrate check",
    ),
    # -- extraction
    Case(
        "extraction",
        "fields of an invoice",
        [
            sy("You file invoices."),
            us("Extract vendor, date and total from invoice 7731."),
            ai("", ("read_invoice", {"q": "7731"})),
            to("ACME GmbH, Rechnung vom 3.4.2026 ... Summe 1.204,00 €"),
        ],
        "read_invoice",
    ),
    Case(
        "extraction",
        "values as json",
        [
            sy("Return only a JSON object with the fields name, email and phone of the contact."),
            us("https://acme.example/contact"),
            ai("", ("fetch_page", {"url": "https://acme.example/contact"})),
            to("Contact: Jane Roe, jane@acme.example, +49 30 1234"),
        ],
        "fetch_page",
    ),
    # -- digest
    Case(
        "digest",
        "a long page of the web",
        [
            sy(RESEARCH),
            us("What is the state of solid-state batteries?"),
            ai("", ("web_search", {"q": "solid-state batteries 2026"})),
            to('[{"url": "https://a.example/1"}]'),
            ai("", ("fetch_page", {"url": "https://a.example/1"})),
            to(PAGE),
        ],
        "web_search fetch_page",
        "auto",
    ),
    Case(
        "digest",
        "a summary chain",
        [us("Write a concise summary of the following:\n\n" + PAGE + "\n\nCONCISE SUMMARY:")],
    ),
    Case(
        "digest",
        "claude code compacts",
        [
            sy("You are a helpful AI assistant tasked with summarizing conversations."),
            us("Fix the tests."),
            ai("", ("Read", {"file_path": "/r/a.py"})),
            to(CODE),
            ai("Fixed."),
            us(
                "Your task is to create a detailed summary of the conversation so far, paying close attention to "
                "the user's explicit requests and your previous actions.\nThis summary should be thorough."
            ),
        ],
    ),
    # -- synthesis
    Case(
        "synthesis",
        "no tools after results",
        [
            sy(RESEARCH),
            us("What is the state of solid-state batteries?"),
            ai("", ("fetch_page", {"url": "https://a.example/1"})),
            to("Pilot lines run; yields are low."),
        ],
    ),
    Case(
        "synthesis",
        "no choice of tools",
        [sy(SUPPORT), us("Where is my order?"), ai("", ("find_order", {"q": "1"})), to('{"status": "sent"}')],
        "find_order",
        "none",
    ),
    Case(
        "synthesis",
        "every entry of the list is ticked",
        [
            sy(CLAUDE_CODE),
            us("Fix both bugs."),
            ai("", ("Edit", {"file_path": "/r/a.py"})),
            to("ok"),
            ai("", todo("completed", "completed", "completed")),
            to("Todos have been modified successfully."),
        ],
        CODING,
    ),
    Case(
        "synthesis",
        "codex has done its plan",
        [sy(CODEX_CLI), us("add retries"), ai("", plan("completed", "completed")), to("Plan updated")],
        CODEX,
    ),
    Case(
        "synthesis",
        "announced",
        [
            sy(RESEARCH),
            us("Compare the two cities."),
            ai("", ("fetch_page", {"url": "https://a"})),
            to("A: 4"),
            ai(
                "One last check, then I have all the information I need to write the report.",
                ("fetch_page", {"url": "https://b"}),
            ),
            to("B: 7"),
        ],
        "web_search fetch_page",
    ),
    Case(
        "synthesis",
        "a landing",
        [
            sy(HELPER),
            us("Audit the repository."),
            ai("", ("grep", {"q": "eval("})),
            to("none"),
            us(
                "This run has reached its limit, and this is its last step. Answer now from what you already "
                "know, say what is missing or uncertain, and start nothing new."
            ),
        ],
        "grep read",
    ),
    Case(
        "synthesis",
        "the plan's steps are done",
        [
            sy(HELPER),
            us("How do our prices compare?"),
            ai(
                "Plan:\n1. Get our price list\n2. Get the competitor's price list\n3. Write the comparison",
                ("prices", {"q": "us"}),
            ),
            to("a 10"),
            ai("", ("prices", {"q": "them"})),
            to("a 12"),
        ],
        "prices",
    ),
    Case(
        "synthesis",
        "smolagents ran out of steps",
        [
            sy(
                "An agent tried to answer a user query but it got stuck and failed to do so. You are tasked with "
                "providing an answer instead. Here is the agent's memory:"
            ),
            us("New task:\nHow many albums?"),
            ai("Calling tools:\n[{'id': 'call_1'}]"),
            us("Observation:\nthree albums"),
            us("Based on the above, please provide an answer to the following user task:\nHow many albums?"),
        ],
    ),
    # -- reflection
    Case(
        "reflection",
        "review your own work",
        [
            sy(HELPER),
            us("Write a function that parses dates."),
            ai("def parse(s): ..."),
            us("Review your code above critically. List any bugs or edge cases you missed."),
        ],
    ),
    Case(
        "reflection",
        "a grader",
        [
            sy(
                "You are a teacher grading an essay submission. Generate critique and recommendations for the "
                "user's submission. Provide detailed recommendations."
            ),
            us("Essay: The Little Prince ..."),
        ],
    ),
    # -- formatting
    Case(
        "formatting",
        "a schema, one shot",
        [sy("You are helpful."), us("Jane is 34 years old.")],
        schema=_PERSON,
    ),
    Case(
        "formatting",
        "langgraph's last call",
        [
            sy(HELPER),
            us("Who won?"),
            ai("", ("search", {"q": "final"})),
            to("Jane, 34"),
            ai("Jane won; she is 34."),
        ],
        schema=_PERSON,
    ),
    Case("formatting", "one forced tool", [us("Jane is 34 years old.")], "Person", "Person"),
    # -- title
    Case(
        "title",
        "claude code asks for a topic",
        [
            sy(
                "Analyze if this message indicates a new conversation topic. If it does, extract a 2-3 word title "
                "that captures the new topic. Format your response as a JSON object with two fields: 'isNewTopic' "
                "(boolean) and 'title' (string, or null)."
            ),
            us("fix the tests"),
        ],
        limit=512,
    ),
    Case(
        "title",
        "a chat's title",
        [
            sy(
                "you will generate a short title based on the first message a user begins a conversation with\n"
                "- ensure it is not more than 80 characters long"
            ),
            us("What is the weather in Rome?"),
        ],
    ),
    Case(
        "title",
        "open webui's tags",
        [
            us(
                "### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history, along with "
                "1-3 more specific subtopic tags.\n\n### Chat History:\n<chat_history>\nUSER: hi\n"
                "</chat_history>"
            )
        ],
    ),
    Case("title", "a probe of the quota", [us("quota")], limit=1),
    # -- retry
    Case("retry", "the same once more", [sy(SUPPORT), us("Where is my order?")], "find_order", retry=True),
    # -- other
    Case("other", "small talk", [sy(HELPER), us("Tell me a joke about cats.")]),
    Case("other", "a chat", [sy(HELPER), us("Hi"), ai("Hello!"), us("What is the capital of Peru?")]),
]


SECOND = [
    # -- planning
    Case(
        "planning",
        "claude code, a new task after an answer",
        [
            sy(CLAUDE_CODE),
            us("What does settle() do?"),
            ai("", ("Grep", {"pattern": "settle"})),
            to("src/pay.py:3"),
            ai("It settles an order."),
            us("Good. Add a timeout of 5 s to it, with a test."),
        ],
        CODING,
    ),
    Case(
        "planning",
        "crewai's task",
        [
            sy(
                "You are Senior Analyst. Your personal goal is: find trends.\nYou ONLY have access to the following "
                "tools"
            ),
            us("Current Task: Analyse the sales of Q3 by region and explain the drop in the north."),
        ],
        "query_sales read_document",
    ),
    Case(
        "planning",
        "a ticket for a sub-agent",
        [
            sy(
                "You are an agent for Claude Code. Given the user's message, use the tools available to complete "
                "the task."
            ),
            us("Find all places where retries are configured. Thoroughness: medium."),
        ],
        "Bash Glob Grep Read",
    ),
    Case(
        "planning",
        "openai-agents triage",
        [sy("Route the customer to the right agent."), us("my invoice is wrong and I want to cancel")],
        "transfer_to_billing transfer_to_retention",
        "auto",
    ),
    Case(
        "planning",
        "autogen",
        [
            sy(
                "You are a helpful AI assistant. Solve tasks using your tools. Reply with TERMINATE when done."
            ),
            us("Plot the closing price of NVDA for the last year."),
        ],
        "run_python get_prices",
    ),
    Case(
        "planning",
        "german",
        [sy("Du bist ein Reiseassistent."), us("Buche mir den guenstigsten Zug nach Hamburg am Freitag.")],
        "suche_zug buche_zug",
    ),
    Case(
        "planning",
        "text agent of smolagents writing code",
        [
            sy("You are an expert assistant who can solve any task using code blobs. ... <end_code>"),
            us("New task:\nWhat is the 118th prime?"),
        ],
        stop=("Observation:", "<end_code>"),
    ),
    # -- tool selection
    Case(
        "tool_selection",
        "claude code runs the tests",
        [
            sy(CLAUDE_CODE),
            us("Make the tests pass."),
            ai("Let me run them.", ("Bash", {"command": "pytest"})),
            to("E   AssertionError: 3 != 4\n1 failed, 11 passed in 2.31s"),
        ],
        CODING,
    ),
    Case(
        "tool_selection",
        "claude code greps a lot",
        [
            sy(CLAUDE_CODE),
            us("Summarize the architecture of this repository."),
            ai("", ("Grep", {"pattern": "class "})),
            to("src/a.py:1: class A\n" * 600),
        ],
        CODING,
    ),
    Case(
        "tool_selection",
        "half of the list is ticked",
        [
            sy(CLAUDE_CODE),
            us("Do the migration."),
            ai("", todo("completed", "completed", "in_progress", "pending")),
            to("Todos have been modified."),
        ],
        CODING,
    ),
    Case(
        "tool_selection",
        "codex reads a test",
        [
            sy(CODEX_CLI),
            us("fix flaky test"),
            ai("", ("shell", {"command": ["sed", "-n", "1,80p", "t.py"]})),
            to('{"output":"import pytest\\n","metadata":{"exit_code":0}}'),
        ],
        CODEX,
        "auto",
    ),
    Case(
        "tool_selection",
        "a database's schema",
        [
            sy("You are an agent designed to interact with a SQL database."),
            us("Which artist sold most?"),
            ai("", ("sql_db_list_tables", {})),
            to("albums, artists, invoices, invoice_items"),
        ],
        "sql_db_list_tables sql_db_schema sql_db_query",
    ),
    Case(
        "tool_selection",
        "permission denied",
        [
            sy(SUPPORT),
            us("Cancel my contract."),
            ai("", ("cancel", {"q": "1"})),
            to('{"error": "verification required"}'),
        ],
        "cancel verify transfer_to_human",
    ),
    Case(
        "tool_selection",
        "planning aloud to write later",
        [
            sy(RESEARCH),
            us("Compare three laptops."),
            ai(
                "I'll search for reviews of each laptop first, then write the comparison.",
                ("web_search", {"q": "laptop a review"}),
            ),
            to('[{"title": "Review A", "url": "https://a"}]'),
        ],
        "web_search fetch_page",
    ),
    Case(
        "tool_selection",
        "second of four steps",
        [
            sy(HELPER),
            us("Prepare the board meeting."),
            ai(
                "1. Fetch the figures\n2. Fetch the minutes\n3. Fetch the agenda\n4. Write the summary",
                ("fetch", {"q": "figures"}),
            ),
            to("12.4 M"),
            ai("", ("fetch", {"q": "minutes"})),
            to("Present: all"),
        ],
        "fetch",
    ),
    Case(
        "tool_selection",
        "vercel ai, weather in several places",
        [
            sy(HELPER),
            us("Is it warmer in Rome or in Athens?"),
            ai("", ("weather", {"q": "Rome"})),
            to('{"temperature": 24}'),
        ],
        "weather",
        "auto",
    ),
    Case(
        "tool_selection",
        "mini-swe-agent in plain text",
        [
            sy(
                "You can interact with a computer through a shell. Reply with one command in triple backticks."
            ),
            us("Fix the bug in parser.c"),
            ai("THOUGHT: look\n```bash\nls\n```"),
            us("<returncode>0</returncode>\n<output>\nparser.c\n</output>"),
        ],
    ),
    Case(
        "tool_selection",
        "a browser's page",
        [
            sy("You are a browser agent."),
            us("Buy two tickets for the concert on Friday."),
            ai("", ("click", {"q": "e12"})),
            to("- button 'Next' [ref=e14]\n- textbox 'Tickets' [ref=e15]"),
        ],
        "click type goto done",
    ),
    Case(
        "tool_selection",
        "keep going",
        [
            sy(HELPER),
            us("Check all ten hosts."),
            ai("", ("ping", {"q": "h1"})),
            to("up"),
            ai("h1 is up."),
            us("Go on with the others, please."),
        ],
        "ping",
    ),
    # -- extraction
    Case(
        "extraction",
        "order data from a mail",
        [
            sy("Extract the order number, the customer's name and the delivery date."),
            us("mail 4411"),
            ai("", ("get_mail", {"q": "4411"})),
            to("Dear team, my order 5512 (Mr. Ito) should arrive on May 3."),
        ],
        "get_mail save",
    ),
    Case(
        "extraction",
        "only one value",
        [
            sy(HELPER),
            us("Give me only the price of article 9931, nothing else."),
            ai("", ("article", {"q": "9931"})),
            to("Article 9931, drill, 129.00 EUR, in stock"),
        ],
        "article",
    ),
    Case(
        "extraction",
        "no tools any more",
        [
            sy(HELPER),
            us("Pull out the names of all signatories from contract 12."),
            ai("", ("read_contract", {"q": "12"})),
            to("... signed: A. Berg, C. Diaz"),
        ],
    ),
    # -- digest
    Case(
        "digest",
        "a transcript",
        [
            sy("You prepare meetings."),
            us("What was decided in Monday's call?"),
            ai("", ("get_transcript", {"q": "monday"})),
            to("Anna: I think we should wait. Ben: no. " * 300),
        ],
        "get_transcript list_meetings",
    ),
    Case(
        "digest",
        "several articles at once",
        [
            sy(RESEARCH),
            us("What do analysts think of the merger?"),
            ai("", ("fetch_page", {"url": "https://a"}), ("fetch_page", {"url": "https://b"})),
            to(PAGE[:4000], PAGE[4000:9000]),
        ],
        "web_search fetch_page",
    ),
    Case(
        "digest",
        "a long text without tools",
        [sy("You are a helpful assistant."), us("Give me the key points of this article:\n\n" + PAGE)],
    ),
    Case(
        "digest",
        "codex compacts",
        [
            sy(CODEX_CLI),
            us("add retries"),
            ai("", ("shell", {"command": ["cat", "u.py"]})),
            to(CODE),
            ai("Done."),
            us(
                "You are performing a CONTEXT CHECKPOINT COMPACTION. Create a handoff summary for another LLM "
                "that will resume the task."
            ),
        ],
    ),
    # -- synthesis
    Case(
        "synthesis",
        "langgraph's answer node",
        [
            sy("You are an assistant for question-answering tasks. Use the retrieved context."),
            us("Who may approve expenses?"),
            ai("", ("retrieve", {"q": "expenses"})),
            to("Expenses are approved by the head of department."),
        ],
    ),
    Case(
        "synthesis",
        "only the final tool is left",
        [
            sy("Plan trips."),
            us("Three days in Lisbon."),
            ai("", ("search_hotels", {"q": "Lisbon"})),
            to("Hotel A 80 EUR"),
        ],
        "final_result",
        "required",
    ),
    Case(
        "synthesis",
        "the final tool is forced",
        [sy(HELPER), us("How many albums?"), ai("", ("web_search", {"q": "albums"})), to("three")],
        "web_search final_answer",
        "final_answer",
    ),
    Case(
        "synthesis",
        "enough is known",
        [
            sy(RESEARCH),
            us("Which of the two vendors is cheaper for 40 seats?"),
            ai("", ("fetch_page", {"url": "https://a"})),
            to("9 per seat"),
            ai(
                "I now have enough information; let me just verify the currency.",
                ("fetch_page", {"url": "https://b"}),
            ),
            to("All prices in EUR."),
        ],
        "web_search fetch_page",
    ),
    Case(
        "synthesis",
        "all boxes are ticked",
        [
            sy(HELPER),
            us("Run the release checklist."),
            ai("", ("tag", {"q": "v2"})),
            to("tagged"),
            ai("- [x] tag\n- [x] build\n- [x] publish", ("publish", {"q": "v2"})),
            to("published v2"),
        ],
        "tag build publish",
    ),
    Case(
        "synthesis",
        "nothing remains in the queue",
        [
            sy("Process the queue."),
            us("Process all refunds and report."),
            ai("", ("refund", {"q": "8"})),
            to('{"processed": 8, "remaining": 0}'),
        ],
        "refund next",
    ),
    Case(
        "synthesis",
        "the user wants the report",
        [
            sy(RESEARCH),
            us("Look into heat pumps."),
            ai("", ("web_search", {"q": "heat pumps"})),
            to("COP of 4"),
            ai("I found several sources."),
            us("Good. Now write the report, two pages."),
        ],
        "web_search fetch_page",
    ),
    Case(
        "synthesis",
        "steps are used up",
        [
            sy(HELPER),
            us("Audit the hosts."),
            ai("", ("scan", {"q": "h1"})),
            to("ok"),
            us("You have reached the maximum number of steps. Give your final answer."),
        ],
        "scan",
    ),
    Case(
        "synthesis",
        "deepagents' list is done",
        [
            sy(RESEARCH),
            us("Survey of vector databases."),
            ai("", ("fetch_page", {"url": "x"})),
            to("fast"),
            ai("", ("write_todos", {"todos": [{"content": "a", "status": "completed"}]})),
            to("Updated todo list to [...]"),
        ],
        "write_todos fetch_page",
    ),
    # -- reflection
    Case(
        "reflection",
        "are you sure",
        [
            sy(HELPER),
            us("Prove that the sum is even."),
            ai("Assume n is odd ..."),
            us("Are you sure? Check your proof for gaps before we go on."),
        ],
    ),
    Case(
        "reflection",
        "reflexion",
        [
            sy(HELPER),
            us("Solve the puzzle."),
            ai("The answer is 12."),
            us(
                "That was incorrect. Reflect on what you did wrong in your previous attempt and write down what "
                "to do differently."
            ),
        ],
    ),
    Case(
        "reflection",
        "a critic",
        [
            sy("You are a strict code reviewer. Critique the following patch and point out defects."),
            us("diff --git a/x b/x"),
        ],
    ),
    # -- formatting
    Case(
        "formatting",
        "pydantic-ai with an output tool alone",
        [sy("Classify tickets."), us("The app crashes when I log in.")],
        "final_result",
        "required",
    ),
    Case("formatting", "vercel's generateObject", [us("Generate a lasagna recipe.")], schema=_PERSON),
    Case(
        "formatting", "instructor", [sy(HELPER), us("Extract: Jason is 25 years old")], "UserInfo", "UserInfo"
    ),
    # -- title
    Case(
        "title",
        "claude code names a session",
        [
            sy(
                "Generate a concise, sentence-case title (3-7 words) that captures the main topic or goal of this "
                "coding session."
            ),
            us("add retries to the uploader"),
        ],
    ),
    Case(
        "title",
        "opencode",
        [
            sy("You are a title generator. You output ONLY a thread title. Nothing else."),
            us("Generate a title for this conversation:"),
            us("why does the build fail?"),
        ],
    ),
    Case(
        "title",
        "follow-up questions",
        [
            us(
                "### Task:\nSuggest 3-5 relevant follow-up questions or prompts that the user might naturally ask "
                "next.\n### Chat History:\nUSER: hi"
            )
        ],
    ),
    Case(
        "title",
        "a memory's summary",
        [
            us(
                "Progressively summarize the lines of conversation provided, adding onto the previous summary "
                "returning a new summary.\nNew lines of conversation:\nHuman: hi\nAI: hello"
            )
        ],
    ),
    Case(
        "title",
        "claude code asks for a command's prefix",
        [
            sy(
                "Your task is to process Bash commands that an AI coding agent wants to run. This policy spec "
                "defines how to determine the prefix of a Bash command:\n<policy_spec>"
            ),
            us("Command: git status"),
        ],
    ),
    # -- retry
    Case(
        "retry",
        "results sent twice",
        [sy(SUPPORT), us("Where is it?"), ai("", ("find_order", {"q": "1"})), to("{}")],
        "find_order",
        retry=True,
    ),
    # -- other
    Case("other", "translation", [sy("Translate into French."), us("The house is small.")]),
    Case(
        "other",
        "a question about a document",
        [
            sy("Answer from the context."),
            us("Context: The office opens at 9.\n\nQuestion: When does it open?"),
        ],
    ),
    Case("other", "an essay", [us("Write an essay about the sea in 300 words.")]),
]

THIRD = [
    Case(
        "planning",
        "the last step of something else",
        [
            sy(HELPER),
            us("Do step one."),
            ai("", ("run", {"q": "1"})),
            to("ok"),
            ai("Step one is done."),
            us("Now do the last step of the guide as well."),
        ],
        "run",
    ),
    Case(
        "planning",
        "french",
        [sy("Tu es un assistant de voyage."), us("Trouve-moi un vol pour Rome vendredi.")],
        "vols hotels",
    ),
    Case(
        "planning",
        "a hook's note and a task",
        [
            sy(CLAUDE_CODE),
            us("Why is CI red?"),
            ai("The linter fails."),
            us("<system-reminder>\nCLAUDE.md changed\n</system-reminder>"),
            us("ok fix the linter errors then"),
        ],
        CODING,
    ),
    Case(
        "planning",
        "a correction of the plan",
        [
            sy(HELPER),
            us("Book a table."),
            ai("", ("book", {"q": "7pm"})),
            to("full"),
            ai("Seven is full. Shall I try eight?"),
            us("No, try the Italian place on Main Street instead, at seven."),
        ],
        "book search",
    ),
    Case(
        "planning",
        "task with json words",
        [sy("You are a data engineer."), us("Load events.json into the warehouse and fix broken rows.")],
        "sql read_file",
    ),
    Case(
        "planning",
        "task asks for a report in the end",
        [sy(RESEARCH), us("Research heat pumps and write a report with a summary.")],
        "web_search fetch_page",
    ),
    Case(
        "planning",
        "open interpreter style",
        [sy("You are Open Interpreter."), us("Convert all my png files to jpg")],
        "execute",
    ),
    Case(
        "planning",
        "user mentions steps",
        [sy(HELPER), us("Explain and then perform the last step of the migration guide.")],
        "read run",
    ),
    Case(
        "tool_selection",
        "a calculator",
        [
            sy(HELPER),
            us("What is 17% of 3,941 plus tax?"),
            ai("", ("calc", {"e": "0.17*3941"})),
            to("669.97"),
        ],
        "calc tax",
    ),
    Case(
        "tool_selection",
        "first turn announces a report",
        [
            sy(RESEARCH),
            us("Report on heat pumps."),
            ai("I will gather data, then write the final report.", ("web_search", {"q": "hp"})),
            to('[{"title": "HP"}]'),
        ],
        "web_search fetch_page",
    ),
    Case(
        "tool_selection",
        "more pages to come",
        [
            sy(HELPER),
            us("Count all users."),
            ai("", ("users", {"page": 1})),
            to('{"users": ["a", "b"], "has_more": true, "remaining": 40}'),
        ],
        "users",
    ),
    Case(
        "tool_selection",
        "todo list just written",
        [
            sy(RESEARCH),
            us("Survey"),
            ai("", ("write_todos", {"todos": [{"content": "a", "status": "pending"}]})),
            to("Updated todo list"),
        ],
        "write_todos web_search",
    ),
    Case(
        "tool_selection",
        "test log",
        [
            sy(CODEX_CLI),
            us("fix tests"),
            ai("", ("shell", {"command": ["pytest"]})),
            to("12 passed, 1 failed\n" + "trace line\n" * 900),
        ],
        CODEX,
    ),
    Case(
        "tool_selection",
        "needs more before answering",
        [
            sy(RESEARCH),
            us("Which is cheaper?"),
            ai("", ("fetch_page", {"u": "a"})),
            to("9"),
            ai(
                "I don't have enough information yet, so let me check the other vendor.",
                ("fetch_page", {"u": "b"}),
            ),
            to("contact us"),
        ],
        "fetch_page",
    ),
    Case(
        "tool_selection",
        "cline",
        [
            sy("You are Cline, a highly skilled software engineer."),
            us("<task>Rename foo</task>"),
            ai("<read_file><path>a.py</path></read_file>"),
            us("[read_file for 'a.py'] Result:\n\ndef foo(): ..."),
        ],
    ),
    Case(
        "tool_selection",
        "handing over",
        [
            sy("Billing agent."),
            us("my invoice is wrong"),
            ai("", ("transfer_to_billing", {})),
            to('{"assistant": "billing"}'),
        ],
        "get_invoice refund",
    ),
    Case(
        "tool_selection",
        "yes",
        [
            sy(SUPPORT),
            us("Cancel my order 12."),
            ai("", ("find_order", {"q": "12"})),
            to("{}"),
            ai("Shall I cancel it?"),
            us("proceed"),
        ],
        "find_order cancel",
    ),
    Case(
        "extraction",
        "spanish",
        [
            sy("Extrae el nombre y el importe de la factura."),
            us("factura 9"),
            ai("", ("leer", {"q": "9"})),
            to("ACME 12 EUR"),
        ],
        "leer",
    ),
    Case(
        "extraction",
        "json keys",
        [
            sy(HELPER),
            us("Read ticket 7 and return JSON with keys severity, component and owner."),
            ai("", ("ticket", {"q": "7"})),
            to("Login broken for everyone. Owner: Kim"),
        ],
        "ticket",
    ),
    Case(
        "extraction",
        "fill in a form",
        [
            sy("Fill in the CRM form from the mail."),
            us("mail 3"),
            ai("", ("mail", {"q": "3"})),
            to("I'm Jo from ACME"),
        ],
        "mail save",
    ),
    Case(
        "digest",
        "search results with long texts",
        [sy(RESEARCH), us("What is new in fusion?"), ai("", ("tavily_search", {"q": "fusion"})), to(PAGE)],
        "tavily_search",
    ),
    Case(
        "digest",
        "pdf",
        [
            sy(HELPER),
            us("What does the contract say about liability?"),
            ai("", ("load_pdf", {"q": "c"})),
            to("§1 " + PAGE),
        ],
        "load_pdf",
    ),
    Case(
        "digest",
        "condense",
        [
            us(
                "Please condense this meeting transcript into five bullet points:\n"
                + "Anna: well. Ben: sure. " * 400
            )
        ],
    ),
    Case(
        "synthesis",
        "rag without tools",
        [sy(HELPER), us("What is our refund policy?"), ai("", ("kb", {"q": "refund"})), to("30 days.")],
    ),
    Case(
        "synthesis",
        "tools are gone, large results",
        [sy(RESEARCH), us("What do analysts think?"), ai("", ("fetch_page", {"u": "a"})), to(PAGE)],
    ),
    Case(
        "synthesis",
        "wrap up words",
        [
            sy(HELPER),
            us("Audit."),
            ai("", ("grep", {"q": "x"})),
            to("none"),
            us("Tool calls are no longer possible. Summarize your findings for the user."),
        ],
        "grep",
    ),
    Case(
        "synthesis",
        "have what i need",
        [
            sy(RESEARCH),
            us("Compare."),
            ai("", ("fetch_page", {"u": "a"})),
            to("1"),
            ai(
                "Let me get the last price. After this I have everything I need to answer.",
                ("fetch_page", {"u": "b"}),
            ),
            to("2"),
        ],
        "fetch_page",
    ),
    Case(
        "synthesis",
        "queue empty",
        [sy("Process the queue."), us("Process all."), ai("", ("next_job", {})), to("The queue is empty.")],
        "next_job",
    ),
    Case(
        "synthesis",
        "cursor's todo",
        [
            sy(HELPER),
            us("Do it."),
            ai(
                "",
                (
                    "todo_write",
                    {"todos": [{"id": "1", "status": "completed"}, {"id": "2", "status": "completed"}]},
                ),
            ),
            to("ok"),
        ],
        "todo_write edit_file",
    ),
    Case(
        "reflection",
        "double check",
        [sy(HELPER), us("What is 17*23?"), ai("391"), us("Double-check your answer step by step.")],
    ),
    Case(
        "reflection",
        "critique and tools",
        [
            sy(HELPER),
            us("Write a plan."),
            ai("1. ..."),
            us("Critique your plan and name its three weakest points."),
        ],
        "search",
    ),
    Case(
        "reflection",
        "self-refine",
        [sy("You are an expert critic of essays. Provide feedback."), us("Essay: ...")],
    ),
    Case(
        "formatting",
        "json mode with chat",
        [sy("Reply in the schema."), us("hi"), ai("hello"), us("classify this: great product")],
        schema=_PERSON,
    ),
    Case("formatting", "forced function", [sy("x"), us("Tom is 40")], "record", "record"),
    Case(
        "title",
        "langfuse style",
        [sy("Generate a short, descriptive title for this conversation in at most six words."), us("hello")],
    ),
    Case(
        "title",
        "codex ui",
        [
            us(
                "Generate a concise UI title (18-36 chars) for this task. Return only the title.\n\nadd retries"
            )
        ],
    ),
    Case(
        "title",
        "librechat",
        [
            us(
                "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. Only return the title itself.\n\nConversation:\nUser: hi"
            )
        ],
    ),
    Case(
        "title",
        "summary so far",
        [sy("Summarize the conversation below in two sentences."), us("User: hi\nAssistant: hello")],
    ),
    Case("other", "writing with a title", [us("Write a poem about spring with a title.")]),
    Case("other", "explain", [sy(HELPER), us("Explain how a title deed works.")]),
    Case(
        "other",
        "asks about a summary",
        [sy(HELPER), us("What is the difference between a summary and an abstract?")],
    ),
    Case("other", "code question", [us("How do I reverse a list in Python?")]),
]


CORPUS = [*FIRST, *SECOND, *THIRD]


def told(case: Case, surface: Surface) -> Step:
    """The case as a client of this surface sends it."""
    return CODECS[surface].parse(orjson.dumps(_TOLD[surface](case)))


def kind_of(case: Case, surface: Surface) -> Classified:
    return classify(told(case, surface), ordinal=1, is_retry=case.retry)


# -- the corpus ---------------------------------------------------------------------------------------


def test_kinds_are_told_right_on_every_surface() -> None:
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for case in CORPUS:
        for surface in _TOLD:
            asked[case.kind] += 1
            right[case.kind] += kind_of(case, surface).kind == case.kind
    assert sum(asked.values()) >= 400
    assert asked.keys() == set(get_args(StepKind))
    accuracy = {kind: right[kind] / count for kind, count in asked.items()}
    assert min(accuracy.values()) >= 0.9, accuracy


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_a_request_is_classified_alike_on_every_surface(case: Case) -> None:
    found = [kind_of(case, surface) for surface in _TOLD]
    assert len({(each.kind, each.why, each.tools, each.state, each.needs) for each in found}) == 1
    assert all(each.why and len(each.why) < 100 for each in found)


def test_an_agent_of_eight_steps_goes_from_plan_to_answer() -> None:
    turns = [sy(RESEARCH), us("What is the state of solid-state batteries?")]
    steps: list[tuple[list[Turn], StepKind]] = [
        ([], "planning"),
        ([ai("", ("web_search", {"q": "a"})), to('[{"url": "https://a"}]')], "tool_selection"),
        ([ai("", ("fetch_page", {"q": "a"})), to(PAGE)], "digest"),
        ([ai("", ("fetch_page", {"q": "b"})), to("Error: 404")], "tool_selection"),
        ([ai("", ("web_search", {"q": "b"})), to('[{"url": "https://b"}]')], "tool_selection"),
        ([ai("", ("fetch_page", {"q": "c"})), to(PAGE)], "digest"),
        ([ai("", ("web_search", {"q": "c"})), to("[]")], "tool_selection"),
        ([ai("I have enough to answer after this one.", ("fetch_page", {"q": "d"})), to(PAGE)], "synthesis"),
    ]
    for surface in _TOLD:
        so_far = list(turns)
        for new, kind in steps:
            so_far += new
            assert kind_of(Case(kind, "", so_far, "web_search fetch_page"), surface).kind == kind


# -- what else is told --------------------------------------------------------------------------------


@pytest.mark.parametrize("surface", list(_TOLD))
def test_the_prefix_is_what_was_sent_with_the_step_before(surface: Surface) -> None:
    before = [sy(HELPER), us("word " * 2_000)]
    after = [ai("", ("search", {"q": "x"})), to("result " * 500)]
    first = kind_of(Case("planning", "", before, "search"), surface)
    second = kind_of(Case("planning", "", [*before, *after], "search"), surface)
    assert first.previous_tokens == 0
    assert abs(second.previous_tokens - first.tokens) < 100
    assert second.tokens - second.previous_tokens == pytest.approx(500 * 7 / 4, abs=10)


def body(surface: Surface, **more: object) -> Step:
    base: Json = {"model": "m"}
    if surface is Surface.RESPONSES:
        base["input"] = "hi"
    else:
        base["messages"] = [{"role": "user", "content": "hi"}]
    if surface is Surface.MESSAGES:
        base["max_tokens"] = 100
    return CODECS[surface].parse(orjson.dumps({**base, **more}))


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "aaaa", "format": "wav"}}
C, R, M = Surface.CHAT, Surface.RESPONSES, Surface.MESSAGES


@pytest.mark.parametrize(
    ("step", "needs"),
    [
        (body(C), set()),
        (body(C, tools=[{"type": "function", "function": {"name": "f"}}]), {"tools"}),
        (body(C, parallel_tool_calls=True), {"parallel_tools"}),
        (body(C, parallel_tool_calls=False), set()),
        (body(C, messages=[{"role": "user", "content": [IMAGE, AUDIO]}]), {"images", "audio"}),
        (body(C, response_format={"type": "json_schema", "json_schema": {"name": "a"}}), {"json_schema"}),
        (body(C, response_format={"type": "json_object"}), set()),
        (body(R, text={"format": {"type": "json_schema", "schema": {}}}), {"json_schema"}),
        (body(M, output_config={"format": {"type": "json_schema", "schema": {}}}), {"json_schema"}),
        (body(C, reasoning_effort="low"), {"reasoning"}),
        (body(C, reasoning_effort="none"), set()),
        (body(R, reasoning={"effort": "high"}), {"reasoning"}),
        (body(R, reasoning={"effort": None, "summary": None}), set()),
        (body(M, thinking={"type": "enabled", "budget_tokens": 2000}), {"reasoning"}),
        (body(M, thinking={"type": "disabled"}), set()),
        (body(M, output_config={"effort": "low"}), {"reasoning"}),
    ],
)
def test_what_a_request_needs_of_a_model(step: Step, needs: set[str]) -> None:
    assert classify(step, ordinal=1, is_retry=False).needs == needs


SIGNED = {"type": "thinking", "thinking": "hm", "signature": "EqQB"}


@pytest.mark.parametrize(
    ("step", "state"),
    [
        (body(C), False),
        (body(R), False),
        (body(M), False),
        (body(R, previous_response_id="resp_1"), True),
        (body(R, conversation="conv_1"), True),
        (body(R, background=True), True),
        (body(R, input=[{"role": "user", "content": "a"}, {"type": "reasoning", "id": "r", "summary": []}]), True),
        (body(R, tools=[{"type": "web_search"}]), True),
        (body(R, tools=[{"type": "function", "name": "f", "parameters": {}}]), False),
        (body(R, tools=[{"type": "custom", "name": "f"}]), True),
        (body(C, web_search_options={}), True),
        (body(C, web_search_options=None, plugins=[]), False),
        (body(M, messages=[{"role": "assistant", "content": [SIGNED]}]), True),
        (body(M, messages=[{"role": "user", "content": '{"type": "thinking", "signature": "x"}'}]), False),
        (body(M, tools=[{"type": "custom", "name": "f", "input_schema": {}}]), False),
        (body(M, tools=[{"type": "bash_20250124", "name": "bash"}]), True),
        (body(M, mcp_servers=[{"type": "url", "url": "https://a", "name": "a"}]), True),
        (body(M, messages=[{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}]), False),
    ],
)  # fmt: skip
def test_what_depends_on_one_provider(step: Step, state: bool) -> None:
    assert classify(step, ordinal=1, is_retry=False).state is state


# -- edges ---------------------------------------------------------------------------------------------


def made(items: tuple[Item, ...], body: Json | None = None) -> Step:
    return Step(
        surface=Surface.CHAT, model="m", stream=False, body=body or {}, raw=b"", items=items, tools=(),
        output_limit=None, choices=1, wants_usage=False, text_bytes=0,
    )  # fmt: skip


ODD: list[Any] = [
    None,
    True,
    0,
    1.5,
    "",
    "x",
    [],
    {},
    [None],
    [[]],
    [{}],
    {"type": None},
    {"type": []},
    {"name": 3},
]
FIELDS = (
    "tool_choice", "function_call", "response_format", "output_format", "text", "output_config", "stop",
    "stop_sequences", "reasoning", "thinking", "tools", "messages", "input", "plugins", "reasoning_effort",
)  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", ODD, ids=repr)
def test_no_shape_of_a_body_breaks_it(field: str, value: Any) -> None:
    items = (Item(Role.USER, (Text("hi", ()),)), Item(Role.ASSISTANT), Item(Role.TOOL), Item(Role.USER))
    for count in range(len(items) + 1):
        step = made(items[:count], {field: value, "messages": [{"role": "assistant", field: value}]})
        assert classify(step, ordinal=1, is_retry=False).why
        if field in ("messages", "input"):
            assert classify(made(items[:count], {field: [value]}), ordinal=1, is_retry=False).why


def test_surfaces_without_a_conversation_are_other() -> None:
    raw = orjson.dumps({"model": "m", "input": "title"})
    found = classify(CODECS[Surface.EMBEDDINGS].parse(raw), ordinal=1, is_retry=False)
    assert (found.kind, found.why) == ("other", "no conversation")


def test_huge_texts_are_looked_at_near_their_ends_only() -> None:
    def seconds(size: int) -> float:
        turns = [
            sy("a " * size),
            us("b " * size),
            ai("c " * size, ("f", {"q": "d " * size})),
            to("e " * size),
        ]
        step = told(Case("other", "", turns, "f"), Surface.CHAT)
        classify(step, ordinal=1, is_retry=False)
        return min(_timed(step) for _ in range(20))

    assert seconds(1_000_000) < 5 * seconds(1_000) + 0.001


def _timed(step: Step) -> float:
    began = time.perf_counter()
    classify(step, ordinal=1, is_retry=False)
    return time.perf_counter() - began


def test_it_is_linear_in_the_number_of_items() -> None:
    def seconds(count: int) -> float:
        turns = [us("go")] + [ai("", ("f", {})), to("x")] * count
        step = told(Case("other", "", turns, "f"), Surface.CHAT)
        return min(_timed(step) for _ in range(10))

    assert seconds(20_000) < 30 * seconds(2_000) + 0.001


def test_it_is_deterministic() -> None:
    for case in CORPUS[::7]:
        assert kind_of(case, Surface.CHAT) == kind_of(case, Surface.CHAT)
