"""What a policy says about runs, loops, tools, approvals and claims; its mistakes are in `golden/`."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.auth import Authenticator, KeyRecord, Secrets
from gateway.policy.fields import fully_matches
from gateway.policy.language import keys_of
from gateway.policy.loading import load_text
from gateway.policy.messages import PolicyError
from gateway.policy.models import Policy
from gateway.policy.sections.loops import LOOP_RULES, Ladder, Loops
from gateway.policy.sections.spending import Anomaly
from gateway.policy.sections.tools import Breaker
from tests.support.effort import Effort


def policy(text: str, env: dict[str, str] | None = None) -> Policy:
    return load_text(f"version: 1\n{text}", env or {})


MODELS = "providers: {p: {dialect: openai, base_url: http://p/v1}}\nmodels: {small: {provider: p}}\n"


# Runs


def test_an_empty_policy_lands_in_one_short_step_and_ends_runs_by_final_tools() -> None:
    runs = policy("").runs
    assert runs.final_tools == ("final_answer", "final_result")
    assert runs.landing.output_tokens == 1024
    assert runs.landing.instruction == (
        "This run has reached its limit, and this is its last step. Answer now from what you already know, "
        "say what is missing or uncertain, and start nothing new."
    )
    assert runs.anomaly == Anomaly(factor=1.75, min_runs=20)
    assert runs.children == "share"


def test_what_a_run_says_replaces_the_defaults() -> None:
    runs = policy(
        "runs: {final_tools: [], landing: {output_tokens: 16, instruction: 'Stop.\n\n  Answer!'},"
        " anomaly: {factor: 1.01}, children: own}"
    ).runs
    assert runs.final_tools == ()
    assert (runs.landing.output_tokens, runs.landing.instruction) == (16, "Stop.\nAnswer!")
    assert runs.anomaly == Anomaly(factor=1.01, min_runs=20)
    assert runs.children == "own"
    assert policy("runs: {anomaly: null}").runs.anomaly is None


# Loops


def test_a_plain_count_is_a_ladder_of_one_step() -> None:
    loops = policy("loops: {on_detect: wrap_up, same_call: 4}").loops
    assert loops is not None
    assert loops.ladders() == {
        "same_call": ((4, "wrap_up"),),
        "near_duplicate": ((5, "wrap_up"),),
        "cycle": ((3, "wrap_up"),),
        "no_progress": ((3, "wrap_up"),),
        "consecutive_tool_errors": ((5, "wrap_up"),),
        "repeated_text": ((3, "wrap_up"),),
        "context_growth": ((6, "wrap_up"),),
    }


def test_a_ladder_rises_however_it_is_written_and_rules_that_are_off_have_none() -> None:
    text = MODELS + (
        "loops: {same_call: {kill: 9, observe: 1, wrap_up: 4, nudge: 2, stop: 7, final_message: 5, downgrade: 3},"
        " cycle: {stop: 2, kill: null}, to: small, near_duplicate: null, no_progress: null,"
        " consecutive_tool_errors: null, repeated_text: null, context_growth: null, polling_tools: [wait]}"
    )
    loops = policy(text).loops
    assert loops is not None
    assert loops.ladders() == {
        "same_call": (
            (1, "observe"),
            (2, "nudge"),
            (3, "downgrade"),
            (4, "wrap_up"),
            (5, "final_message"),
            (7, "stop"),
            (9, "kill"),
        ),
        "cycle": ((2, "stop"),),
    }
    assert loops.polling_tools == ("wait",)


def test_a_count_may_come_from_the_environment() -> None:
    loops = policy("loops: {same_call: '${N}', cycle: {nudge: '${N}'}}", {"N": "7"}).loops
    assert loops is not None
    assert loops.ladders()["same_call"] == ((7, "stop"),)
    assert loops.ladders()["cycle"] == ((7, "nudge"),)


def test_every_rule_of_loops_is_named_once() -> None:
    others = {"polling_tools", "ignore_tools", "on_detect", "to", "mode", "match"}
    assert set(LOOP_RULES) | others == set(keys_of(Loops))
    rising = ("observe", "nudge", "downgrade", "wrap_up", "final_message", "stop", "kill")
    assert keys_of(Ladder) == rising


def test_downgrade_in_a_ladder_goes_to_a_known_model() -> None:
    loops = policy(MODELS + "loops: {no_progress: {downgrade: 2}, to: small}").loops
    assert loops is not None
    assert loops.to == "small"
    with pytest.raises(PolicyError) as raised:
        policy(MODELS + "loops: {no_progress: {downgrade: 2}, to: smal}")
    assert str(raised.value) == (
        'policy:4: loops.to: got "smal", expected a model that is configured; did you mean "small"?'
    )


# Tools


def test_no_tools_section_governs_nothing_and_an_empty_one_does() -> None:
    assert not policy("").governs_tools
    assert policy("tools: {}").governs_tools
    assert policy("tools: {a: {}}").governs_tools


def test_the_contract_of_a_tool_that_says_nothing() -> None:
    tool = policy("tools: {a: {}}").tool("a")
    assert (tool.level, tool.after, tool.arguments) == ("moderate", (), {})
    assert (tool.on_invalid, tool.on_violation) == ("repair", "error")
    assert (tool.on_open, tool.on_drift) == ("withhold", "flag")
    assert tool.breaker == Breaker(error_rate=0.5, min_calls=5, window_s=60, open_s=30, probes=1)
    assert not tool.needs_approval


@pytest.mark.parametrize(
    ("tools", "named", "other"),
    [
        ("{}", None, None),
        ("{a: {}}", 0.5, None),
        ("{a: {breaker: null}}", None, None),
        ("{defaults: {}}", 0.5, 0.5),
        ("{defaults: {}, a: {owner: x}}", 0.5, 0.5),
        ("{defaults: {breaker: null}, a: {}}", None, None),
        ("{defaults: {breaker: null}, a: {breaker: {}}}", 0.5, None),
        ("{defaults: {breaker: {error_rate: 0.9}}, a: {owner: x}}", 0.9, 0.9),
        ("{defaults: {breaker: {error_rate: 0.9}}, a: {breaker: {min_calls: 2}}}", 0.5, 0.9),
        ("{defaults: {breaker: {error_rate: 0.9}}, a: {breaker: null}}", None, 0.9),
    ],
)
def test_a_tool_has_a_breaker_when_it_or_the_defaults_are_written(
    tools: str, named: float | None, other: float | None
) -> None:
    found = policy(f"tools: {tools}")
    rates = [breaker and breaker.error_rate for breaker in (found.tool(n).breaker for n in ("a", "b"))]
    assert rates == [named, other]


@pytest.mark.parametrize(
    ("tools", "needed"),
    [
        ("{a: {level: dangerous}}", True),
        ("{a: {level: dangerous, requires_approval: false}}", False),
        ("{a: {level: dangerous, requires_approval: null}}", True),
        ("{a: {level: safe, requires_approval: true}}", True),
        ("{a: {level: moderate}}", False),
        ("{defaults: {level: dangerous}, a: {level: safe}}", False),
        ("{defaults: {level: dangerous}}", True),
        ("{defaults: {requires_approval: false}, a: {level: dangerous}}", False),
        ("{defaults: {requires_approval: false}, a: {level: dangerous, requires_approval: true}}", True),
        ("{defaults: {requires_approval: true}, a: {level: safe}}", True),
    ],
)
def test_a_dangerous_tool_needs_approval_unless_it_is_written_otherwise(tools: str, needed: bool) -> None:
    assert policy(f"tools: {tools}").tool("a").needs_approval is needed


def test_nested_sections_of_the_defaults_are_replaced_whole() -> None:
    text = """
tools:
  defaults: {after: [login], arguments: {to: {max_length: 9}}, max_calls_per_run: 3}
  login: {after: []}
  a: {arguments: {cc: {required: true}}}
"""
    found = policy(text)
    assert found.tool("login").after == ()
    assert found.tool("a").after == ("login",)
    assert (list(found.tool("a").arguments), list(found.tool("b").arguments)) == (["cc"], ["to"])
    assert found.tool("a").max_calls_per_run == 3
    assert found.tool("defaults") == found.tool("b")


def test_an_argument_rule_keeps_the_types_that_json_has() -> None:
    text = """
tools:
  a:
    arguments:
      orders.*.amount: {values: [1, 1.0, 0.1, "1", true, null], min: -0.5, max: 9007199254740993}
      größe.ein schlüssel: {pattern: "[a-z]+", prefixes: [/srv/, "https://"], max_length: 5, required: true}
      matrix.*.*: {min: 0, max: 0}
"""
    rules = policy(text).tool("a").arguments
    amount = rules["orders.*.amount"]
    assert amount.values == (1, 1.0, 0.1, "1", True, None)
    assert list(map(type, amount.values)) == [int, float, float, str, bool, type(None)]
    assert (amount.min, amount.max) == (-0.5, 9007199254740993)
    named = rules["größe.ein schlüssel"]
    assert (named.pattern, named.prefixes) == ("[a-z]+", ("/srv/", "https://"))
    assert (named.max_length, named.required) == (5, True)
    assert (rules["matrix.*.*"].min, rules["matrix.*.*"].max) == (0, 0)


def test_a_bound_may_come_from_the_environment_and_is_a_number() -> None:
    rules = policy("tools: {a: {arguments: {n: {min: '${N}', max: '${M}'}}}}", {"N": "2", "M": "2.5"})
    assert (rules.tool("a").arguments["n"].min, rules.tool("a").arguments["n"].max) == (2, 2.5)
    with pytest.raises(PolicyError) as raised:
        policy("tools: {a: {arguments: {n: {min: '${N}'}}}}", {"N": "inf"})
    assert str(raised.value) == (
        'policy:2: tools.a.arguments.n.min: got "${N}", expected a number such as 100'
    )


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("abc", "abc", True),
        ("abc", "xabc", False),
        ("abc", "abcx", False),
        ("a|ab", "ab", True),
        ("^abc$", "abc", True),
        ("abc", "abc\n", False),
        ("a.c", "a\nc", False),
        ("(?s)a.c", "a\nc", True),
        ("(?i)É.", "éß", True),
        ("a", "", False),
        ("a*", "", True),
        ("a.c", "a\x00c", True),
        ("a.c", "a\ud800c", True),
        ("[a-z]+", "a\ud800c", False),
    ],
)
def test_a_pattern_matches_the_whole_text(pattern: str, text: str, matches: bool) -> None:
    assert fully_matches(pattern, text) is matches


@pytest.mark.parametrize("pattern", [r"(\w+\s?)+@", "(a|a)*b", "(a*)*c", "(x+x+)+y", "a{1,1000}b"])
def test_no_pattern_takes_long(pattern: str) -> None:
    with Effort() as effort:
        assert not fully_matches(pattern, "a" * 100_000)
    assert effort.seconds < 0.5


def test_a_pattern_from_the_environment_is_not_shown() -> None:
    for value, expected in (
        ("hidden(", "an RE2 pattern, which has no lookaround and no back-references (missing ))"),
        ("hidden\ud800", "an RE2 pattern of Unicode text"),
    ):
        with pytest.raises(PolicyError) as raised:
            policy("tools: {a: {arguments: {n: {pattern: '${P}'}}}}", {"P": value})
        assert str(raised.value) == (
            f'policy:2: tools.a.arguments.n.pattern: got "${{P}}", expected {expected}'
        )


def test_many_tools_in_one_ring_are_told_in_one_short_line() -> None:
    ring = ", ".join(f"t{n}: {{after: [t{(n + 1) % 5000}]}}" for n in range(5000))
    with pytest.raises(PolicyError) as raised:
        policy(f"tools: {{{ring}}}")
    (mistake,) = raised.value.mistakes
    assert mistake.problem.endswith("expected a tool that does not wait for this one")
    dense = ", ".join(f"t{n}: {{after: [{', '.join(f't{m}' for m in range(100))}]}}" for n in range(100))
    with pytest.raises(PolicyError) as raised:
        policy(f"tools: {{{dense}}}")
    assert len(raised.value.mistakes) == 10


# Rates, approvals, claims, alerts


def test_a_rate_in_dollars_is_counted_exactly() -> None:
    (rate, other) = policy(
        "rates: [{name: a, per: key, usd_per_minute: 1.500000001}, {name: b, per: key, max_concurrency: 1}]"
    ).rates
    assert (rate.nano_per_minute, other.nano_per_minute) == (1_500_000_001, None)


def test_approvals_and_claims_have_defaults() -> None:
    found = policy("")
    assert (found.approvals.hold_s, found.approvals.expires_s) == (30, 3600)
    assert found.claims is None
    assert policy("claims: null").claims is None
    claims = policy("claims: {}").claims
    assert claims is not None
    assert (claims.mode, claims.actions) == ("shadow", None)


def test_what_approvals_claims_and_alerts_say() -> None:
    found = policy(
        "approvals: {hold_s: 5, expires_s: 5}\n"
        "claims: {mode: enforce, actions: {sent: [send_email, send_sms], wired the money: pay}}\n"
        "alerts: [{name: a, url: https://h/x, on: [tool_drift, claim, spend_anomaly]}]"
    )
    assert (found.approvals.hold_s, found.approvals.expires_s) == (5, 5)
    assert found.claims is not None
    assert found.claims.actions == {"sent": ("send_email", "send_sms"), "wired the money": ("pay",)}
    assert found.alerts[0].on == ("tool_drift", "claim", "spend_anomaly")


# Keys


def test_a_key_of_the_policy_carries_its_level_and_every_other_caller_may_use_all() -> None:
    text = "keys: [{name: a, key: gw-0123456789abcdef, max_tool_level: safe}, {name: b, key: gw-b123456789abcdef}]"
    secrets = Secrets(b"0123456789abcdef")
    authenticator = Authenticator(policy(f"tools: {{}}\n{text}", {}), secrets)
    stored = KeyRecord("key_1", "c", {secrets.digest("gw-c123456789abcdef"): None}, None, None, None)
    authenticator.replace_stored([stored])
    levels = {
        secret: authenticator.identify({b"x-api-key": secret}).max_tool_level
        for secret in (b"gw-0123456789abcdef", b"gw-b123456789abcdef", b"gw-c123456789abcdef")
    }
    assert list(levels.values()) == ["safe", "dangerous", "dangerous"]


def test_a_level_without_tools_warns() -> None:
    text = "keys: [{name: a, key: gw-0123456789abcdef, max_tool_level: moderate}]"
    assert policy(text).warnings == (
        "policy:2: keys[0].max_tool_level: not used: there is no tools section that gives tools their level",
    )
    assert policy(text.replace("moderate", "dangerous")).warnings == ()
    assert not [w for w in policy(f"{text}\ntools: {{}}").warnings if "max_tool_level" in w]


# A policy that was sent


SENT = """
tools: {a: {level: dangerous, arguments: {to: {pattern: "[a-z]+@example[.]com"}}, breaker: null}}
loops: {same_call: {nudge: 2, stop: 4}}
runs: {landing: {output_tokens: 500}}
approvals: {hold_s: 5}
"""


def test_a_sent_policy_says_the_same_about_tools_and_loops() -> None:
    base = policy("keys: [{name: a, key: gw-0123456789abcdef, max_tool_level: safe}]")
    sent = load_text(f"version: 1\n{SENT}", base=base)
    assert sent.keys[0].max_tool_level == "safe"
    assert sent.governs_tools
    assert sent.tool("a") == policy(SENT).tool("a")
    assert sent.loops == policy(SENT).loops
    assert sent.runs.landing.output_tokens == 500
    assert not load_text("version: 1", base=policy(SENT)).governs_tools


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "[a-z]+@",
            "(?!a)",
            'policy:3: tools.a.arguments.to.pattern: got "(?!a)example[.]com", expected an RE2 pattern, '
            "which has no lookaround and no back-references (invalid perl operator)",
        ),
        (
            "stop: 4",
            "stop: 2",
            "policy:4: loops.same_call.stop: got 2, expected more than 2, the count of nudge",
        ),
        (
            "hold_s: 5",
            "hold_s: ${H}",
            'policy:6: approvals.hold_s: got "${H}", expected a plain value: a policy sent by API expands nothing',
        ),
    ],
)
def test_a_sent_policy_is_checked_in_the_same_way(old: str, new: str, told: str) -> None:
    assert old in SENT
    with pytest.raises(PolicyError) as raised:
        load_text(f"version: 1\n{SENT.replace(old, new)}", base=policy(""))
    assert [str(mistake) for mistake in raised.value.mistakes] == [told]


@pytest.mark.parametrize(
    "value", ["[]", "{}", "0", "x", "null", "[[]]", "{a: {a: {a: 1}}}", "{'': ''}", "-1e9"]
)
@pytest.mark.parametrize(
    "where",
    [
        "loops: %s",
        "loops: {same_call: %s}",
        "loops: {same_call: {nudge: %s, stop: %s}}",
        "tools: %s",
        "tools: {defaults: %s}",
        "tools: {a: {after: %s}}",
        "tools: {a: {after: [%s]}}",
        "tools: {a: {arguments: %s}}",
        "tools: {a: {arguments: {x: {values: %s, min: %s, max: %s, pattern: %s}}}}",
        "tools: {a: {breaker: %s}}",
        "runs: {landing: %s, anomaly: %s}",
        "approvals: %s",
        "approvals: {hold_s: %s, expires_s: %s}",
        "claims: {actions: %s}",
        "claims: {actions: {a: %s}}",
    ],
)
def test_odd_shapes_bring_nothing_but_mistakes(where: str, value: str) -> None:
    fill: Any = (value,) * where.count("%s")
    try:
        policy(where % fill)
    except PolicyError as error:
        lines = {mistake.line for mistake in error.mistakes}
    else:
        lines = {2}
    assert lines == {2}
