"""What is read out of the names of tools."""

from __future__ import annotations

import pytest

from gateway.rules import tool_names as names


@pytest.mark.parametrize(
    "name",
    ["note", "add_note", "mcp__notes__take_note", "TodoWrite", "update_plan", "log_event", "log", "whoami",
     "get_time", "getCurrentTime", "list_tools", "think", "sequentialthinking", "sleep", "wait_for_it"],
)  # fmt: skip
def test_bookkeeping_thoughts_and_pauses_are_idle(name: str) -> None:
    assert names.is_idle(name)


@pytest.mark.parametrize(
    "name",
    ["get_note", "read_notes", "git_log", "query_logs", "login", "get_time_entries", "timeline", "terraform_plan",
     "get_plan", "planner", "notify", "catalog", "log2", "", "日記"],
)  # fmt: skip
def test_what_only_sounds_like_it_is_not(name: str) -> None:
    assert names.is_idle(name) == (name == "log2")


def test_tools_that_write_read_and_act_on_a_page() -> None:
    assert all(
        map(names.writes, ("write_file", "str_replace_based_edit_tool", "k8s_scale", "jira.updateIssue"))
    )
    assert not any(map(names.writes, ("web_search", "get_order", "send_message", "bash")))
    assert names.reads("mcp__filesystem__read_file")
    assert not names.reads("get_file")
    assert all(
        map(names.acts_on_a_page, ("browser_click", "computer", "playwright_select_option", "page_key"))
    )
    assert not any(map(names.acts_on_a_page, ("select_rows", "check_status", "get_key", "browser_navigate")))


def test_polls_pauses_and_traces() -> None:
    assert names.may_poll("get_job_status")
    assert names.may_poll("bash")
    assert not names.may_poll("web_search")
    assert names.waits("sleep_ms")
    assert names.thinks("Think")
    assert names.names_an_identifier("getTrace")
    assert names.hands_over("transfer_to_billing")
    assert not names.hands_over("transfer_money")
