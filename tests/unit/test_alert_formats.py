"""Alerts as chats and pagers take them: the right fields in the right places, and nothing of it markup."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.alerting.events import CLOSES, Happened, freed_by, incident_of, payload, subject_of, wanted_by
from gateway.alerting.formats import Format, severity_of, written
from gateway.policy.loading import load
from gateway.policy.messages import PolicyError
from gateway.policy.sections.operations import Alert

NOW = 1_700_000_000_000
RUN = {
    "id": "run_1", "name": "nightly", "user": "alice", "team": "red", "agent": "mailer", "steps": 12,
    "cost_usd": "0.481200000",
}  # fmt: skip
EVIL = "<!channel> <@U123> & *bold* `code` [x](https://evil.example) https://evil.example/x | > \x00\u202e<at>a</at>"


def told(kind: str = "run_stopped", run: Any = RUN, link: str = "", **facts: Any) -> dict[str, Any]:
    event = Happened("evt_1", kind, NOW, {"rule": "team", "code": "team_budget_exceeded", **facts})
    body = payload(event, run, link or f"https://g.example/admin/v1/runs/{event.run}")
    again: dict[str, Any] = json.loads(json.dumps(body, default=str))
    return again


def message(format_: Format, *events: dict[str, Any], incident: str = "inc", key: str = "R" * 32) -> Any:
    return json.loads(written(format_, list(events), incident=incident, routing_key=key))


def texts(value: Any) -> list[str]:
    """Every text in a message that is not a type or a colour of something."""
    if isinstance(value, dict):
        quiet = ("type", "$schema", "contentType", "version", "weight", "size")
        return [text for name, part in value.items() if name not in quiet for text in texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return [value] if isinstance(value, str) else []


def test_slack_gets_blocks_with_a_text_to_fall_back_on() -> None:
    body = message("slack", told(run_id="x"))
    assert body["text"].startswith("run stopped: rule team, code team_budget_exceeded, run run_1, user alice")
    header, sentence, fields, link, context = body["blocks"]
    assert header == {"type": "header", "text": {"type": "plain_text", "text": "🔴 Run stopped"}}
    assert sentence["text"]["text"] == body["text"]
    assert [field["text"] for field in fields["fields"]] == [
        "*Run*\nnightly", "*User*\nalice", "*Team*\nred", "*Agent*\nmailer", "*Cost*\n$0.481200000", "*Rule*\nteam",
        "*Code*\nteam_budget_exceeded",
    ]  # fmt: skip
    assert all(field["type"] == "mrkdwn" and field["verbatim"] for field in fields["fields"])
    assert len(fields["fields"]) <= 10
    assert link["text"]["text"] == "<https://g.example/admin/v1/runs/None|Open the run>"
    assert context["elements"][0]["text"] == "2023-11-14T22:13:20.000Z · evt_1"
    assert (body["unfurl_links"], body["unfurl_media"]) == (False, False)


@pytest.mark.parametrize("events", [1, 3, 40])
def test_nothing_becomes_a_mention_or_a_link_in_slack(events: int) -> None:
    run = {**RUN, "name": EVIL, "user": EVIL, "team": EVIL, "agent": EVIL}
    evil = told(run=run, tool=EVIL, reason=EVIL, link=f"https://g.example/{EVIL}".replace("\x00", ""))
    body = message("slack", *[evil] * events)
    for text in texts(body):
        left = re.sub(r"<https://g\.example/[^<>|]*\|[A-Za-z ]+>", "", text)
        assert "<" not in left, text
        assert ">" not in left, text
        assert "\x00" not in text
        assert "\u202e" not in text
    raw = json.dumps(body)
    assert "<!channel>" not in raw
    assert "<@" not in raw
    assert all(len(block["text"]["text"]) <= 3000 for block in body["blocks"] if "text" in block)


def test_slack_gets_one_message_for_many() -> None:
    events = [told(n=n) for n in range(200)]
    body = message("slack", *events)
    header, listed, more, context = body["blocks"]
    assert header["text"]["text"] == "🔴 200 × Run stopped"
    assert listed["text"]["text"].count("• run stopped") == 10
    assert more["text"]["text"] == "… and 190 more"
    assert context["elements"][0]["text"].endswith("evt_1 to evt_1")
    assert body["text"].startswith("200 × Run stopped, such as run stopped: ")
    assert len(json.dumps(body)) < 20_000


def test_a_pager_is_called_under_the_key_of_the_trouble() -> None:
    body = message("pagerduty", told("breaker_open", None, breaker="tool:shared:search"), incident="abc")
    assert body["routing_key"] == "R" * 32
    assert (body["event_action"], body["dedup_key"]) == ("trigger", "guardrail-abc")
    assert body["payload"]["severity"] == "error"
    assert body["payload"]["class"] == "breaker_open"
    assert body["payload"]["component"] == "tool:shared:search"
    assert body["payload"]["timestamp"] == "2023-11-14T22:13:20.000Z"
    assert body["payload"]["summary"].startswith("breaker open: ")
    assert body["links"] == [{"href": "https://g.example/admin/v1/runs/None", "text": "Open"}]
    over = message("pagerduty", told("breaker_closed", None, breaker="tool:shared:search"), incident="abc")
    assert (over["event_action"], over["dedup_key"]) == ("resolve", "guardrail-abc")


def test_a_pager_is_told_how_many_and_which() -> None:
    events = [told(run={**RUN, "id": f"run_{n}"}) for n in range(200)]
    details = message("pagerduty", *events)["payload"]["custom_details"]
    assert details["count"] == 200
    assert details["runs"] == [f"run_{n}" for n in range(50)]
    assert len(details["ids"]) == 50
    assert details["cost"] == "$0.481200000"


def test_what_is_huge_or_odd_is_told_as_far_as_it_goes() -> None:
    odd = told(reason="r" * 100_000, big=10**40, lone="\ud800", deep={"a": [1] * 10_000})
    for format_ in ("slack", "teams", "pagerduty"):
        raw = written(format_, [odd], incident="x")
        assert len(raw) < 20_000
        assert b"\\ud800" not in raw
    assert len(message("pagerduty", odd)["payload"]["summary"]) <= 1024


def test_teams_gets_a_card_whose_texts_hold_no_markup() -> None:
    run = {**RUN, "name": EVIL}
    body = message("teams", told(run=run, tool=EVIL))
    (attachment,) = body["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert {block["type"] for block in card["body"]} == {"RichTextBlock"}
    assert {run["type"] for block in card["body"] for run in block["inlines"]} == {"TextRun"}
    assert card["body"][0]["inlines"][0]["text"] == "Run stopped"
    assert card["actions"][0]["url"].startswith("https://g.example/")
    assert "mention" not in json.dumps(body)


@pytest.mark.parametrize(
    "link", ["/admin/v1/runs/x", "javascript:alert(1)", "https://x/\n", "data:text/html,x"]
)
def test_only_addresses_become_links(link: str) -> None:
    event = told(link=link)
    raw = json.dumps([message(f, event) for f in ("slack", "teams", "pagerduty")])
    assert link not in raw
    assert "Open the run" not in raw


# -- what is the same, and what is over --------------------------------------------------------------


def test_runs_that_meet_one_trouble_are_one_incident() -> None:
    facts = {"rule": "team", "code": "team_budget_exceeded", "status": "stopped_budget"}
    one, two = ({**facts, "run": run, "name": run} for run in ("run_1", "run_2"))
    assert incident_of("run_stopped", one) == incident_of("run_stopped", two)
    assert subject_of("run_stopped", one) != subject_of("run_stopped", two)
    assert incident_of("run_stopped", one) != incident_of("run_stopped", {**two, "rule": "user"})
    assert incident_of("budget_exceeded", one) != incident_of("run_stopped", one)


@pytest.mark.parametrize(
    ("closing", "facts", "opening"),
    [
        ("breaker_closed", {"breaker": "tool:shared:x"}, {"breaker": "tool:shared:x", "ok": 1, "failed": 9}),
        ("revive", {"scope": "user", "id": "bob", "by": "admin"}, {"name": "user:bob", "reason": "x", "streams": 3}),
        ("revive", {"scope": "global", "id": "all", "by": "admin"}, {"name": "global", "reason": "x"}),
        ("policy_reloaded", {"version": "v2", "error": "e"}, {"version": "v1", "error": "e"}),
        ("audit_recovered", {}, {"reason": "it cannot be written", "on_failure": "refuse"}),
        (
            "approval_decided",
            {"approval": "apr_1", "run": "r", "tool": "pay", "state": "approved", "by": "admin"},
            {"approval": "apr_1", "run": "r", "tool": "pay", "user": "u", "cost": 1},
        ),
    ],
)  # fmt: skip
def test_what_is_over_is_known_by_what_began(
    closing: str, facts: dict[str, Any], opening: dict[str, Any]
) -> None:
    kind = CLOSES[closing]
    assert incident_of(closing, facts) == incident_of(kind, opening)
    assert freed_by(closing, facts) == subject_of(kind, opening)
    assert freed_by(kind, opening) is None


def test_a_pager_hears_that_it_is_over_without_asking_for_it() -> None:
    fields: dict[str, Any] = {"name": "a", "url": "https://x.example/", "on": ["breaker_open", "pii"]}
    chat = Alert.model_validate({**fields, "format": "slack"})
    pager = Alert.model_validate({**fields, "format": "pagerduty", "secret": "k"})
    assert wanted_by(chat) == {"breaker_open", "pii"}
    assert wanted_by(pager) == {"breaker_open", "breaker_closed", "pii"}


def test_each_severity_is_one_that_pagers_know() -> None:
    kinds = Alert.model_fields["on"].annotation.__args__[0].__args__  # type: ignore[union-attr]
    assert {severity_of(kind) for kind in kinds} == {"critical", "error", "warning", "info"}


def test_a_pager_needs_its_routing_key(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    alert = "alerts: [{name: pager, url: https://events.pagerduty.com/v2/enqueue, on: kill, format: pagerduty%s}]\n"
    policy.write_text("version: 1\n" + alert % "")
    with pytest.raises(PolicyError) as refused:
        load(policy, {})
    assert [str(mistake) for mistake in refused.value.mistakes] == [
        "policy.yaml:2: alerts[0].format: got pagerduty without secret, expected the service's routing key as secret"
    ]
    policy.write_text("version: 1\n" + alert % ", secret: R0123456789")
    assert load(policy, {}).alerts[0].format == "pagerduty"
