"""Reading Anthropic messages: what becomes an item, what comes back as it was answered, streams cut anywhere."""

from __future__ import annotations

import copy
import gzip
import hashlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import Answer, Item, Role, Step, Surface, Text, ToolCall
from gateway.errors import CallerError, ErrorContext, Refusal, Ruling
from gateway.metering.usage import UsageFold, read_usage
from gateway.rules.lineage import Lineage, canonical
from gateway.surfaces import messages

DATA = Path(os.environ.get("GATEWAY_SHARED_DATA") or Path(__file__).parents[4] / "shared" / "data")
FILE = DATA / "provider_exchanges_dev.jsonl.gz"
recorded = pytest.mark.skipif(not FILE.exists(), reason=f"no recorded exchanges at {FILE}")

TOOL = {"name": "weather", "description": "Tells the weather.", "input_schema": {"type": "object"}}
CIPHER = "EqMBCioIBxgC"
IMAGE = "iVBORw0KGgo="


def request(*turns: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "claude-x", "max_tokens": 64, "messages": [*turns], **fields}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": [*blocks]}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": [*blocks]}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def read(body: dict[str, Any]) -> Step:
    return messages.parse(orjson.dumps(body))


def told(item: Item) -> list[str]:
    return [each.text for each in item.texts]


def spoken(step: Step) -> list[tuple[str, list[str]]]:
    return [(item.role.value, told(item)) for item in step.items]


def at(body: Any, pointer: tuple[str | int, ...]) -> Any:
    for key in pointer:
        body = body[key]
    return body


HOSTED: list[dict[str, Any]] = [
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "rain", "id": "in Rome"}},
    {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [
        {"type": "web_search_result", "title": "Rain", "url": "https://rain.example", "encrypted_content": CIPHER, "page_age": "a day"}]},
    {"type": "web_fetch_tool_result", "tool_use_id": "srvtoolu_2", "content": {"type": "web_fetch_result", "url": "https://a.example",
        "content": {"type": "document", "title": "A", "source": {"type": "text", "media_type": "text/plain", "data": "page"}}}},
    {"type": "bash_code_execution_tool_result", "tool_use_id": "srvtoolu_3", "content": {
        "type": "bash_code_execution_result", "stdout": "out", "stderr": "err", "return_code": 0,
        "content": [{"type": "bash_code_execution_output", "file_id": "file_made"}]}},
    {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "ask", "server_name": "wiki", "input": {"q": ["who", {"n": 1}]}},
    {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "is_error": False, "content": [text("them", citations=None)]},
    {"type": "compaction", "content": "So far: rain.", "encrypted_content": CIPHER},
]  # fmt: skip
HOSTED_TEXTS = [
    "web_search", "rain", "in Rome", "Rain", "https://rain.example", "a day", "https://a.example", "A", "page",
    "out", "err", "ask", "wiki", "who", "them", "So far: rain.",
]  # fmt: skip
CONTENT: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "hm", "signature": CIPHER},
    {"type": "redacted_thinking", "data": CIPHER},
    text("It "),
    *HOSTED,
    text("rains.", citations=[{"type": "web_search_result_location", "cited_text": "rain", "url": "u", "encrypted_index": CIPHER}]),
    {"type": "tool_use", "id": "toolu_0123456789abcdef", "name": "weather", "input": {"city": "Róma", "n": 1.5}},
]  # fmt: skip
RICH = request(
    {"role": "user", "content": "Does it rain?"},
    assistant(*CONTENT),
    user(
        {"type": "tool_result", "tool_use_id": "toolu_0123456789abcdef", "is_error": False, "content": [
            text("wet"), {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": IMAGE}},
            {"type": "tool_reference", "tool_name": "umbrella"},
            {"type": "browser_state", "tabs": [{"tab_id": "t1", "title": "Tab", "url": "https://t.example", "active": True}]}]},
        text("And now?", cache_control={"type": "ephemeral"}),
        {"type": "search_result", "title": "T", "source": "S", "content": [text("found")], "citations": {"enabled": True}},
        {"type": "container_upload", "file_id": "file_up"},
    ),
    {"role": "system", "content": [{"type": "tool_addition", "tool": {
        "type": "tool_definition", "definition": {"name": "late", "description": "Came late.", "input_schema": {"type": "object"}}}}]},
    system=[text("x-anthropic-billing-header: cch=1"), text("You are", cache_control={"type": "ephemeral"}), text(" kind.")],
    tools=[TOOL, {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}, {"type": "mcp_toolset", "mcp_server_name": "wiki"}],
    tool_choice={"type": "tool", "name": "weather"},
    container={"id": "container_1", "skills": [{"type": "anthropic", "skill_id": "pptx"}, {"type": "custom", "skill_id": "skill_1"}]},
    thread={"type": "continue", "previous_message_id": "msg_before"},
    stream=True,
)  # fmt: skip


class TestRequest:
    def test_every_kind_of_content_becomes_an_item(self) -> None:
        step = read(RICH)
        assert spoken(step) == [
            ("system", ["x-anthropic-billing-header: cch=1"]),
            ("system", ["You are", " kind."]),
            ("user", ["Does it rain?"]),
            ("assistant", ["It ", "rains."]),
            ("tool", HOSTED_TEXTS),
            ("tool", ["wet", "umbrella", "t1", "Tab", "https://t.example"]),
            ("user", ["And now?", "T", "S", "found"]),
            ("system", ["late", "Came late.", "object"]),
        ]
        assert step.items[3].calls == (
            ToolCall("toolu_0123456789abcdef", "weather", '{"city":"Róma","n":1.5}'),
        )
        assert [item.call_id for item in step.items[3:7]] == [None, None, "toolu_0123456789abcdef", None]
        assert [[media.kind for media in item.media] for item in step.items[5:7]] == [["image"], ["file"]]

    def test_what_is_no_conversation_is_read_too(self) -> None:
        step = read(RICH)
        assert (step.surface, step.model, step.stream) == (Surface.MESSAGES, "claude-x", True)
        assert (step.output_limit, step.choices, step.wants_usage) == (64, 1, True)
        assert [tool.name for tool in step.tools] == ["weather", "web_search", "mcp_toolset", "late", "wiki"]
        assert (step.tools[0].description, step.tools[0].schema) == ("Tells the weather.", {"type": "object"})
        assert (step.tools[1].description, step.tools[1].schema) == ("", None)
        assert step.state == ("msg_before",)
        assert step.references == ("container_1", "skill_1", "file_up")
        assert step.text_bytes == len(step.raw) - len(IMAGE)

    def test_a_text_can_be_edited_where_its_pointer_leads(self) -> None:
        for item in read(RICH).items:
            for each in item.texts:
                assert at(RICH, each.pointer) == each.text
        step = read(RICH)
        assert step.items[1].texts[0].pointer == ("system", 1, "text")
        assert step.items[2].texts[0].pointer == ("messages", 0, "content")
        assert step.items[5].texts[0].pointer == ("messages", 2, "content", 0, "content", 0, "text")
        assert read(request(user(text("a")), system="s")).items[0] == Item(
            Role.SYSTEM, (Text("s", ("system",)),)
        )

    def test_the_billing_header_stands_alone_so_that_lineage_can_pass_it_over(self) -> None:
        def root(nonce: str) -> bytes:
            header = text(f"x-anthropic-billing-header: cc_version=2; cch={nonce}")
            step = read(request(user(text("a")), system=[header, text("You are Claude Code.")]))
            return Lineage(b"k").chain("p", step.items).root

        assert root("f00") == root("ba5")
        headers = [
            text("x-anthropic-billing-header: a"),
            text("x-anthropic-billing-header: b"),
            text("s"),
            text("t"),
        ]
        assert spoken(read(request(user(text("a")), system=headers)))[:3] == [
            ("system", [headers[0]["text"]]), ("system", [headers[1]["text"]]), ("system", ["s", "t"])]  # fmt: skip
        only_a_header = request(user(text("a")), system="x-anthropic-billing-header: cch=1")
        assert [item.role for item in read(only_a_header).items] == [Role.SYSTEM, Role.USER]
        assert [item.role for item in read(request(user(text("a")), system=[])).items] == [Role.USER]

    def test_results_stand_before_what_else_the_user_says(self) -> None:
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "r"}
        other = {"type": "tool_result", "tool_use_id": "toolu_2"}
        assert spoken(read(request(user(result, text("u"), other, text("v"))))) == [
            ("tool", ["r"]), ("tool", []), ("user", ["u", "v"])]  # fmt: skip
        assert spoken(read(request(user(text("u"), result)))) == [("user", ["u"]), ("tool", ["r"])]
        assert spoken(read(request(user(result)))) == [("tool", ["r"])]
        assert spoken(read(request(user(), {"role": "user", "content": ""}))) == [("user", []), ("user", [])]

    def test_hosted_content_is_seen_but_no_part_of_what_was_said(self) -> None:
        step = read(request(assistant(*HOSTED)))
        assert spoken(step) == [("assistant", []), ("tool", HOSTED_TEXTS)]
        assert step.references == ()
        page = {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"},
        }
        fetched = {**HOSTED[2], "content": {**HOSTED[2]["content"], "content": page}}
        result = read(request(assistant(fetched))).items[1]
        assert (told(result), [(m.kind, m.size) for m in result.media]) == (
            ["https://a.example"],
            [("file", 8)],
        )

    def test_a_block_not_known_is_media_and_never_dropped(self) -> None:
        block = {"type": "hologram", "beam": "a", "cache_control": {"type": "ephemeral"}}
        asked, said, dated = read(request(user(block), assistant(block), user({"beam": "a"}))).items[:3]
        assert [(media.kind, media.size) for media in asked.media] == [("other", 30)]
        assert (said.role, said.media) == (Role.ASSISTANT, ())
        assert (dated.role, dated.media) == (Role.TOOL, asked.media)
        reordered = {"beam": "a", "type": "hologram"}
        assert read(request(user(reordered))).items[0].media == asked.media

    def test_thinking_is_in_no_item_and_guards_find_it_all_the_same(self) -> None:
        step = read(RICH)
        assert list(messages.thinking(step.body)) == [Text("hm", ("messages", 1, "content", 0, "thinking"))]
        nothing = (
            {"type": "thinking", "thinking": ""},
            {"type": "thinking", "thinking": 5},
            {"type": "thinking"},
        )
        assert list(messages.thinking(read(request(assistant(*nothing))).body)) == []
        # Where no model can have thought it, it is a block like any other.
        assert [m.kind for m in read(request(user(CONTENT[0]))).items[0].media] == ["other"]

    @pytest.mark.parametrize(
        ("source", "texts", "media", "references"),
        [
            ({"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"}, [], ("JVBERi0x", 8), ()),
            ({"type": "url", "url": "https://a.example/b.pdf?sig=1"}, [], ("https://a.example/b.pdf", 0), ()),
            ({"type": "file", "file_id": "file_1"}, [], ("file_1", 0), ("file_1",)),
            ({"type": "text", "media_type": "text/plain", "data": "plain"}, ["plain"], None, ()),
            ({"type": "content", "content": "one"}, ["one"], None, ()),
            ({"type": "content", "content": [text("two"), {"type": "document", "source": {"type": "file", "file_id": "file_2"}}]},
             ["two"], ("file_2", 0), ("file_2",)),
            ({"type": "content"}, [], None, ()),
            ({"type": "cloud"}, [], ('{"type":"cloud"}', 16), ()),
        ],
    )  # fmt: skip
    def test_a_document_is_read_in_each_form(
        self,
        source: dict[str, Any],
        texts: list[str],
        media: tuple[str, int] | None,
        references: tuple[str, ...],
    ) -> None:
        document = {
            "type": "document",
            "source": source,
            "title": "T",
            "context": "C",
            "citations": {"enabled": True},
        }
        for block in (document, {"type": "tool_result", "tool_use_id": "t", "content": [document]}):
            step = read(request(user(block)))
            assert told(step.items[0]) == ["T", "C", *texts]
            assert [(m.digest, m.size) for m in step.items[0].media] == (
                [(hashlib.sha256(media[0].encode()).hexdigest(), media[1])] if media else []
            )
            assert step.references == references
            for each in step.items[0].texts:
                assert at(step.body, each.pointer) == each.text

    def test_a_document_without_a_title_has_no_text_for_it(self) -> None:
        source = {"type": "text", "media_type": "text/plain", "data": ""}
        assert (
            told(
                read(
                    request(user({"type": "document", "title": "", "context": None, "source": source}))
                ).items[0]
            )
            == []
        )

    def test_a_models_name_may_be_long_but_not_endless(self) -> None:
        assert read(request(user(text("a")), model="m" * 256)).model == "m" * 256
        with pytest.raises(CallerError, match="at most 256 printable characters"):
            read(request(user(text("a")), model="m" * 257))

    def test_the_cache_may_be_filled_without_an_answer(self) -> None:
        assert read(request(user(text("a")), max_tokens=0)).output_limit == 0

    def test_tokens_can_be_counted_without_a_limit_and_never_stream(self) -> None:
        body = request(user(text("a")), stream=True)
        assert messages.parse_count(orjson.dumps(body)).stream is False
        del body["max_tokens"]
        step = messages.parse_count(orjson.dumps(body))
        assert (step.stream, step.output_limit, spoken(step)) == (False, None, [("user", ["a"])])
        with pytest.raises(
            CallerError, match=r"^'max_tokens': got None, expected a whole number of at least 0\.$"
        ):
            messages.parse(step.raw)

    def test_a_system_message_may_hold_settings_alone(self) -> None:
        step = read(request({"role": "system", "output_config": {"effort": "low"}}, user(text("a"))))
        assert spoken(step) == [("system", []), ("user", ["a"])]

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"model": 5}, "'model': got 5, expected the name of a model, at most 256 printable characters."),
            ({"model": "a\n"}, "'model': got str, expected the name of a model, at most 256 printable characters."),
            ({"messages": []}, "'messages': got list, expected a list of at least one message."),
            ({"messages": ["hi"]}, "'messages[0]': got str, expected an object."),
            ({"messages": [{"content": "a"}]}, "'messages[0].role': got None, expected a role."),
            ({"messages": [{"role": "user"}]}, "'messages[0].content': got None, expected a string or a list of blocks."),
            ({"messages": [user("a")]}, "'messages[0].content[0]': got str, expected an object."),
            ({"messages": [assistant({"type": "text", "text": 1})]}, "'messages[0].content[0].text': got 1, expected a string."),
            ({"messages": [user({"type": "tool_result", "content": 5})]},
             "'messages[0].content[0].content': got 5, expected a string or a list of blocks."),
            ({"messages": [user({"type": "tool_result", "content": [{"type": "text"}]})]},
             "'messages[0].content[0].content[0].text': got None, expected a string."),
            ({"messages": [user({"type": "image"})]}, "'messages[0].content[0].source': got None, expected an object."),
            ({"messages": [user({"type": "image", "source": {"type": "file", "file_id": ["f"]}})]},
             "'messages[0].content[0].source.file_id': got list, expected a string."),
            ({"max_tokens": -1}, "'max_tokens': got -1, expected a whole number of at least 0."),
            ({"max_tokens": True}, "'max_tokens': got True, expected a whole number of at least 0."),
            ({"max_tokens": 1.5}, "'max_tokens': got 1.5, expected a whole number of at least 0."),
            ({"stream": 1}, "'stream': got 1, expected true or false."),
            ({"system": 7}, "'system': got 7, expected a string or a list of blocks."),
            ({"system": [None]}, "'system[0]': got None, expected an object."),
            ({"tools": {}}, "'tools': got dict, expected a list."),
            ({"tools": ["a"]}, "'tools[0]': got str, expected an object."),
            ({"thread": "msg_1"}, "'thread': got str, expected an object."),
            ({"thread": {"previous_message_id": 1}}, "'thread.previous_message_id': got 1, expected a string."),
            ({"container": 1}, "'container': got 1, expected an id or an object."),
            ({"container": {"id": {}}}, "'container.id': got dict, expected a string."),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_named(self, wrong: dict[str, Any], message: str) -> None:
        with pytest.raises(CallerError) as refused:
            read({**request(user(text("a"))), **wrong})
        assert (refused.value.code, refused.value.message) == ("invalid_request", message)
        assert refused.value.param == message.split("'")[1]

    def test_state_that_is_not_there_is_none(self) -> None:
        for fields in (
            {"thread": None, "container": None},
            {"thread": {"type": "create"}, "container": {}},
            {"container": ""},
        ):
            step = read(request(user(text("a")), **fields))  # fmt: skip
            assert (step.state, step.references) == ((), ())
        assert read(request(user(text("a")), container="container_2")).references == ("container_2",)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "text", "tool_use", "tool_result", "thinking", "document", "tool_addition", "error", "é"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["type", "text", "content", "source", "input", "id", "index", "tool", "usage"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*path, key)
        yield from places(part, (*path, key))


def broken(value: Any, data: st.DataObject) -> Any:
    """The value with other JSON in one or two of its places."""
    value = copy.deepcopy(value)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(list(places(value))))
        at(value, path[:-1])[path[-1]] = data.draw(JSON)
    return value


@given(st.data())
def test_a_request_of_any_shape_is_read_or_refused(data: st.DataObject) -> None:
    body = broken(RICH, data)
    raw = orjson.dumps(body)
    try:
        step = messages.parse(raw)
    except CallerError:
        return
    for item in step.items:
        for each in item.texts:
            assert at(body, each.pointer) == each.text
    list(messages.thinking(step.body))
    orjson.loads(forward(step, withheld={"weather", "late", "umbrella"}))


def forward(
    step: Step, *, model: str = "claude-x", output_limit: int | None = None, withheld: set[str] | None = None
) -> bytes:
    return messages.forward(
        step, model=model, limit_field="max_completion_tokens", output_limit=output_limit, inject_usage=True, withheld=withheld or ()
    )  # fmt: skip


class TestForward:
    def test_nothing_asked_nothing_changed(self) -> None:
        raw = b' {"model": "claude-x",\n "max_tokens": 64, "unknown": null, "messages": [{"role":"user","content":"a"}]} '
        assert forward(messages.parse(raw)) is raw

    def test_model_and_limit_are_set_and_nothing_else(self) -> None:
        step = read(RICH)
        assert orjson.loads(forward(step, model="real")) == {**RICH, "model": "real"}
        assert orjson.loads(forward(step, output_limit=9)) == {**RICH, "max_tokens": 9}
        count = messages.parse_count(b'{"model":"claude-x","messages":[{"role":"user","content":"a"}]}')
        assert orjson.loads(forward(count, model="real")) == {**count.body, "model": "real"}

    def test_withheld_tools_leave_a_request_that_providers_take(self) -> None:
        def sent(withheld: set[str], **fields: Any) -> dict[str, Any]:
            step = read(request(user(text("a")), tools=[TOOL, {**TOOL, "name": "other"}], **fields))
            body: dict[str, Any] = orjson.loads(forward(step, withheld=withheld))
            return {name: body[name] for name in ("tools", "tool_choice") if name in body}

        forced = {"type": "tool", "name": "weather"}
        assert sent({"weather"}, tool_choice=forced) == {"tools": [{**TOOL, "name": "other"}]}
        assert sent({"other"}, tool_choice=forced) == {"tools": [TOOL], "tool_choice": forced}
        assert sent({"weather"}, tool_choice={"type": "auto"})["tool_choice"] == {"type": "auto"}
        assert sent({"weather", "other"}, tool_choice={"type": "any"}) == {}
        hosted = read(request(user(text("a")), tools=[{"type": "mcp_toolset", "mcp_server_name": "w"}]))
        assert "tools" not in orjson.loads(forward(hosted, withheld={"mcp_toolset"}))

    def test_a_server_goes_with_its_toolset_and_the_other_way_round(self) -> None:
        def server(name: str) -> dict[str, Any]:
            return {"type": "url", "name": name, "url": f"https://{name}.example"}

        def toolset(name: str) -> dict[str, Any]:
            return {"type": "mcp_toolset", "mcp_server_name": name, "name": "weather"}

        def added(**tool: Any) -> dict[str, Any]:
            return {"role": "system", "content": [{"type": "tool_addition", "tool": tool}]}

        late = added(type="tool_definition", definition=toolset("late"))
        told = [
            added(type="mcp_toolset_reference", server_name="a"),
            added(type="mcp_tool_reference", server_name="a", name="ask"),
        ]
        step = read(
            request(
                user(text("hi")),
                *told,
                late,
                tools=[TOOL, toolset("a"), toolset("a")],
                mcp_servers=[server("a"), server("b"), server("a"), server("late")],
            )
        )
        names = ["weather", "mcp_toolset", "mcp_toolset", "mcp_toolset", "late", "a", "b"]
        assert [tool.name for tool in step.tools] == names

        def sent(*withheld: str) -> tuple[list[str], list[str], int]:
            body = orjson.loads(forward(step, withheld=set(withheld)))
            tools = [tool.get("mcp_server_name", "") for tool in body["tools"]]
            return tools, [each["name"] for each in body.get("mcp_servers", [])], len(body["messages"])

        assert sent("weather") == (["a", "a"], ["a", "b", "a", "late"], 4)
        assert sent("a") == ([""], ["b", "late"], 2)
        assert sent("b") == (["", "a", "a"], ["a", "a", "late"], 4)
        assert sent("late") == (["", "a", "a"], ["a", "b", "a"], 3)
        assert sent("A", "MCP_TOOLSET") == (["", "a", "a"], ["a", "b", "a", "late"], 4)
        assert sent("mcp_toolset") == ([""], [], 1)
        assert "mcp_servers" not in orjson.loads(forward(step, withheld={"mcp_toolset"}))

    def test_a_server_without_a_toolset_or_a_name_is_withheld_too(self) -> None:
        for server, names in (
            ({"name": "s"}, ["mcp_toolset", "s"]),
            ({}, ["mcp_toolset"]),
            ({"name": 5}, ["mcp_toolset"]),
        ):
            step = read(
                request(user(text("a")), mcp_servers=[{"type": "url", "url": "https://s.example", **server}])
            )
            assert [tool.name for tool in step.tools] == names
            for name in names:
                assert "mcp_servers" not in orjson.loads(forward(step, withheld={name}))

    @pytest.mark.parametrize(
        ("servers", "param"),
        [
            ({}, "mcp_servers"),
            ("s", "mcp_servers"),
            (["s"], "mcp_servers[0]"),
            ([{}, None], "mcp_servers[1]"),
        ],
    )
    def test_what_are_no_servers_is_refused(self, servers: Any, param: str) -> None:
        with pytest.raises(CallerError) as refused:
            read(request(user(text("a")), mcp_servers=servers))
        assert refused.value.param == param

    def test_a_plugin_that_searches_is_the_tool_web_search(self) -> None:
        step = read(request(user(text("a")), plugins=[{"id": "web"}]))
        assert [tool.name for tool in step.tools] == ["web_search"]
        assert "plugins" not in orjson.loads(forward(step, withheld={"web_search"}))

    def test_references_to_withheld_tools_go_with_them(self) -> None:
        def added(**tool: Any) -> dict[str, Any]:
            return {"role": "system", "content": [{"type": "tool_addition", "tool": tool}]}

        def found(*names: str) -> dict[str, Any]:
            references = [{"type": "tool_reference", "tool_name": name} for name in names]
            return {"type": "tool_search_tool_result", "tool_use_id": "s", "content": {
                "type": "tool_search_tool_search_result", "tool_references": references}}  # fmt: skip

        # The input of a call is the model's own, whatever it looks like.
        call = {
            "type": "tool_use",
            "id": "t",
            "name": "b",
            "input": {"content": [{"type": "tool_reference", "tool_name": "a"}]},
        }
        gone = [
            added(type="tool_reference", name="a"),
            added(type="tool_definition", definition={**TOOL, "name": "a"}),
        ]
        step = read(
            request(
                user(text("hi")),
                assistant(found("a", "b"), call),
                *gone,
                added(type="tool_reference", name="b"),
            )
        )
        assert orjson.loads(forward(step, withheld={"a"}))["messages"] == [
            user(text("hi")), assistant(found("b"), call), added(type="tool_reference", name="b")]  # fmt: skip


REPLY: dict[str, Any] = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x-1", "content": CONTENT, "stop_reason": "tool_use",
    "stop_sequence": None, "container": {"id": "container_9", "expires_at": "2026-01-01T00:00:00Z"},
    "usage": {"input_tokens": 3, "output_tokens": 9},
}  # fmt: skip
ANSWER = Answer(
    texts=("It rains.",),
    reasoning="hmSo far: rain.",
    calls=(ToolCall("toolu_0123456789abcdef", "weather", '{"city":"Róma","n":1.5}'),),
    finish_reason="tool_use",
    response_id="msg_1",
    model="claude-x-1",
    state=("msg_1", "file_made", "container_9"),
    hosted=("web_search", "mcp", "compaction"),
)


def as_sent_back(answer: Answer) -> bytes:
    """What lineage expects an answer to be when it comes back."""
    texts = (Text(answer.texts[0], ()),) if answer.texts and answer.texts[0] else ()
    return canonical(Item(Role.ASSISTANT, texts=texts, calls=answer.calls))


def assistants(step: Step) -> list[bytes]:
    return [canonical(item) for item in step.items if item.role is Role.ASSISTANT]


class TestAnswer:
    def test_a_reply_is_its_texts_and_the_calls_of_the_clients_tools(self) -> None:
        assert messages.read_answer(REPLY) == ANSWER
        thoughts = [
            {"type": "thinking", "thinking": "a"},
            {"type": "compaction", "content": None},
            {"type": "thinking", "thinking": "b"},
        ]
        assert messages.read_answer({"content": thoughts}) == Answer(
            texts=("",), reasoning="ab", hosted=("compaction",)
        )

    def test_what_was_answered_is_known_when_it_comes_back(self) -> None:
        turns = [*RICH["messages"][:1], assistant(*CONTENT)]
        asked, back = read(request(*turns[:1])), read(request(*turns, user(text("go on"))))
        assert assistants(back) == [as_sent_back(ANSWER)]
        lineage = Lineage(b"k")
        _, head = lineage.links("p", lineage.chain("p", asked.items), ANSWER)
        assert back.items[1].calls == ANSWER.calls
        assert head in [evidence.key for evidence in lineage.evidence("p", lineage.chain("p", back.items))]
        # Hosted results behind it do not cut the conversation off from its next turn.
        _, head = lineage.links("p", lineage.chain("p", back.items), Answer(texts=("Bye.",)))
        later = read(request(*turns, user(text("go on")), assistant(text("Bye.")), user(text("ok"))))
        assert head in [evidence.key for evidence in lineage.evidence("p", lineage.chain("p", later.items))]

    def test_thinking_may_be_dropped_and_spaces_may_change(self) -> None:
        call = {**CONTENT[-1], "input": '{"n": 1.5, "city": "R\\u00f3ma"}'}
        assert assistants(read(request(assistant(text("It rains."), call)))) == [as_sent_back(ANSWER)]

    def test_an_odd_reply_is_still_an_answer(self) -> None:
        assert messages.read_answer({}) == Answer()
        assert messages.read_answer({"type": "error", "error": {"message": "no"}}) == Answer()
        assert messages.read_answer({"content": "plain", "id": 5, "stop_reason": {}}) == Answer(
            texts=("plain",)
        )
        assert messages.read_answer({"content": [None, 3, {"type": "text"}, {"type": "tool_use"}]}) == Answer(
            texts=("",), calls=(ToolCall("", "", "{}"),)
        )
        deep: Any = 1
        for _ in range(300):
            deep = [deep]
        odd = {"content": [text("a"), {"type": "tool_use", "name": "f", "input": deep}]}
        assert messages.read_answer(odd) == Answer(texts=("a",), calls=(ToolCall("", "f", ""),))

    @given(st.data())
    def test_no_reply_is_too_odd(self, data: st.DataObject) -> None:
        messages.read_answer(broken(REPLY, data))


def event(kind: str, **fields: Any) -> bytes:
    data = orjson.dumps({"type": kind, **fields}) + b"  "
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def start(index: int, kind: str, **fields: Any) -> bytes:
    return event("content_block_start", index=index, content_block={"type": kind, **fields})


def delta(index: int, kind: str, **fields: Any) -> bytes:
    return event("content_block_delta", index=index, delta={"type": kind, **fields})


def opening(**usage: Any) -> bytes:
    return event("message_start", message={
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x-1", "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 1, **usage}})  # fmt: skip


CLOSING = event(
    "message_delta",
    delta={"stop_reason": "tool_use", "stop_sequence": None, "container": {"id": "container_9"}},
    usage={"output_tokens": 9, "input_tokens": 0, "server_tool_use": {"web_search_requests": 1}},
)
STOP = event("message_stop")
EVENTS = [
    opening(
        cache_read_input_tokens=7, cache_creation={"ephemeral_1h_input_tokens": 2}, service_tier="standard"
    ),
    start(0, "thinking", thinking="", signature=""),
    event("ping"),
    delta(0, "thinking_delta", thinking="hm"),
    delta(0, "signature_delta", signature=CIPHER),
    event("content_block_stop", index=0),
    start(1, "text", text=""),
    delta(1, "text_delta", text="It "),
    event("content_block_stop", index=1),
    start(2, "server_tool_use", id="srvtoolu_1", name="web_search", input={}),
    delta(2, "input_json_delta", partial_json='{"query": '),
    delta(2, "input_json_delta", partial_json='"rain"}'),
    start(3, "web_search_tool_result", tool_use_id="srvtoolu_1", content=HOSTED[1]["content"]),
    start(4, "bash_code_execution_tool_result", tool_use_id="srvtoolu_3", content=HOSTED[3]["content"]),
    start(5, "compaction", content=None),
    delta(5, "compaction_delta", content="So far: rain."),
    start(6, "text", text="", citations=[]),
    delta(6, "text_delta", text="rains."),
    delta(6, "citations_delta", citation={"type": "char_location", "cited_text": "rain"}),
    start(7, "tool_use", id="toolu_0123456789abcdef", name="weather", input={}),
    delta(7, "input_json_delta", partial_json=""),
    delta(7, "input_json_delta", partial_json='{"city": "Ró'),
    delta(7, "input_json_delta", partial_json='ma", "n": 1.5}'),
    event("content_block_stop", index=7),
    CLOSING,
    STOP,
]
STREAM = b"".join(EVENTS)
STREAMED = ToolCall("toolu_0123456789abcdef", "weather", '{"city": "Róma", "n": 1.5}')
GENERATED = len("hm" + "It rains." + "web_search" + '{"query": "rain"}' + "So far: rain." + "weather") + len(
    STREAMED.arguments.encode()
)
USAGE = {
    "input_tokens": 3, "cache_read_input_tokens": 7, "cache_creation": {"ephemeral_1h_input_tokens": 2}, "service_tier": "standard",
    "output_tokens": 9, "server_tool_use": {"web_search_requests": 1},
}  # fmt: skip


def fed(*chunks: bytes) -> messages.MessagesStream:
    stream = messages.stream(strip_usage=True)
    for chunk in chunks:
        stream.feed(chunk)
    return stream


def cut(body: bytes, size: int) -> Iterator[bytes]:
    return (body[i : i + size] for i in range(0, len(body), size))


def check(stream: messages.MessagesStream) -> None:
    answer = stream.answer()
    assert answer.texts == ANSWER.texts
    assert answer.reasoning == ANSWER.reasoning
    assert answer.calls == (STREAMED,)
    assert (answer.finish_reason, answer.response_id, answer.model) == ("tool_use", "msg_1", "claude-x-1")
    assert answer.state == ANSWER.state
    assert answer.hosted == ("web_search", "compaction")
    assert stream.usage == {"usage": USAGE, "model": "claude-x-1"}
    assert (stream.tools_called, stream.output_bytes) == ({"weather"}, GENERATED)
    assert (stream.done, stream.finished, stream.clean, stream.error, stream.pending) == (
        True,
        True,
        True,
        False,
        b"",
    )


def test_tools_of_the_provider_show_as_soon_as_they_begin() -> None:
    search = start(0, "server_tool_use", id="srvtoolu_1", name="web_search", input={})
    assert fed(search).answer().hosted == ("web_search",)
    assert fed(search, search, start(1, "mcp_tool_use", id="m", name="ask", input={})).answer().hosted == (
        "web_search",
        "mcp",
    )
    assert fed(search[:-1]).answer().hosted == ()
    assert fed(start(0, "tool_use", id="t", name="web_search", input={})).answer().hosted == ()
    assert messages.read_answer({"content": [{"type": "server_tool_use", "name": 3}, 7]}).hosted == ("",)


class TestStream:
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 911, len(STREAM)])
    @pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
    def test_bytes_pass_as_they_came_and_read_the_same(self, size: int, newline: bytes) -> None:
        body = STREAM.replace(b"\n", newline)
        stream = messages.stream(strip_usage=True)
        out = [stream.feed(chunk) for chunk in cut(body, size)]
        assert b"".join(out) == body
        check(stream)

    def test_only_whole_events_pass_wherever_the_stream_is_cut(self) -> None:
        for i in range(len(STREAM)):
            stream = messages.stream(strip_usage=False)
            out = stream.feed(STREAM[:i])
            assert out + stream.pending == STREAM[:i]
            assert not out or out.endswith(b"\n\n")
            assert not stream.clean
            assert out + stream.feed(STREAM[i:]) == STREAM
        check(fed(*EVENTS))

    @pytest.mark.parametrize("take", [1, 2, 5])
    def test_events_come_one_or_several_in_a_chunk(self, take: int) -> None:
        check(fed(*(b"".join(EVENTS[i : i + take]) for i in range(0, len(EVENTS), take))))

    def test_the_streamed_answer_is_known_when_it_comes_back(self) -> None:
        assert assistants(read(request(assistant(*CONTENT)))) == [as_sent_back(fed(STREAM).answer())]
        empty = fed(opening(), start(0, "tool_use", id="toolu_1", name="f", input={}), STOP)
        assert empty.answer().calls == (ToolCall("toolu_1", "f", "{}"),)

    def test_the_name_of_an_event_may_be_missing(self) -> None:
        check(fed(*(chunk[chunk.index(b"data:") :] for chunk in EVENTS)))
        check(fed(b"".join(chunk[chunk.index(b"data:") :].replace(b"data: ", b"data:") for chunk in EVENTS)))

    def test_what_is_no_event_of_this_surface_passes(self) -> None:
        noise = b": ping\n\ndata: [DONE]\n\nevent: x\ndata: {\n\nevent: y\n\ndata: 5\n\nid: 1\nevent: x\ndata: []\n\n"
        stream = messages.stream(strip_usage=False)
        assert stream.feed(noise + STREAM + noise) == noise + STREAM + noise
        check(stream)

    def test_an_event_may_be_written_in_any_way_that_event_streams_allow(self) -> None:
        stopped = (
            b'event: message_stop\ndata: {"type":\ndata: "message_stop"}\n\n',
            b'data: {"type":\ndata: "message_stop"}\n\n',
            b'id: 1\ndata: {"type":"message_stop"}\n\n',
            b'event: message_stop\ndata:{"type":"message_stop"}\n\n',
            b'event: message_stop\rdata: {"type":"message_stop"}\r\revent: ping\ndata: {"type":"ping"}\n\n',
        )
        for written in stopped:
            stream = messages.stream(strip_usage=False)
            assert stream.feed(written) == written
            assert stream.done, written

    def test_it_ends_with_its_stop_event_and_not_before(self) -> None:
        stream = fed(*EVENTS[:-2])
        assert (stream.done, stream.finished, stream.clean) == (False, False, False)
        stream.feed(CLOSING)
        assert (stream.done, stream.finished, stream.clean) == (False, True, False)
        stream.feed(STOP[:-1])
        assert (stream.done, stream.clean, stream.pending) == (False, False, STOP[:-1])
        stream.feed(b"\n")
        assert (stream.done, stream.clean) == (True, True)
        stream.feed(b"event: pi")
        assert (stream.done, stream.clean) == (True, False)

    @pytest.mark.parametrize(
        "told",
        [event("error", error={"type": "overloaded_error", "message": "later"}), b'data: {"error":{"message":"no"}}\n\n'],
    )  # fmt: skip
    def test_the_providers_own_error_is_an_end(self, told: bytes) -> None:
        stream = fed(*EVENTS[:8])
        assert stream.feed(told) == told
        assert (stream.error, stream.done, stream.finished, stream.clean) == (True, False, False, True)
        assert stream.answer().texts == ("It ",)

    def test_only_an_error_event_is_an_error(self) -> None:
        for other in (
            b'data: {"error":null}\n\n',
            b"event: e\ndata: {}\n\n",
            event("ping", error={"message": "none"}),
        ):
            assert not fed(other).error

    def test_an_answer_cut_short_keeps_what_came(self) -> None:
        stream = fed(*EVENTS[:22])
        assert stream.answer().calls == (ToolCall("toolu_0123456789abcdef", "weather", '{"city": "Ró'),)
        assert stream.answer().finish_reason is None
        assert fed().answer() == Answer()
        assert fed(opening()).answer() == Answer(
            texts=("",), response_id="msg_1", model="claude-x-1", state=("msg_1",)
        )

    def test_blocks_may_come_whole_out_of_order_or_without_a_start(self) -> None:
        stream = fed(
            delta(5, "input_json_delta", partial_json="{"),
            delta(0, "text_delta", text="a"),
            start(1, "text", text="é"),
            delta(0, "text_delta", text="b"),
            start(2, "tool_use", id="toolu_1", name="f", input={"x": 1}),
            start(2, "tool_use", id="toolu_1", name="f", input={"x": 1}),
            start(2, "tool_use", id="toolu_2", name="g", input='{"y": 2}'),
            delta(2, "text_delta", text="c"),
            start(3, "thinking", thinking="t"),
            event("content_block_delta", delta={"type": "text_delta", "text": "d"}),
        )
        answer = stream.answer()
        assert answer.texts == ("abdéc",)
        assert answer.reasoning == "t"
        assert answer.calls == (ToolCall("toolu_1", "f", '{"x":1}'), ToolCall("toolu_2", "g", '{"y": 2}'))
        assert (stream.tools_called, stream.output_bytes) == ({"f", "g"}, 1 + 1 + 2 + 1 + 8 + 9 + 1 + 1 + 1)

    @given(st.data())
    def test_no_event_is_too_odd(self, data: st.DataObject) -> None:
        parsed = [orjson.loads(chunk.split(b"data: ")[1]) for chunk in EVENTS]
        chunks = [b"event: e\ndata: %b\n\n" % orjson.dumps(each) for each in broken(parsed, data)]
        stream = messages.stream(strip_usage=False)
        assert b"".join(map(stream.feed, chunks)) == b"".join(chunks)
        stream.answer()
        if stream.usage is not None:
            read_usage(Surface.MESSAGES, stream.usage)

    def test_an_error_of_ours_ends_the_stream_as_clients_expect(self) -> None:
        refusal = Refusal(
            Ruling("run_budget_exceeded", "per-run", "run", 1_000, 2_000, money=True),
            "Run r_1 is over its budget.",
        )
        ending = fed(*EVENTS[:8]).failure(refusal, ErrorContext("req_1", "r_1", "dec_1"), codex=False)
        name, line, blank, rest = ending.split(b"\n")
        assert (name, blank, rest) == (b"event: error", b"", b"")
        assert orjson.loads(line.removeprefix(b"data: ")) == {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "Run r_1 is over its budget.",
                "details": {"error_code": "run_budget_exceeded", "guardrail": {
                    "run_id": "r_1", "decision_id": "dec_1", "rule": "per-run", "scope": "run", "limit": "0.000001000", "used": "0.000002000"}},
            },
            "request_id": "req_1",
        }  # fmt: skip


class TestUsage:
    def test_the_output_of_the_first_event_does_not_pass_for_the_whole(self) -> None:
        stream = fed(*EVENTS[:-2])
        assert stream.usage is not None
        read = read_usage(Surface.MESSAGES, stream.usage)
        assert read is not None
        assert (read.input_trusted, read.output_trusted) == (True, False)
        assert (read.usage.input_uncached, read.usage.cache_read, read.usage.output_total) == (3, 7, 0)

    def test_none_until_an_event_tells_some(self) -> None:
        assert (
            fed(event("message_start", message={"id": "m"}), event("message_delta", usage=None)).usage is None
        )
        assert fed(event("message_start", message={"usage": {"input_tokens": None}})).usage is None
        assert fed(event("message_delta", usage={"output_tokens": 2})).usage == {
            "usage": {"output_tokens": 2},
            "model": None,
        }

    @given(st.lists(st.dictionaries(
        st.sampled_from(["input_tokens", "output_tokens", "cache_creation", "iterations", "service_tier"]),
        st.none() | st.integers(-1, 9) | st.sampled_from(["x", [1]])
        | st.dictionaries(st.sampled_from(["a", "b"]), st.none() | st.integers(0, 3), max_size=2)), max_size=4))  # fmt: skip
    def test_events_complete_each_other_as_metering_folds_them(self, usages: list[dict[str, Any]]) -> None:
        stream, fold = messages.stream(strip_usage=False), UsageFold(Surface.MESSAGES)
        for usage in usages:
            stream.feed(event("message_delta", delta={}, usage=usage))
            fold.feed({"usage": usage})
        assert (read_usage(Surface.MESSAGES, stream.usage) if stream.usage else None) == fold.result()


@cache
def exchanges() -> dict[str, dict[str, Any]]:
    with gzip.open(FILE) as lines:
        records = [
            orjson.loads(line)
            for line in lines
            if b'"surface": "messages"' in line or b'"surface":"messages"' in line
        ]
    return {
        record["id"]: record
        for record in records
        if record["surface"] == "messages" and record["status"] == 200
    }


def body_of(record: dict[str, Any]) -> bytes:
    body = record["response"]["body"]
    return body.encode() if isinstance(body, str) else orjson.dumps(body)


def answered(record: dict[str, Any]) -> Answer:
    if record["stream"]:
        return fed(body_of(record)).answer()
    return messages.read_answer(orjson.loads(body_of(record)))


def content_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The content of a recorded answer; a stream's put together by hand."""
    if not record["stream"]:
        content: list[dict[str, Any]] = orjson.loads(body_of(record))["content"]
        return content
    blocks: list[dict[str, Any]] = []
    inputs: dict[int, str] = {}
    for line in body_of(record).splitlines():
        told = orjson.loads(line[5:]) if line.startswith(b"data:") else {}
        if told.get("type") == "content_block_start":
            blocks.append(told["content_block"])
        elif told.get("type") == "content_block_delta":
            block, piece = blocks[told["index"]], told["delta"]
            for name in ("text", "thinking", "signature"):
                block[name] = block[name] + piece[name] if name in piece else block.get(name)
            inputs[told["index"]] = inputs.get(told["index"], "") + piece.get("partial_json", "")
    for index, whole in inputs.items():
        if whole:
            blocks[index]["input"] = orjson.loads(whole)
    return [block for block in blocks if block["type"] != "text" or block["text"]]


@recorded
class TestRecorded:
    def test_every_request_is_read_and_forwarded_as_it_came(self) -> None:
        assert len(exchanges()) == 146
        for name, record in exchanges().items():
            step = read(record["request"]["body"])
            assert step.output_limit == record["request"]["body"]["max_tokens"], name
            assert forward(step, model=step.model) is step.raw
            for item in step.items:
                for each in item.texts:
                    assert at(step.body, each.pointer) == each.text
                assert all(media.kind != "other" for media in item.media), name

    def test_every_answer_is_known_when_its_content_comes_back(self) -> None:
        for name, record in exchanges().items():
            content = content_of(record)
            assert assistants(read(request(assistant(*content)))) == [as_sent_back(answered(record))], name

    def test_consecutive_steps_hold_the_answer_between_them(self) -> None:
        found = 0
        for name, record in exchanges().items():
            test, _, n = name.rpartition("#")
            following = exchanges().get(f"{test}#{int(n) + 1}")
            if following is None or len(following["request"]["body"]["messages"]) <= len(
                record["request"]["body"]["messages"]
            ):
                continue
            found += 1
            before = len(assistants(read(record["request"]["body"])))
            after = assistants(read(following["request"]["body"]))
            assert as_sent_back(answered(record)) == after[before], name
        assert found == 39

    @pytest.mark.parametrize(("size", "up_to"), [(1, 20_000), (7, 60_000), (100_000, 100_000)])
    def test_every_stream_passes_byte_equal_and_tells_its_last_figures(self, size: int, up_to: int) -> None:
        streamed = [record for record in exchanges().values() if record["stream"]]
        assert len(streamed) == 9
        for record in streamed:
            body, stream, fold = (
                body_of(record),
                messages.stream(strip_usage=True),
                UsageFold(Surface.MESSAGES),
            )
            if len(body) > up_to:
                continue
            assert b"".join(map(stream.feed, cut(body, size))) == body
            assert (stream.done, stream.finished, stream.clean) == (True, True, True)
            parsed = [orjson.loads(line[5:]) for line in body.splitlines() if line.startswith(b"data:")]
            for each in parsed:
                fold.feed(each)
            assert stream.usage is not None
            assert read_usage(Surface.MESSAGES, stream.usage) == fold.result()
            last = next(each["usage"] for each in parsed if each["type"] == "message_delta")
            assert {name: stream.usage["usage"][name] for name in last} == last
            # The same figures read from a plain reply are the same usage.
            first = parsed[0]["message"]
            plain = {**first, "content": content_of(record), "usage": {**first["usage"], **last}}
            assert read_usage(Surface.MESSAGES, plain) == fold.result()


def test_withholding_a_tool_without_a_name_leaves_the_conversation_alone() -> None:
    said = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    body = {"tools": [{"description": "x"}, {"name": "a"}], "messages": said}
    assert messages.withhold_tools(body, {""}) == {"tools": [{"name": "a"}], "messages": said}
