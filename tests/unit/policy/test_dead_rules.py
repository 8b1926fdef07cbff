"""Rules that can never fire: one policy for each kind of finding, and ones beside it that must stay silent."""

from __future__ import annotations

import random
import time
from itertools import product
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain import Surface
from gateway.policy import dead_rules
from gateway.policy import document as documents
from gateway.policy.loading import load_text
from gateway.policy.messages import PolicyError
from gateway.policy.models import Policy
from gateway.rules.budgets import Rulebook, Scopes

BASE = """\
version: 1
providers: {a: {dialect: openai, base_url: http://a/v1}, b: {dialect: openai, base_url: http://b/v1}}
models:
  big: {provider: a}
  small: {provider: a}
  other: {provider: b}
"""
FIRST = BASE.count("\n") + 1
"""The line on which what is added to the base begins."""


def found(text: str, base: str = BASE) -> list[str]:
    """The findings about a policy, without the name of the file."""
    policy = load_text(base + text, {"KEY": "k" * 20}, name="p")
    expected = [w for w in policy.warnings if "not yet enforced" in w or "no tools section" in w]
    return [warning.removeprefix("p:") for warning in policy.warnings if warning not in expected]


ROUTING = "routing:\n  rules:\n"
KEYS = "keys: [{name: bot, key: kkkkkkkkkkkkkkkkkkkk, user: ann, team: red, models: [big], max_tool_level: moderate}]\n"

DEAD: dict[str, tuple[str, list[str]]] = {
    "a routing rule after one that takes all it takes": (
        ROUTING
        + "    - {name: wide, when: {model: [big, other]}, use: small}\n"
        + "    - {name: late, when: {model: big, step: title}, use: small}\n",
        ['10: routing.rules[1]: can never fire: "wide" (p:9), before it, takes all of its steps.'],
    ),
    "two rules that take a third one's steps together": (
        ROUTING
        + "    - {name: one, when: {step: title, tokens: {max: 100}}, use: small}\n"
        + "    - {name: two, when: {step: [title, digest], tokens: {min: 90}}, use: small}\n"
        + "    - {name: late, when: {step: title}, use: other}\n",
        [
            '11: routing.rules[2]: can never fire: "one" (p:9), "two" (p:10), before it, together take all of its '
            "steps."
        ],
    ),
    "a rule in shadow before an enforced one": (
        ROUTING
        + "    - {name: trial, when: {model: big}, use: small, mode: shadow}\n"
        + "    - {name: real, when: {model: big}, use: other}\n",
        [
            '10: routing.rules[1]: can never fire: "trial" (p:9), before it, takes all of its steps. A rule in '
            "shadow decides too, it only does not act."
        ],
    ),
    "models that are taken one by one": (
        ROUTING
        + "    - {name: one, when: {model: big}, use: small}\n"
        + "    - {name: two, when: {model: [s*, other]}, use: big}\n"
        + "    - {name: late, when: {model: [big, small], step: digest}, use: other}\n",
        [
            '11: routing.rules[2]: can never fire: "one" (p:9), "two" (p:10), before it, together take all of its '
            "steps."
        ],
    ),
    "when and match exclude each other": (
        ROUTING + "    - {name: r, when: {model: big}, match: {model: small}, use: other}\n",
        ["9: routing.rules[0]: can never fire: what it says in when and match cannot hold together"],
    ),
    "tags of one name with two values": (
        ROUTING + "    - {name: r, when: {tag: tier=free}, match: {tag: tier=paid}, use: other}\n",
        ["9: routing.rules[0]: can never fire: what it says in when and match cannot hold together"],
    ),
    "a rule that reroutes to where steps are": (
        ROUTING + "    - {name: r, when: {model: big}, use: big}\n",
        ["9: routing.rules[0].use: is the only model of when.model, so the rule changes nothing"],
    ),
    "all runs held out": (
        ROUTING + "    - {name: r, when: {model: big}, use: small, hold_out: 1}\n",
        ["9: routing.rules[0].hold_out: leaves every run as it is, so the rule never acts"],
    ),
    "a share of a budget that there is not": (
        ROUTING + "    - {name: r, when: {budget_used: 0.5}, use: small}\n"
        "budgets: [{name: b, per: run, limit_usd: 1, mode: shadow}]\n",
        [
            "9: routing.rules[0].when.budget_used: never holds: no enforced budget is per: run, so no share of one "
            "is used"
        ],
    ),
    "escalation that is switched off": (
        ROUTING
        + "    - {name: r, when: {model: big}, use: small, on_bad_answer: deliver, final_answers: escalate, "
        "max_escalations: 0.1}\n",
        [
            "9: routing.rules[0].final_answers: has no effect: on_bad_answer is deliver, so nothing is escalated",
            "9: routing.rules[0].max_escalations: has no effect: on_bad_answer is deliver, so nothing is escalated",
        ],
    ),
    "a target that lacks tools": (
        "  weak: {provider: a, lacks: tools}\n"
        + ROUTING
        + "    - {name: r, when: {tools: {min: 1}}, use: weak}\n",
        ["10: routing.rules[0].use: lacks tools, and every step of this rule offers at least 1"],
    ),
    "a target that reads less": (
        "  weak: {provider: a, context_window: 8000}\n"
        + ROUTING
        + "    - {name: r, when: {tokens: {min: 9000}}, use: weak}\n",
        ["10: routing.rules[0].use: reads 8,000 tokens, and every step of this rule has at least 9,000"],
    ),
    "cheaper than free": (
        "  own: {provider: a, price: free}\n" + ROUTING + "    - {name: r, when: {model: own}, use: small}\n",
        [
            "10: routing.rules[0].only_if_cheaper: keeps every step where it is: the models of when.model are free"
        ],
    ),
    "a target that no key may use": (
        KEYS + ROUTING + "    - {name: r, when: {model: big}, use: small}\n",
        [
            "10: routing.rules[0].use: is among the models of no key in this file, so their steps stay where they "
            "are; keys made by the admin API may differ"
        ],
    ),
    "a looser budget of the same scope": (
        "budgets:\n  - {name: tight, per: user, window: 1d, limit_usd: 5}\n"
        "  - {name: loose, per: user, window: 1d, limit_usd: 5.50, on_exceed: notify}\n",
        [
            '9: budgets[1].limit_usd: is never reached: budget "tight" (p:8) counts the same calls and ends at $5 a day'
        ],
    ),
    "the same budget twice": (
        "budgets:\n  - {name: a, per: run, limit_usd: 5}\n  - {name: b, per: run, limit_usd: 5, on_exceed: wrap_up}\n",
        ['9: budgets[1].limit_usd: is never reached: budget "a" (p:8) counts the same calls and ends at $5'],
    ),
    "a looser budget in shadow": (
        "budgets:\n  - {name: a, per: run, limit_usd: 5}\n  - {name: b, per: run, limit_usd: 6, mode: shadow}\n",
        ['9: budgets[1].limit_usd: is never reached: budget "a" (p:8) counts the same calls and ends at $5'],
    ),
    "a narrower budget above a wider one": (
        "budgets:\n  - {name: reds, per: key, limit_usd: 9, match: {team: red, model: big}}\n"
        "  - {name: all, per: key, limit_usd: 5, match: {team: [red, blue]}}\n",
        [
            '8: budgets[0].limit_usd: is never reached: budget "all" (p:9) counts the same calls and ends at $5'
        ],
    ),
    "a run above its session": (
        "budgets:\n  - {name: run, per: run, limit_usd: 5}\n  - {name: session, per: session, limit_usd: 2}\n",
        [
            '8: budgets[0].limit_usd: is never reached: budget "session" (p:9) counts the same calls and ends at '
            "$2, unless runs with a declared parent lie in several sessions"
        ],
    ),
    "a run above its user's day": (
        "budgets:\n  - {name: run, per: run, limit_usd: 50}\n  - {name: day, per: user, window: 1d, limit_usd: 5}\n",
        [
            '8: budgets[0].limit_usd: is reached only by a run that goes on past the end of a day: budget "day" '
            "(p:9) counts the same calls and ends at $5 a day"
        ],
    ),
    "a week above seven of its days": (
        "budgets:\n  - {name: week, per: user, window: 1w, limit_usd: 35}\n"
        "  - {name: day, per: user, window: 1d, limit_usd: 5}\n",
        [
            '8: budgets[0].limit_usd: is never reached: budget "day" (p:9) counts the same calls and ends at $5 a day'
        ],
    ),
    "a rate above another": (
        "rates:\n  - {name: a, per: user, requests_per_minute: 100, tokens_per_minute: 10}\n"
        "  - {name: b, per: global, requests_per_minute: 60}\n",
        [
            '8: rates[0].requests_per_minute: is never reached: rate "b" (p:9), whose requests_per_minute 60 ends '
            "the same calls first"
        ],
    ),
    "more new runs than requests": (
        "rates: [{name: a, per: key, requests_per_minute: 10, new_runs_per_minute: 20}]\n",
        [
            "7: rates[0].new_runs_per_minute: is never reached: this rule's own requests_per_minute 10 ends the "
            "same calls first"
        ],
    ),
    "new runs of calls that begin none": (
        "rates: [{name: a, per: key, new_runs_per_minute: 20, match: {surface: embeddings}}]\n",
        ["7: rates[0].new_runs_per_minute: has no effect: embeddings begin no runs"],
    ),
    "more calls of a tool than of all": (
        "runs: {max_tool_calls: 10, children: own}\ntools:\n  t: {max_calls_per_run: 20}\n",
        [
            "9: tools.t.max_calls_per_run: is never reached: runs.max_tool_calls (p:7) lets a run make 10 tool "
            "calls in all"
        ],
    ),
    "more calls in a run than in its session": (
        "tools:\n  t: {max_calls_per_run: 20, max_calls_per_session: 5}\n",
        [
            "8: tools.t.max_calls_per_run: is never reached: by tools.t a whole session may make 5 calls, unless "
            "runs with a declared parent count together"
        ],
    ),
    "a key, a user and a team that nobody has": (
        KEYS + "rates:\n"
        "  - {name: a, per: key, requests_per_minute: 1, match: {key: [bot, bott]}}\n"
        "  - {name: b, per: key, requests_per_minute: 1, match: {user: bob}}\n"
        "  - {name: c, per: key, requests_per_minute: 1, match: {team: blue}}\n",
        [
            '9: rates[0].match.key[1]: no key in this file is named "bott"; it holds only for keys made by the '
            "admin API",
            '10: rates[1].match.user: no key in this file has the user "bob"; it holds only for keys made by the '
            "admin API",
            '11: rates[2].match.team: no key in this file has the team "blue"; it holds only for keys made by the '
            "admin API",
        ],
    ),
    "a team where everyone is local": (
        "auth: {mode: open}\nbudgets: [{name: b, per: team, limit_usd: 1, match: {key: bot, team: red}}]\n",
        [
            '8: budgets[0].match.key: got "bot", which is nobody: auth.mode is open, and every caller is "local"',
            '8: budgets[0].match.team: got "red", which is nobody: auth.mode is open, and every caller has no team',
            "8: budgets[0].per: counts nothing: auth.mode is open, and its one caller has no team",
        ],
    ),
    "loops of embeddings": (
        "loops: {match: {surface: [embeddings, moderations]}}\n",
        ["7: loops.match.surface: never holds: loops are not about embeddings and moderations"],
    ),
    "another provider than the callers'": (
        "auth: {mode: passthrough, provider: a}\n",
        [
            '6: models.other.provider: is never reached: it is served by "b", and callers\' own credentials go to '
            '"a" alone'
        ],
    ),
    "a fallback that no key may use": (
        "  main: {provider: a, fallbacks: [big, small, big]}\n" + KEYS,
        [
            '7: models.main.fallbacks[1]: is never tried: "small" is among the models of no key in this file; keys '
            "made by the admin API may differ",
            '7: models.main.fallbacks[2]: is tried already: "big" stands before it',
        ],
    ),
    "limits of a forbidden tool": (
        "tools:\n  t: {allow: false, max_calls_per_run: 3, requires_approval: true}\n",
        [
            "8: tools.t.max_calls_per_run: has no effect: allow is false, so the tool is never called",
            "8: tools.t.requires_approval: has no effect: allow is false, so the tool is never called",
        ],
    ),
    "a tool after a forbidden one": (
        "tools:\n  first: {allow: false}\n  then: {after: [first]}\n",
        [
            '9: tools.then.after[0]: "then" can never be called: "first", which must come first, is forbidden by '
            "tools.first.allow (p:8)"
        ],
    ),
    "a tool after one that nobody allowed": (
        "tools:\n  defaults: {allow: false}\n  then: {allow: true, after: [first]}\n",
        [
            '9: tools.then.after[0]: "then" can never be called: "first", which must come first, is forbidden by '
            "tools.defaults.allow (p:8)"
        ],
    ),
    "a tool that is switched off": (
        "tools:\n  t: {mode: off, requires_approval: true}\n  u: {mode: off, allow: false}\n",
        [
            "8: tools.t.requires_approval: holds no call: the mode of this tool is off",
            "9: tools.u.allow: forbids nothing: the mode of this tool is off",
        ],
    ),
    "a tool too dangerous for everyone": (
        KEYS + "tools: {t: {level: dangerous}}\n",
        [
            "8: tools.t.level: is above the max_tool_level of every key in this file, at most moderate; keys made by "
            "the admin API may differ"
        ],
    ),
    "nothing to restore": (
        "tools: {t: {restore: true}}\nscreening: {pii: {action: redact}}\n",
        [
            "7: tools.t.restore: has nothing to restore: screening.pii is not enforced with action pseudonymise"
        ],
    ),
    "a forbidden final tool": (
        "runs: {final_tools: [done]}\ntools: {done: {allow: false}}\n",
        [
            "7: runs.final_tools[0]: contradicts tools.done.allow (p:8): the tool is forbidden, so no answer comes "
            "by it"
        ],
    ),
    "approvals that nothing needs": (
        "approvals: {hold_s: 5}\ntools: {t: {}}\n",
        ["7: approvals: not used: no tool needs an approval"],
    ),
    "a landing that nobody makes": (
        "runs: {landing: {output_tokens: 100}, max_steps: 3}\n",
        ["7: runs.landing: not used: nothing says wrap_up"],
    ),
    "an action without a limit": (
        "runs: {on_exceed: wrap_up}\n",
        [
            "7: runs.on_exceed: not used: there is none of max_steps, max_wall_clock_s, max_tool_calls and max_tokens"
        ],
    ),
    "no loop rule": (
        "loops: {same_call: null, near_duplicate: null, cycle: null, no_progress: null, "
        "consecutive_tool_errors: null, repeated_text: null, context_growth: null}\n",
        [
            "7: loops: finds nothing: same_call, near_duplicate, cycle, no_progress, consecutive_tool_errors, "
            "repeated_text and context_growth are all null"
        ],
    ),
    "every tool ignored": (
        "loops: {ignore_tools: [t]}\ntools: {defaults: {allow: false}, t: {allow: true}}\n",
        [
            "7: loops.ignore_tools: names every tool that is allowed: only consecutive_tool_errors and "
            "repeated_text find anything"
        ],
    ),
    "no entities": (
        "screening: {pii: {mode: enforce, entities: []}}\n",
        ["7: screening.pii.entities: finds nothing: the list is empty, and there is no custom entity"],
    ),
    "allowed everywhere": (
        "screening: {secrets: {action: allow}, links: {output: {action: allow}}}\n",
        [
            "7: screening.secrets: does nothing: its action is allow everywhere; for a record alone say flag",
            "7: screening.links: does nothing: its action is allow everywhere; for a record alone say flag",
        ],
    ),
    "events that never happen": (
        "alerts:\n  - {name: a, url: https://h.example, on: [kill, injection, claim, budget_warning, tool_drift]}\n"
        "  - {name: b, url: https://h.example, on: [policy_reload_failed, approval_decided], match: {key: x}}\n"
        "screening: {injection: {mode: shadow}}\n",
        [
            "8: alerts[0].on[1]: injection never happens: screening.injection is not enforced",
            "8: alerts[0].on[2]: claim never happens: claims is not enforced",
            "8: alerts[0].on[3]: budget_warning never happens: no budget has a warn_at",
            "8: alerts[0].on[4]: tool_drift never happens: no contract of a tool looks for it",
            "9: alerts[1].on[0]: policy_reload_failed never happens: it is about no call, and this alert is narrowed "
            "by match",
            "9: alerts[1].on[1]: approval_decided never happens: no tool needs an approval",
        ],
    ),
}


@pytest.mark.parametrize("kind", DEAD)
def test_a_rule_without_effect_is_told_with_its_place(kind: str) -> None:
    text, expected = DEAD[kind]
    base = BASE.rstrip("\n") + "\n" if text.startswith("  ") else BASE
    assert found(text, base) == expected


ALIVE: dict[str, str] = {
    "a narrower rule before a wider one": ROUTING
    + "    - {name: one, when: {model: big, step: title}, use: small}\n"
    + "    - {name: two, when: {model: big}, use: small}\n",
    "a rule that is off before it": ROUTING
    + "    - {name: one, when: {model: big}, use: small, mode: off}\n"
    + "    - {name: two, when: {model: big}, use: other}\n",
    "a gap between two ranges": ROUTING
    + "    - {name: one, when: {tokens: {max: 99}}, use: small}\n"
    + "    - {name: two, when: {tokens: {min: 101}}, use: small}\n"
    + "    - {name: late, when: {}, use: other}\n",
    "a kind of step that is left": ROUTING
    + "    - {name: one, when: {step: [planning, tool_selection, extraction, digest, synthesis]}, use: small}\n"
    + "    - {name: two, when: {step: [reflection, formatting, retry, title]}, use: small}\n"
    + "    - {name: late, when: {}, use: other}\n",
    "a wildcard that covers more than it": "  big-2: {provider: a}\n  big-*: {provider: a}\n"
    + ROUTING
    + "    - {name: one, when: {model: big-2}, use: small}\n"
    + "    - {name: late, when: {model: big-*}, use: small}\n",
    "models that nobody named but the simulation has": ROUTING
    + "    - {name: one, when: {model: [big, small, other]}, use: small}\n"
    + "    - {name: late, when: {}, use: other}\n",
    "a share of a budget that is used later": "budgets: [{name: b, per: run, limit_usd: 1}]\n"
    + ROUTING
    + "    - {name: one, when: {budget_used: 0.9}, use: small}\n"
    + "    - {name: two, when: {budget_used: 0.5}, use: other}\n",
    "tags of two names": ROUTING
    + "    - {name: r, when: {tag: tier=free}, match: {tag: app=x}, use: other}\n",
    "a split that goes elsewhere": ROUTING
    + "    - {name: r, when: {model: big}, use: big, split: {small: 0.5}}\n",
    "runs held out but one in a hundred": ROUTING
    + "    - {name: r, when: {model: big}, use: small, hold_out: 0.99}\n",
    "a target that lacks tools where none are offered": "  weak: {provider: a, lacks: tools}\n"
    + ROUTING
    + "    - {name: r, when: {step: title}, use: weak}\n",
    "a free model among others": "  own: {provider: a, price: free}\n"
    + ROUTING
    + "    - {name: r, when: {model: [own, big]}, use: small}\n",
    "not about money": "  own: {provider: a, price: free}\n"
    + ROUTING
    + "    - {name: r, when: {model: own}, use: small, only_if_cheaper: false}\n",
    "a looser budget below a shadow": "budgets:\n  - {name: a, per: run, limit_usd: 5, mode: shadow}\n"
    "  - {name: b, per: run, limit_usd: 6}\n",
    "a looser budget below a notice": "budgets:\n  - {name: a, per: run, limit_usd: 5, on_exceed: notify}\n"
    "  - {name: b, per: run, limit_usd: 6}\n",
    "a looser budget after a cheaper model": "budgets:\n"
    "  - {name: a, per: run, limit_usd: 5, on_exceed: downgrade, to: small}\n  - {name: b, per: run, limit_usd: 6}\n",
    "a looser budget of others": "budgets:\n  - {name: a, per: run, limit_usd: 5, match: {team: red}}\n"
    "  - {name: b, per: run, limit_usd: 6}\n",
    "a longer window": "budgets:\n  - {name: day, per: user, window: 1d, limit_usd: 5}\n"
    "  - {name: week, per: user, window: 1w, limit_usd: 34}\n  - {name: life, per: user, limit_usd: 500}\n",
    "days that begin elsewhere": "budgets:\n  - {name: a, per: user, window: 1d, limit_usd: 5}\n"
    "  - {name: b, per: user, window: 1d, limit_usd: 9, timezone: Asia/Tokyo}\n",
    "teams that keys may lack": "budgets:\n  - {name: a, per: key, limit_usd: 9}\n"
    "  - {name: b, per: team, limit_usd: 5}\n",
    "end users of a key": "auth: {user_from: header}\nbudgets:\n  - {name: a, per: run, limit_usd: 9}\n"
    "  - {name: b, per: user, limit_usd: 5}\n",
    "rates of other things": "rates:\n  - {name: a, per: user, requests_per_minute: 60, new_runs_per_minute: 59}\n"
    "  - {name: b, per: team, requests_per_minute: 10}\n  - {name: c, per: user, max_concurrency: 5}\n",
    "a rate above one in shadow": "rates:\n  - {name: a, per: user, requests_per_minute: 60}\n"
    "  - {name: b, per: user, requests_per_minute: 10, mode: shadow}\n",
    "as many calls of a tool as of all": "runs: {max_tool_calls: 20}\ntools: {t: {max_calls_per_run: 20}}\n",
    "limits of runs that only tell": "runs: {max_tool_calls: 10, on_exceed: notify}\ntools: {t: {max_calls_per_run: 20}}\n",
    "a default that an entry overrides": "tools: {defaults: {max_calls_per_run: 99}, t: {max_calls_per_session: 5}}\n",
    "keys that are all made by the admin API": "rates: [{name: a, per: key, requests_per_minute: 1, match: {key: x}}]\n",
    "the users of a key": KEYS
    + "rates: [{name: a, per: key, requests_per_minute: 1, match: {user: ann, team: red}}]\n",
    "a user that the caller names": "auth: {user_from: header}\n"
    + KEYS
    + "rates: [{name: a, per: key, requests_per_minute: 1, match: {user: bot/eve}}]\n",
    "the one caller": "auth: {mode: open}\nrates: [{name: a, per: key, requests_per_minute: 1, match: {key: local}}]\n",
    "loops of a surface that has some": "loops: {match: {surface: [embeddings, chat]}}\n",
    "a fallback that some key may use": "  main: {provider: a, fallbacks: [small]}\n"
    + KEYS.replace("]}", "]}").replace(
        "max_tool_level: moderate}]", "max_tool_level: moderate}, {name: c, key: cccccccccccccccccccc}]"
    ),
    "weight 0 only stands in": "  main: {provider: a, deployments: {other: 0}}\n",
    "a forbidden tool with what holds for it": "tools: {t: {allow: false, owner: x, on_violation: stop, level: dangerous}}\n",
    "a forbidden tool in shadow": "tools: {t: {allow: false, mode: shadow, max_calls_per_run: 3}}\n",
    "a tool after one that is forbidden for some": "tools: {a: {allow: false, match: {agent: x}}, b: {after: [a]}}\n",
    "a default that forbids": "tools: {defaults: {allow: false, max_calls_per_run: 3}, t: {allow: true}}\n",
    "a tool that is off": "tools: {t: {mode: off, max_calls_per_run: 3}}\n",
    "something to restore": "tools: {t: {restore: true}}\nscreening: {pii: {user: {action: pseudonymise}}}\n",
    "final tools by default": "tools: {defaults: {allow: false}}\n",
    "approvals of tainted calls": "approvals: {hold_s: 5}\ntools: {t: {on_tainted: approve}}\n",
    "a landing of a ladder": "runs: {landing: {output_tokens: 100}}\nloops: {cycle: {nudge: 2, wrap_up: 4}}\n",
    "one loop rule": "loops: {same_call: null, cycle: {nudge: 3}, on_detect: stop}\n",
    "a tool that is not ignored": "loops: {ignore_tools: [t]}\n"
    "tools: {defaults: {allow: false}, t: {allow: true}, u: {allow: true}}\n",
    "an entity of one's own": "screening: {pii: {entities: [], custom: {X: {pattern: 'x{3}'}}}}\n",
    "allowed in one channel": "screening: {secrets: {action: allow, output: {action: redact}}}\n",
    "events that happen": "alerts:\n"
    "  - {name: a, url: https://h.example, on: [kill, run_stopped, breaker_open, budget_exceeded, loop_detected]}\n"
    "budgets: [{name: b, per: run, limit_usd: 1, warn_at: 0.5}]\nloops: {cycle: {nudge: 3}}\n",
    "an alert that is switched off before another": "alerts:\n"
    "  - {name: a, url: '${NOWHERE}', on: claim}\n  - {name: b, url: https://h.example, on: kill}\n",
}


@pytest.mark.parametrize("kind", ALIVE)
def test_a_rule_that_may_fire_is_not_told(kind: str) -> None:
    assert [w for w in found(ALIVE[kind]) if "switched off because" not in w] == []


def test_findings_have_an_end() -> None:
    rules = "".join(f"  - {{name: b{n}, per: run, limit_usd: {n + 1}}}\n" for n in range(120))
    told = found("budgets:\n" + rules)
    assert len(told) == dead_rules.MOST_FINDINGS + 1
    assert told[-1] == " there are more rules without effect than these 50"


def test_a_policy_of_very_many_rules_is_looked_at_in_no_time() -> None:
    budgets = [
        {"name": f"b{n}", "per": "run", "limit_usd": n + 1, "match": {"key": f"k{n}"}} for n in range(1500)
    ]
    rules = [
        {
            "name": f"r{n}",
            "when": {"model": "big", "tokens": {"min": n}, "tag": [f"t{n}=x", f"u{n}=x"]},
            "use": "small",
        }
        for n in range(1500)
    ]
    text = yaml.safe_dump({"budgets": budgets, "routing": {"rules": rules}})
    policy = load_text(BASE + text, {})
    document = _document(BASE + text)
    began = time.process_time()
    list(dead_rules.warnings(document, policy))
    assert time.process_time() - began < 5


def _document(text: str) -> Any:
    node, _ = documents.read(text, "p")
    root, _ = documents.merge([node] if node is not None else [])
    return documents.flatten(root)


# -- routing, against every step of a small world ----------------------------------------------------------

_NAMES = ("big", "small", "other")
_KINDS = ("title", "digest", "planning")
_between = st.one_of(
    st.none(),
    st.tuples(st.integers(0, 3), st.integers(0, 2)).map(lambda p: {"min": p[0], "max": p[0] + p[1]}),
    st.integers(0, 4).map(lambda n: {"min": n}),
    st.integers(0, 4).map(lambda n: {"max": n}),
)


def _some(values: tuple[str, ...]) -> st.SearchStrategy[list[str] | None]:
    return st.one_of(st.none(), st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True))


def _given(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(fields).map(lambda d: {k: v for k, v in d.items() if v is not None})


_CONDITIONS: dict[tuple[str, str], st.SearchStrategy[Any]] = {
    ("when", "model"): _some((*_NAMES, "big*", "s*")),
    ("when", "step"): _some(_KINDS),
    ("when", "tokens"): _between,
    ("when", "tag"): _some(("t=1", "t=2", "v=1")),
    ("when", "budget_used"): st.sampled_from([0.5, 1.0]),
    ("match", "key"): _some(("k", "l")),
    ("match", "tag"): _some(("t=1", "v=1")),
    ("match", "model"): _some(_NAMES),
    ("match", "surface"): _some(("chat", "messages")),
}


@st.composite
def _rule(draw: st.DrawFn) -> dict[str, Any]:
    """A rule with one condition or two: with more, hardly one covers another."""
    rule: dict[str, Any] = {
        "when": {},
        "match": {},
        "mode": draw(st.sampled_from(["enforce", "shadow", "off"])),
    }
    for part, name in draw(st.lists(st.sampled_from(list(_CONDITIONS)), max_size=2, unique=True)):
        if (value := draw(_CONDITIONS[part, name])) is not None:
            rule[part][name] = value
    return rule


_rules = st.lists(_rule(), min_size=2, max_size=5)
_WORLD = list(
    product(
        _NAMES,
        (*_KINDS, "other"),
        (0, 1, 2, 3, 4, 5, 6),
        ({}, {"t": "1"}, {"t": "2"}, {"v": "1"}, {"t": "1", "v": "1"}, {"t": "2", "v": "1"}),
        ("k", "l", "m"),
        (Surface.CHAT, Surface.MESSAGES, Surface.RESPONSES),
        (None, 0.7, 1.0),
    )
)


def _decides(policy: Policy, case: tuple[Any, ...]) -> str | None:
    """The rule that decides about a step, as `gateway.rules.routing.choose` would."""
    model, kind, tokens, tags, key, surface, share = case
    for rule in policy.routing.rules:
        when = rule.when
        if (
            rule.mode != "off"
            and rule.match.covers(key=key, user="u", model=model, surface=surface, agent="a", tags=tags)
            and (when.step is None or kind in when.step)
            and (
                when.model is None
                or any(p == model or (p[-1] == "*" and model.startswith(p[:-1])) for p in when.model)
            )
            and (
                when.tokens is None
                or (when.tokens.min or 0)
                <= tokens
                <= (when.tokens.max if when.tokens.max is not None else 99)
            )
            and (when.tag is None or any(f"{n}={v}" in when.tag for n, v in tags.items()))
            and (when.budget_used is None or (share is not None and share >= when.budget_used))
        ):
            return rule.name
    return None


@settings(max_examples=50, deadline=None)
@given(_rules)
def test_a_routing_rule_is_told_exactly_when_no_step_of_a_small_world_reaches_it(
    rules: list[dict[str, Any]],
) -> None:
    named = [{"name": f"r{n}", "use": "small", **rule} for n, rule in enumerate(rules)]
    text = BASE + yaml.safe_dump(
        {"routing": {"rules": named}, "budgets": [{"name": "b", "per": "run", "limit_usd": 1}]}
    )
    policy = load_text(text, {}, name="p")
    told = {w.split("routing.rules[")[1][0] for w in policy.warnings if "can never fire" in w}
    reached = {name[1:] for case in _WORLD if (name := _decides(policy, case)) is not None}
    on = {str(n) for n, rule in enumerate(rules) if rule["mode"] != "off"}
    assert not told & reached
    # Models of the simulation and kinds of step beyond this world may reach a rule that nothing here does.
    beyond = {
        str(n)
        for n, rule in enumerate(rules)
        if ("model" not in rule["when"] and "model" not in rule["match"]) or "step" not in rule["when"]
    }
    assert on - reached - told <= beyond


# -- budgets, against what a store would count -------------------------------------------------------------

_budget = _given(
    per=st.sampled_from(["run", "run", "session", "user", "key", "team", "global", "model"]),
    window=st.sampled_from([None, None, "1h", "1d"]),
    limit_usd=st.integers(1, 12),
    match=st.sampled_from([None, None, None, {"key": "k"}, {"model": "b*"}, {"model": ["big", "small"]}]),
    on_exceed=st.sampled_from([None, None, "final_message", "notify"]),
    mode=st.sampled_from([None, None, "shadow"]),
)


class _Books:
    """Counters as a store keeps them, for steps one after the other."""

    def __init__(self, policy: Policy) -> None:
        self.book = Rulebook(policy)
        self.used: dict[str, int] = {}
        self.stopped: set[str] = set()
        """Budgets that refused a step, or would have, which all other enforced ones let through."""

    def step(self, scopes: Scopes, cost: int, now: int) -> None:
        charges = self.book.charges(scopes, now, {})
        counters = {c.rule: c.counter + (f":{c.windows[0].id}" if c.windows else "") for c in charges}
        full = {c.rule for c in charges if self.used.get(counters[c.rule], 0) + cost > c.limit}
        refusing = {c.rule for c in charges if c.rule in full and c.enforced}
        for rule in full:
            if not refusing - {rule}:
                self.stopped.add(rule)
        if not refusing:
            for counter in counters.values():
                self.used[counter] = self.used.get(counter, 0) + cost


def _scopes(random_: random.Random) -> Scopes:
    key = random_.choice("kl")
    session = random_.choice("st")
    run = random_.choice("rq")
    return Scopes(
        principal=f"key:{key}", run=f"{key}{session}{run}", session=f"{key}{session}", session_named=True,
        user={"k": "ann", "l": "bob"}[key], key=key, team=random_.choice([None, "red"]) if key == "l" else "red",
        model=random_.choice(["big", "small"]), agent="a", surface=Surface.CHAT, tags={},
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(_budget, min_size=2, max_size=5), st.integers(0, 2**32))
def test_a_budget_that_is_told_never_stops_a_step_alone(budgets: list[dict[str, Any]], seed: int) -> None:
    named = [{"name": f"b{n}", **budget} for n, budget in enumerate(budgets)]
    policy = load_text(BASE + yaml.safe_dump({"budgets": named}), {}, name="p")
    told = {f"b{w.split('budgets[')[1].split(']')[0]}" for w in policy.warnings if "is never reached" in w}
    random_ = random.Random(seed)
    books = _Books(policy)
    now = 1_800_000_000_000
    for _ in range(300):
        # What no budget has room for says nothing about which of them comes first.
        books.step(_scopes(random_), random_.randint(1, 900_000_000), now)
        now += random_.randint(0, 1_800_000)
    assert not told & books.stopped


# -- whatever the policy -----------------------------------------------------------------------------------

_word = st.sampled_from(
    ["big", "small", "a", "t", "u", "red", "*", "s*", "defaults", "final_answer", "\u202e", "x" * 200]
)


@settings(max_examples=120, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "budgets": st.lists(_budget, max_size=3),
            "tools": st.dictionaries(
                _word,
                _given(
                    allow=st.sampled_from([None, True, False]),
                    after=st.one_of(st.none(), st.lists(_word, max_size=2)),
                    mode=st.sampled_from([None, "off", "shadow"]),
                    max_calls_per_run=st.sampled_from([None, 1, 30]),
                    level=st.sampled_from([None, "dangerous"]),
                ),
                max_size=4,
            ),
            "runs": _given(
                max_tool_calls=st.sampled_from([None, 5]),
                final_tools=st.one_of(st.none(), st.lists(_word, max_size=2)),
                on_exceed=st.sampled_from([None, "wrap_up", "notify"]),
            ),
            "loops": _given(
                ignore_tools=st.one_of(st.none(), st.lists(_word, max_size=2)),
                mode=st.sampled_from([None, "shadow", "off"]),
            ),
            "alerts": st.lists(
                st.sampled_from(
                    [
                        {"url": "https://h.example", "on": ["claim", "loop_detected", "breaker_open"]},
                        {"url": "${NOWHERE}", "on": "kill"},
                    ]
                ),
                max_size=3,
            ),
            "auth": st.sampled_from([{}, {"mode": "open"}, {"mode": "passthrough", "provider": "a"}]),
        }
    )
)
def test_no_policy_breaks_it(parts: dict[str, Any]) -> None:
    for section in ("budgets", "alerts"):
        parts[section] = [{"name": f"n{n}", **each} for n, each in enumerate(parts[section])]
    try:
        policy = load_text(BASE + yaml.safe_dump(parts, allow_unicode=True), {}, name="p")
    except PolicyError:
        return
    assert all(warning.startswith("p:") and warning.isprintable() for warning in policy.warnings)
