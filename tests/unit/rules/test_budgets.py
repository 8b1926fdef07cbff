"""From policy to what a store checks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import Principal
from gateway.policy.loading import load_text
from gateway.rules.budgets import SKEW_MS, Rulebook, Scopes, counter_key, scopes_of
from gateway.rules.kills import kill_name, kill_names, parse_kill_name
from gateway.stores.embedded import choose_window
from gateway.surfaces import chat

POLICY = """
version: 1
providers: {p: {dialect: openai, base_url: http://p/v1}}
models: {m: {provider: p, price: free}}
budgets:
  - {name: run, per: run, limit_usd: 0.50, warn_at: 0.75}
  - {name: day, per: user, window: 1d, limit_usd: 5}
  - {name: red, per: team, limit_usd: 1, match: {team: red}}
  - {name: project, per: "tag:project", limit_usd: 2}
  - {name: quiet, per: key, limit_usd: 3, mode: shadow}
  - {name: told, per: global, limit_usd: 4, on_exceed: notify}
  - {name: gone, per: global, limit_usd: 1, mode: "off"}
"""


def scopes(team: str | None = "red", **tags: str) -> Scopes:
    step = chat.parse(b'{"model":"m","messages":[{"role":"user","content":"x"}]}')
    caller = Principal(id="key:alice", key="alice", user=None, team=team)
    return scopes_of(caller, step, "run_1", "ses_1", False, None, tags)


def test_the_rules_of_a_step_are_those_whose_scope_it_has_and_whose_match_covers_it() -> None:
    book = Rulebook(load_text(POLICY, {}))
    now = 1_800_000_000_000
    assert [c.rule for c in book.charges(scopes(), now, {})] == ["run", "day", "red", "quiet", "told"]
    blue = book.charges(scopes("blue", project="x"), now, {})
    assert [c.rule for c in blue] == ["run", "day", "project", "quiet", "told"]
    assert {c.rule: c.enforced for c in blue} == {
        "run": True, "day": True, "project": True, "quiet": False, "told": False}  # fmt: skip


def test_money_and_warnings_are_whole_nano_dollars_and_topups_add() -> None:
    book = Rulebook(load_text(POLICY, {}))
    charge = book.charges(scopes(), 1_800_000_000_000, {})[0]
    assert (charge.limit, charge.warn_at) == (500_000_000, 375_000_000)
    more = book.charges(scopes(), 1_800_000_000_000, {("run", "run_1"): 7, ("run", "other"): 9})[0]
    assert more.limit == 500_000_007


@given(
    st.integers(1_700_000_000_000, 2_000_000_000_000),
    st.integers(-SKEW_MS, SKEW_MS),
    st.sampled_from(["1h", "1d", "1w", "1mo"]),
    st.sampled_from(["UTC", "Asia/Kolkata", "America/New_York"]),
)
def test_a_clock_that_is_wrong_charges_the_window_of_the_stores_clock(
    now: int, skew: int, window: str, zone: str
) -> None:
    policy = load_text(
        f"version: 1\nbudgets: [{{name: b, per: global, window: {window}, timezone: {zone}, limit_usd: 1}}]\n",
        {},
    )
    right, wrong = (Rulebook(policy).charges(scopes(), now + off, {})[0] for off in (0, skew))
    assert choose_window(wrong, now) == choose_window(right, now)
    (this,) = (w for w in right.windows if int(w.id) * 1000 <= now < w.ends_at)
    assert choose_window(right, now).counter.endswith(f":{this.id}")


def test_a_key_without_a_user_is_its_own_user_and_an_end_user_stands_below_its_key() -> None:
    assert scopes().user == "alice"
    step = chat.parse(b'{"model":"m","messages":[{"role":"user","content":"x"}]}')
    caller = Principal(id="key:a", key="a", user="u")
    assert scopes_of(caller, step, "r", "s", False, "end", {}).user == "a/end"


def test_counter_keys_are_a_stored_format() -> None:
    assert counter_key("run", "run", "key:alice", "run_1") == "run:191d4d955327b76fef8507b1"
    assert counter_key("day", "user", "key:alice", "u") == counter_key("day", "user", "key:bob", "u")
    assert counter_key("s", "session", "key:alice", "x") != counter_key("s", "session", "key:bob", "x")


@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), min_size=2, max_size=6, unique=True))
def test_hostile_ids_never_share_a_counter(ids: list[tuple[str, str]]) -> None:
    keys = {counter_key("s", "session", principal, scope) for principal, scope in ids}
    clean = {(p.replace("\0", ""), s.replace("\0", "")) for p, s in ids}
    if len(clean) == len(ids) and not any("\0" in p + s for p, s in ids):
        assert len(keys) == len(ids)


def test_every_scope_of_a_step_can_be_killed_by_id_or_name() -> None:
    names = kill_names(scopes(), "nightly", "up-model", "key_7")
    assert names == (
        "run_1", "run:run_1", "nightly", "run:nightly", "session:ses_1", "user:alice", "key:alice", "key:key_7",
        "team:red", "model:m", "model:up-model", "global",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "scope", "target"),
    [
        ("global", "global", "all"),
        ("run:a", "run", "a"),
        ("nightly", "run", "nightly"),
        ("user:a:b", "user", "a:b"),
    ],
)
def test_a_flags_name_says_whom_it_means(name: str, scope: str, target: str) -> None:
    assert parse_kill_name(name) == (scope, target)
    if name != "nightly":
        assert kill_name(scope, target) == name
