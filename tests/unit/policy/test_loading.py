"""From files and texts to a policy."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.domain import Surface
from gateway.policy.loading import SourceFile, load, load_files, load_text
from gateway.policy.messages import PolicyError
from gateway.policy.pending import NOT_YET_ENFORCED
from gateway.policy.sections.callers import Match
from gateway.policy.sections.providers import Price
from gateway.policy.sent import HIDDEN, shown

DEFAULT = Path(__file__).parents[3] / "policies" / "default.yaml"

CONTRACT = """
version: 1
providers:
  openai:    {dialect: openai,    base_url: https://api.openai.com/v1, api_key: ${OPENAI_API_KEY}, timeouts: {connect_s: 5, first_byte_s: 300, idle_s: 120, total_s: 600}}   # first_byte and idle bind streams
  anthropic: {dialect: anthropic, base_url: https://api.anthropic.com, api_key: ${ANTHROPIC_API_KEY}}
  vllm:      {dialect: openai,    base_url: http://vllm:8000/v1, api_key: none}
  ollama:    {dialect: openai,    base_url: http://127.0.0.1:11434/v1, api_key: none}
models:
  gpt-4o:       {provider: openai, fallbacks: [claude-sonnet-4-5]}
  gpt-4o-mini:  {provider: openai}
  claude-sonnet-4-5: {provider: anthropic}
  house-llama:  {provider: vllm, upstream_model: meta-llama/Llama-3.3-70B-Instruct, price: {input_usd_per_mtok: 0.20, output_usd_per_mtok: 0.20}}   # also cached_input_…, cache_write_…, request_usd, tiers
  local:        {provider: ollama, upstream_model: llama3.2, price: free}
auth:
  mode: keys              # keys | passthrough | open, see below
keys:                     # or made by the admin API; a stored key is an HMAC, shown once
  - {name: support-bot, key: ${SUPPORT_BOT_KEY}, user: support, team: cx, models: [gpt-4o, gpt-4o-mini]}
budgets:
  - {name: run,           per: run,                 limit_usd: 0.50, warn_at: 0.75, on_exceed: wrap_up}
  - {name: session,       per: session,             limit_usd: 2.00}
  - {name: user-day,      per: user,   window: 1d,  limit_usd: 5.00, timezone: UTC}
  - {name: everyone-hour, per: global, window: 1h,  limit_usd: 100.00}
runs:    {max_steps: 25, max_wall_clock_s: 900, max_tool_calls: 60, max_tokens: 200000, idle_ttl_s: 1800, on_exceed: wrap_up, final_tools: [final_answer]}
loops:   {mode: enforce, same_call: 3, cycle: 3, no_progress: 3, consecutive_tool_errors: 5, ignore_tools: [poll_status], on_detect: wrap_up}
rates:
  - {name: user-rpm, per: user, requests_per_minute: 120}
  - {name: new-runs, per: key,  new_runs_per_minute: 60}
  - {name: team-tpm, per: team, tokens_per_minute: 200000, max_concurrency: 20}
tools:
  defaults: {max_calls_per_run: 20}
  get_order_status: {owner: support-platform, side_effects: none, idempotent: true, timeout_seconds: 5, max_calls_per_session: 3}
  send_email:       {side_effects: external, requires_approval: true, max_calls_per_run: 1}
  delete_records:   {allow: false}
routing:
  rules:
    - {name: cheap-steps, when: {model: gpt-4o, step: [tool_selection, extraction]}, use: gpt-4o-mini}
screening:
  injection: {mode: enforce, user: {action: block}, tool: {action: neutralise}}
  pii:       {mode: enforce, entities: [CREDIT_CARD, US_SSN, EMAIL_ADDRESS, PHONE_NUMBER], action: pseudonymise}
  secrets:   {mode: enforce, action: block}
alerts:
  - {name: slack, url: ${SLACK_WEBHOOK_URL}, on: [budget_warning, run_stopped, injection, breaker_open, spend_anomaly]}
"""

ENV = {
    "OPENAI_API_KEY": "sk-openai-0123456789",
    "ANTHROPIC_API_KEY": "sk-ant-0123456789",
    "SUPPORT_BOT_KEY": "gw-support-0123456789",
    "SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T0/B0/x",
}


def mistakes(text: str, env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(PolicyError) as raised:
        load_text(text, {} if env is None else env, name="p.yaml")
    return [str(mistake) for mistake in raised.value.mistakes]


def test_the_policy_of_the_contract_loads_as_it_is_printed() -> None:
    policy = load_text(CONTRACT, ENV)
    assert policy.providers["openai"].api_key == SecretStr(ENV["OPENAI_API_KEY"])
    assert policy.providers["vllm"].api_key is None
    assert policy.keys[0].key.get_secret_value() == ENV["SUPPORT_BOT_KEY"]
    assert policy.alerts[0].url.get_secret_value() == ENV["SLACK_WEBHOOK_URL"]
    assert [budget.limit_nano for budget in policy.budgets] == [500_000_000, 2 * 10**9, 5 * 10**9, 10**11]
    assert policy.models["local"].price == "free"
    price = policy.models["house-llama"].price
    assert isinstance(price, Price)
    assert price.input_usd_per_mtok == Decimal("0.20")
    assert policy.budgets[2].zone is UTC
    assert policy.routing.rules[0].when.model == ("gpt-4o",)
    assert policy.tool("send_email").max_calls_per_run == 1
    assert policy.tool("get_order_status").max_calls_per_run == 20
    assert policy.tool("anything").max_calls_per_run == 20


def test_what_is_not_enforced_yet_warns_with_its_place() -> None:
    assert load_text(CONTRACT, ENV, name="p.yaml").warnings == (
        "p.yaml:31: tools.get_order_status.idempotent: validated, not yet enforced by this version",
        'p.yaml:9: models.gpt-4o.fallbacks[0]: is never tried: "claude-sonnet-4-5" is among the models of no key '
        "in this file; keys made by the admin API may differ",
    )


def test_every_pending_part_of_the_language_warns() -> None:
    text = """
version: 1
providers: {a: {dialect: openai, base_url: http://a/v1}}
models: {m: {provider: a, fallbacks: [n]}, n: {provider: a}}
loops: {mode: shadow}
tools: {t: {allow: false, idempotent: true}}
routing: {rules: [{name: r, when: {model: m}, use: m}]}
screening: {injection: {output: {action: block}}}
alerts: [{name: a, url: "https://example.com", on: kill}]
passthrough: [{path: /v1/x, provider: a, price: free}]
budgets: [{name: b, per: tool, limit_usd: 1, on_exceed: final_message, on_failure: allow}]
runs: {on_exceed: downgrade, to: m, on_failure: allow}
rates: [{name: r, per: key, requests_per_minute: 1, on_failure: allow}]
"""
    told = [warning for warning in load_text(text, {}).warnings if "not yet enforced" in warning]
    assert len(told) == len(NOT_YET_ENFORCED)


def test_what_is_off_or_enforced_does_not_warn() -> None:
    text = """
version: 1
loops: {mode: off}
tools: {}
budgets:
  - {name: a, per: run, limit_usd: 1, on_exceed: notify}
  - {name: b, per: run, limit_usd: 1, on_exceed: wrap_up, mode: off}
"""
    assert load_text(text, {}).warnings == ()


def test_the_default_policy_loads_with_no_key_at_hand() -> None:
    policy = load(DEFAULT, {})
    assert policy.providers == {}
    assert policy.auth.mode == "open"
    target = policy.find_model("gpt-4o-mini")
    assert target is not None
    assert (target.provider, target.off_because) == (None, "OPENAI_API_KEY is unset")
    assert (
        "default.yaml:15: providers.openai: switched off because OPENAI_API_KEY is unset" in policy.warnings
    )
    budgets = {budget.name: (budget.per, budget.window, budget.limit_usd) for budget in policy.budgets}
    assert budgets == {
        "run": ("run", None, Decimal("0.50")),
        "session": ("session", None, Decimal(2)),
        "user-day": ("user", "1d", Decimal(5)),
        "everyone-hour": ("global", "1h", Decimal(100)),
    }


@pytest.mark.parametrize(
    "name", ["gpt-4o", "gpt-4.1-mini", "gpt-5-nano", "o1", "o3-mini", "o4-mini", "text-embedding-3-small"]
)
def test_the_default_policy_knows_openai_models(name: str) -> None:
    target = load(DEFAULT, ENV).find_model(name)
    assert target is not None
    assert target.provider_name == "openai"
    assert target.provider is not None
    assert target.upstream_model == name


def test_a_name_of_its_own_comes_before_wildcards_and_longer_ones_before_shorter() -> None:
    text = """
version: 1
providers: {a: {dialect: openai, base_url: http://a/v1}}
models:
  "*": {provider: a}
  gpt-*: {provider: a, upstream_model: fixed}
  gpt-4o: {provider: a}
  x/*: {provider: a, upstream_model: "y-*"}
"""
    policy = load_text(text, {})
    found = {name: policy.find_model(name) for name in ("gpt-4o", "gpt-5", "x/m", "other", "gpt-*")}
    assert {name: target and (target.entry, target.upstream_model) for name, target in found.items()} == {
        "gpt-4o": ("gpt-4o", "gpt-4o"),
        "gpt-5": ("gpt-*", "fixed"),
        "x/m": ("x/*", "y-m"),
        "other": ("*", "other"),
        "gpt-*": ("gpt-*", "fixed"),
    }
    assert load_text("version: 1", {}).find_model("gpt-4o") is None


def test_references_are_expanded_inside_texts_with_defaults_and_escapes() -> None:
    text = """
version: 1
providers:
  a: {dialect: openai, base_url: "http://${HOST}:${PORT:-8000}/v1", api_key: "${A_KEY:-none}"}
runs: {max_steps: ${STEPS:-25}, final_tools: ["$${NAME}"]}
"""
    policy = load_text(text, {"HOST": "vllm", "PORT": ""})
    assert policy.providers["a"].base_url == "http://vllm:8000/v1"
    assert policy.providers["a"].api_key is None
    assert policy.runs.max_steps == 25
    assert policy.runs.final_tools == ("${NAME}",)


def test_a_value_from_the_environment_is_not_expanded_again() -> None:
    text = "version: 1\nruns: {final_tools: ['${A}']}"
    assert load_text(text, {"A": "${B}", "B": "x"}).runs.final_tools == ("${B}",)
    text = "version: 1\nkeys: [{name: a, key: '${A}'}]"
    assert load_text(text, {"A": "file:/etc/hostname"}).keys[0].key.get_secret_value() == "file:/etc/hostname"


def test_a_secret_file_is_read_without_its_newline(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("gw-0123456789abcdef\n")
    text = "version: 1\nkeys: [{name: a, key: 'file:${DIR}/key'}]"
    policy = load_text(text, {"DIR": str(tmp_path)})
    assert policy.keys[0].key.get_secret_value() == "gw-0123456789abcdef"
    assert list(policy.secret_files) == [tmp_path / "key"]


def test_an_alert_without_its_variable_is_switched_off() -> None:
    text = "version: 1\nalerts: [{name: a, url: '${HOOK}', on: kill}, {name: b, url: 'https://b', on: kill}]"
    policy = load_text(text, {"HOOK": ""}, name="p.yaml")
    assert [alert.name for alert in policy.alerts] == ["b"]
    assert policy.warnings[0] == "p.yaml:2: alerts[0]: switched off because HOOK is unset"


def test_a_switched_off_provider_is_still_checked() -> None:
    text = "version: 1\nproviders: {a: {dialect: opena, base_url: '${URL}', api_key: '${KEY}'}}"
    assert mistakes(text) == [
        'p.yaml:2: providers.a.dialect: got "opena", expected openai, azure_openai or anthropic; '
        'did you mean "openai"?'
    ]


def test_a_key_that_is_not_used_or_can_be_guessed_warns() -> None:
    text = "version: 1\nauth: {mode: open}\nkeys: [{name: a, key: short}]"
    assert load_text(text, {}, name="p.yaml").warnings == (
        "p.yaml:3: keys: not used: auth.mode is open",
        "p.yaml:3: keys[0].key: shorter than 16 characters, easy to guess",
    )


def test_secrets_print_nowhere() -> None:
    policy = load_text(CONTRACT, ENV)
    printed = f"{policy!r} {policy} {policy.model_dump()} {policy.model_dump_json()} {policy.warnings}"
    assert not [secret for secret in ENV.values() if secret in printed]


def test_the_version_names_the_content_and_not_its_layout_or_the_environment() -> None:
    version = load_text("version: 1\nruns: {max_steps: 3, max_tokens: 9}", {}).version
    assert len(version) == 12
    assert int(version, 16) >= 0
    assert load_text("# x\nversion: 1\nruns:\n  max_tokens: 9\n  max_steps: 3\n", {}).version == version
    assert load_text("version: 1\nruns: {max_steps: 4, max_tokens: 9}", {}).version != version
    other = {name: value + "x" for name, value in ENV.items()}
    assert (
        load_text(CONTRACT, ENV).version
        == load_text(CONTRACT, other).version
        == load_text(CONTRACT, ENV).version
    )


def test_a_folder_is_merged_in_name_order(tmp_path: Path) -> None:
    (tmp_path / "10-base.yaml").write_text(
        "version: 1\nruns: {max_steps: 3, max_tokens: 5}\nbudgets: [{name: a, per: run, limit_usd: 1}]\n"
    )
    (tmp_path / "20-more.yml").write_text(
        "runs: {max_steps: 9}\nbudgets: [{name: b, per: user, limit_usd: 2}]\n"
    )
    (tmp_path / "30-empty.yaml").write_text("")
    (tmp_path / "x.test.yaml").write_text("not: a policy")
    (tmp_path / ".hidden.yaml").write_text("not: a policy")
    (tmp_path / "notes.txt").write_text("not a policy")
    policy = load(tmp_path, {})
    assert (policy.runs.max_steps, policy.runs.max_tokens) == (9, 5)
    assert [budget.name for budget in policy.budgets] == ["a", "b"]
    assert [path.name for path in policy.source] == ["10-base.yaml", "20-more.yml", "30-empty.yaml"]


def test_a_mistake_in_a_folder_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("version: 1\nbudgets: [{name: a, per: run, limit_usd: 1}]\nruns: {}\n")
    (tmp_path / "b.yaml").write_text("budgets:\n  - {name: a, per: run, limit_usd: x}\nruns: []\n")
    with pytest.raises(PolicyError) as raised:
        load(tmp_path, {})
    assert [str(mistake) for mistake in raised.value.mistakes] == [
        'b.yaml:2: budgets[1].limit_usd: got "x", expected a number of dollars such as 10.00',
        'b.yaml:2: budgets[1].name: got "a" a second time, expected a name of its own (first in a.yaml:2)',
        "b.yaml:3: runs: got a list, expected a mapping as in a.yaml:3",
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "gone.yaml", "{path}: cannot be read: no such file or directory"),
        (lambda folder: folder, "{path}: got no *.yaml file, expected at least one"),
    ],
)
def test_a_path_without_a_policy_is_a_mistake(tmp_path: Path, make: object, message: str) -> None:
    path = make(tmp_path)  # type: ignore[operator]
    with pytest.raises(PolicyError) as raised:
        load(path, {})
    assert str(raised.value) == message.format(path=path)


def test_a_folder_of_empty_files_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("")
    (tmp_path / "b.yaml").write_text("")
    with pytest.raises(PolicyError, match=r"^a\.yaml:1: got only empty files, expected a policy$"):
        load(tmp_path, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version: 1\n# \xff", "p.yaml:2: got a byte that is no UTF-8, expected UTF-8 text"),
        (b"#" * 1_048_577, "p.yaml: got more than 1,048,576 bytes of policy, expected fewer"),
    ],
)
def test_unreadable_bytes_are_a_mistake(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(content)
    with pytest.raises(PolicyError) as raised:
        load(path, {})
    assert str(raised.value) == message


def test_anchors_merge_within_a_file() -> None:
    text = "version: 1\nrates:\n - &r {name: a, per: key, requests_per_minute: 5}\n - {<<: *r, name: b}\n"
    assert [(rate.name, rate.requests_per_minute) for rate in load_text(text, {}).rates] == [
        ("a", 5),
        ("b", 5),
    ]


# A policy that was sent


def test_a_sent_policy_expands_nothing() -> None:
    with pytest.raises(PolicyError) as raised:
        load_text("version: 1\nruns: {max_steps: ${STEPS}}\nkeys: [{name: a, key: file:/etc/passwd}]")
    refused = "expected a plain value: a policy sent by API expands nothing"
    assert [str(mistake) for mistake in raised.value.mistakes] == [
        f'policy:2: runs.max_steps: got "${{STEPS}}", {refused}',
        f'policy:3: keys[0].key: got "file:/etc/passwd", {refused}',
    ]


def test_a_sent_policy_keeps_providers_auth_and_keys_of_its_base() -> None:
    base = load_text(CONTRACT, ENV)
    sent = load_text("version: 1\nmodels: {gpt-*: {provider: openai}}", base=base)
    assert sent.providers == base.providers
    assert sent.keys == base.keys
    assert sent.document["keys"] == base.document["keys"]
    assert sent.version != base.version


def test_a_sent_policy_must_fit_the_keys_of_its_base() -> None:
    with pytest.raises(PolicyError) as raised:
        load_text("version: 1\nmodels: {gpt-4o: {provider: opnai}}", base=load_text(CONTRACT, ENV))
    assert [str(mistake) for mistake in raised.value.mistakes] == [
        'policy:1: keys[0].models[1]: got "gpt-4o-mini", expected a model that is configured; '
        'did you mean "gpt-4o"?',
        'policy:2: models.gpt-4o.provider: got "opnai", expected a provider that is configured; '
        'did you mean "openai"?',
    ]


def test_a_policy_that_is_sent_back_unchanged_is_the_same() -> None:
    base = load_text(CONTRACT, {**ENV, "ANTHROPIC_API_KEY": "", "SLACK_WEBHOOK_URL": ""})
    sent = load_text(CONTRACT, base=base)
    assert sent == base
    assert (sent.version, sent.switched_off) == (base.version, base.switched_off)


def test_a_hidden_secret_that_is_sent_back_is_the_same() -> None:
    text = (
        "version: 1\nkeys: [{name: a, key: gw-0123456789abcdef}]\n"
        "alerts: [{name: h, url: 'https://h/x', on: kill}]\n"
    )
    base = load_text(text, {})
    hidden = text.replace("gw-0123456789abcdef", f"'{HIDDEN}'").replace("https://h/x", HIDDEN)
    assert shown(base)["keys"] == [{"name": "a", "key": HIDDEN}]
    assert load_text(hidden, base=base).version == base.version
    assert load_text(hidden, base=base).alerts == base.alerts


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("http://vllm:8000/v1", "http://evil/v1", "3: providers"),
        ("mode: keys  ", "mode: open  ", "14: auth"),
        ("team: cx", "team: root", "16: keys"),
        ("url: ${SLACK_WEBHOOK_URL}", "url: https://evil", "42: alerts[0].url"),
        ("name: slack", "name: other", "42: alerts[0].url"),
    ],
)
def test_a_sent_policy_cannot_change_where_traffic_goes(old: str, new: str, place: str) -> None:
    base = load_text(CONTRACT, ENV)
    assert old in CONTRACT
    with pytest.raises(PolicyError) as raised:
        load_text(CONTRACT.replace(old, new), base=base)
    assert str(raised.value.mistakes[0]) == (
        f"policy:{place}: got a change, expected what the active policy says: "
        "a policy sent by API cannot change it"
    )


# Whatever the text


WORDS = st.sampled_from(
    [
        *("version", "providers", "models", "budgets", "keys", "alerts", "rates", "runs", "tools", "routing"),
        *(
            "name",
            "per",
            "limit_usd",
            "price",
            "tiers",
            "match",
            "url",
            "on",
            "key",
            "api_key",
            "rules",
            "to",
        ),
        *("loops", "same_call", "no_progress", "nudge", "kill", "defaults", "after", "arguments", "pattern"),
        *("values", "min", "max", "breaker", "approvals", "claims", "actions", "hold_s", "(", "a(b)"),
        *(
            "${A}",
            "${",
            "file:/x",
            "tag:x",
            "free",
            "none",
            "gpt-*",
            "*",
            "<prices>",
            "<free>",
            "<count>",
            "<ladder>",
            "[key]",
            "<<",
            "",
        ),
        *("1", "1e99", "-0", ".inf", "true", "null", "~", "9" * 50, "2027-01-01", "\ud800", "\x00"),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=25,
)


def loads_or_tells(text: str) -> None:
    for env in ({}, {"A": "x"}, None):
        try:
            load_text(text, env)
        except PolicyError as error:
            told = [str(mistake) for mistake in error.mistakes]
            assert told
            assert all(line.isprintable() for line in told)
    with suppress(PolicyError):
        load_text(text, base=BASE)


BASE = load_text(CONTRACT, ENV)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!#|>'\"%@`?, \n\t0.~<$\x00\ud800é"), max_size=60))
def test_no_text_brings_anything_but_mistakes(text: str) -> None:
    loads_or_tells(text)
    loads_or_tells("version: 1\n" + text)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(WORDS, VALUES, max_size=6))
def test_no_document_brings_anything_but_mistakes(data: dict[str, object]) -> None:
    loads_or_tells(json.dumps({"version": 1, **data}))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_no_bytes_bring_anything_but_mistakes(content: bytes) -> None:
    with suppress(PolicyError):
        load_files([SourceFile(Path("p.yaml"), "p.yaml", content)], {})


def test_match_narrows_by_every_given_trait() -> None:
    match = Match(team=("cx",), model=("gpt-*",), surface=(Surface.CHAT,), tag=("tier=free",))
    traits = {"team": "cx", "model": "gpt-4o", "surface": Surface.CHAT, "tags": {"tier": "free"}}
    assert match.covers(**traits)  # type: ignore[arg-type]
    changes: tuple[dict[str, object], ...] = (
        {"team": "x"},
        {"team": None},
        {"model": "o1"},
        {"surface": Surface.MESSAGES},
        {"tags": {}},
    )
    for change in changes:
        assert not match.covers(**{**traits, **change})  # type: ignore[arg-type]
    assert Match().covers()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe", "it is not UTF-8 text"),
        (b" \n", "it is empty"),
        (b"x" * 65_537, "it is larger than 65536 bytes"),
        (None, "no such file or directory"),
    ],
)
def test_a_secret_file_that_holds_no_secret_is_a_mistake(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    assert mistakes("version: 1\nkeys: [{name: a, key: 'file:${DIR}/key'}]", {"DIR": str(tmp_path)}) == [
        f'p.yaml:2: keys[0].key: got "file:${{DIR}}/key", expected a readable secret ({reason})'
    ]
