"""`gateway test`: a policy's own tests, tried on small policies and on all that are shipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway import cli
from gateway.policy.loading import load
from gateway.policy.messages import PolicyError
from gateway.replay.policy_tests import files_beside, read_suite, run
from gateway.replay.rehearsal import policy_to_test

SHIPPED = Path(__file__).parents[2] / "policies"
NAMES = sorted(path.name for path in SHIPPED.glob("*.yaml") if not path.name.endswith(".test.yaml"))
POLICY = """
version: 1
providers:
  openai: {dialect: openai, base_url: https://api.openai.com/v1, api_key: ${A_KEY_THAT_IS_UNSET}}
  claude: {dialect: anthropic, base_url: https://api.anthropic.com, api_key: file:/run/secrets/no-such-file}
models:
  gpt-4o: {provider: openai, fallbacks: [claude-sonnet-4-5]}
  claude-*: {provider: claude}
auth: {mode: keys}
keys:
  - {name: bot, key: ${BOT_KEY}, user: bot}
  - {name: clerk, key: ${CLERK_KEY}, user: clerk, models: [claude-*]}
budgets:
  - {name: vip, per: run, limit_usd: 1.00, match: {tag: tier=vip}, mode: shadow}
runs: {max_steps: 3, on_exceed: stop}
tools:
  search: {level: safe}
  refund: {level: moderate, arguments: {amount_usd: {max: 50}}}
  wipe: {allow: false}
screening:
  pii: {entities: [EMAIL_ADDRESS], action: pseudonymise}
  secrets: {mode: shadow}
alerts:
  - {name: slack, url: ${SLACK_URL_THAT_IS_UNSET}, on: [pii]}
"""
SECRET = "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"


def outcomes(folder: Path, tests: str, policy: str = POLICY) -> list[dict[str, Any]]:
    (folder / "bot.yaml").write_text(policy)
    (folder / "bot.test.yaml").write_text(tests)
    return run(folder / "bot.yaml", {})


def problems(outcome: dict[str, Any]) -> list[str]:
    return [f"{f['line']}: {f['path']}: {f['problem']}" for f in outcome["failures"]]


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_policy_keeps_what_its_tests_say(name: str) -> None:
    done = run(SHIPPED / name, {})
    assert 4 <= len(done) <= 8
    assert [(o["name"], problems(o)) for o in done if not o["ok"]] == []


def test_what_is_expected_comes_on_every_surface(tmp_path: Path) -> None:
    tests = f"""
tests:
  - name: plain
    expect: {{status: 200, verdict: allow, model: gpt-4o, text: Fine., steps: 1, delivered: []}}
  - name: the shortest conversation with a tool
    surface: responses
    tools: search
    results: nothing found
    answer: {{text: Once more., calls: search}}
    repeat: 2
    expect: {{steps: 2, delivered: search, sent: [nothing found], text_contains: more}}
  - name: on messages, with another key
    surface: messages
    key: clerk
    model: claude-sonnet-4-5
    tools: [search, refund, wipe]
    results: [{{search: one lamp}}]
    answer: [{{calls: [{{refund: {{amount_usd: 80.5}}}}]}}, It is too much.]
    repeat: 2
    expect:
      status: 200
      delivered: []
      text: It is too much.
      rules: [{{rule: tools.refund, why: argument_not_allowed}}, tools.wipe]
      withheld: [wipe]
      sent: [one lamp]
  - name: what a key may not
    key: clerk
    model: gpt-4o
    expect: {{code: model_not_allowed, verdict: refuse, not_sent: [Hello]}}
  - name: a whole request
    request: {{messages: [{{role: system, content: Be short.}}, {{role: user, content: mail a.b@web.example}}], temperature: 0}}
    answer: {{echo: true}}
    expect: {{text: mail a.b@web.example, not_sent: a.b@web.example, sent: Be short., rules: screening.pii}}
  - name: shadow
    user: {SECRET}
    expect: {{status: 200, sent: [{SECRET}], rules: [{{rule: screening.secrets, mode: shadow}}]}}
  - name: a limit
    repeat: 9
    expect: {{steps: 4, code: step_limit_exceeded, run_status: stopped_steps}}
  - name: a failure is served by another
    answer: [{{status: 500}}, {{status: 500}}, Here I am.]
    expect: {{status: 200, model: claude-sonnet-4-5, text: Here I am.}}
  - name: nobody
    headers: {{authorization: Bearer nobody-at-all}}
    expect: {{status: 401, code: invalid_api_key}}
"""
    done = outcomes(tmp_path, tests)
    assert [(o["name"], problems(o)) for o in done if not o["ok"]] == []


def test_what_does_not_come_is_told_with_its_place(tmp_path: Path) -> None:
    tests = """tests:
  - name: all wrong
    user: hello a.b@web.example
    tools: [search, wipe]
    answer: {text: Hm., calls: [search]}
    expect:
      status: 400
      code: secret_blocked
      verdict: refuse
      model: gpt-4o-mini
      rules: [screening.pi, {rule: screening.pii, mode: shadow}]
      sent: [a.b@web.example]
      not_sent: [hello]
      withheld: [search, wipe]
      delivered: [refund]
      text: Ha.
      text_contains: [Ha]
      run_status: killed
"""
    (done,) = outcomes(tmp_path, tests)
    assert (done["ok"], done["file"], done["line"]) == (False, "bot.test.yaml", 2)
    assert problems(done) == [
        "7: status: got 200, expected 400",
        '8: code: got nothing, expected "secret_blocked"',
        '9: verdict: got "redact", expected "refuse"',
        '10: model: got "gpt-4o", expected "gpt-4o-mini"',
        '16: text: got "Hm.", expected "Ha."',
        '18: run_status: got "running", expected "killed"',
        '11: rules[0]: got screening.pii, tools.wipe, expected screening.pi; did you mean "screening.pii"?',
        "11: rules[1]: got screening.pii (enforce, pseudonymise), expected screening.pii (shadow)",
        "15: delivered: got [search], expected [refund]",
        '17: text_contains[0]: got "Hm.", expected it to hold "Ha"',
        '13: not_sent[0]: got "hello" sent to the provider, expected it to be kept back',
        '12: sent[0]: got "a.b@web.example" not sent to the provider, in none of 1 requests, expected it to be',
        '14: withheld[0]: got "search" shown to the model, expected it to be withheld',
    ]


def test_tests_do_not_see_each_other_and_say_the_same_again(tmp_path: Path) -> None:
    test = "  - {name: step, tools: [search], answer: {calls: [search]}, repeat: 3, expect: {status: 200, steps: 3}}\n"
    first = outcomes(tmp_path, "tests:\n" + 3 * test)
    assert [o["ok"] for o in first] == [True, True, True]
    assert run(tmp_path / "bot.yaml", {}) == first


def test_a_limit_ends_the_agent(tmp_path: Path) -> None:
    (done,) = outcomes(
        tmp_path,
        "tests:\n  - {name: end, tools: [search], answer: {calls: [search]}, repeat: 9,\n"
        "     expect: {code: step_limit_exceeded, steps: 4, run_status: stopped_steps}}\n",
    )
    assert problems(done) == []


MISTAKES = {
    "tests: []": ["1: tests: got an empty list, expected at least one entry"],
    "": ["1: got something else, expected `tests: [...]`"],
    "- a": ["1: got something else, expected `tests: [...]`"],
    "tests: [{name: a, expect: {status: 200}}]\ntest: x": [
        '2: test: got an unknown key, expected one of tests; did you mean "tests"?'
    ],
    "tests:\n  - {name: a, surface: chatt, expect: {verdict: refuze}}": [
        '2: tests[0].surface: got "chatt", expected chat, responses or messages; did you mean "chat"?',
        '2: tests[0].expect.verdict: got "refuze", expected allow, flag, redact, reroute, wrap_up or refuse; '
        'did you mean "refuse"?',
    ],
    "tests:\n  - {name: a, answer: {txt: x}, expect: {status: 20}}": [
        "2: tests[0].answer.txt: got an unknown key, expected one of text, calls, echo, status; "
        'did you mean "text"?',
        "2: tests[0].expect.status: got 20, expected at least 200",
    ],
    "tests:\n  - {name: a, key: bott, expect: {code: pii_blockd}}": [
        '2: tests[0].key: got "bott", expected a key of the policy: bot or clerk; did you mean "bot"?',
        '2: tests[0].expect.code: got "pii_blockd", expected an error code of docs/errors.md; '
        'did you mean "pii_blocked"?',
    ],
    "tests:\n  - {name: a, user: x, request: {stream: true}, expect: {status: 200}}": [
        '2: tests[0].user: got "x", expected it inside `request`, which stands for the whole conversation',
        "2: tests[0].request.stream: got true, expected nothing: answers of tests are not streamed",
    ],
    "tests:\n  - {name: a, tools: [search], results: [{serch: x}], expect: {withheld: wip}}": [
        '2: tests[0].results[0]: got a result of "serch", expected one of search; did you mean "search"?',
        '2: tests[0].expect.withheld[0]: got "wip", expected a tool that the request offers',
    ],
    "tests:\n  - {name: a, answer: {calls: [{search: 1}]}, expect: {}}": [
        "2: tests[0].answer.calls[0]: got a mapping, expected a call such as {refund: {amount_usd: 80}}, "
        "or the name of a tool"
    ],
    "tests:\n  - {name: a, name: b, expect: {status: 200}}": [
        "2: tests[0].name: got this key a second time, expected it once (first in line 2)"
    ],
    "tests: [": ["2: not valid YAML: did not find expected node content"],
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_in_a_file_are_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "bot.yaml").write_text(POLICY)
    file = tmp_path / "bot.test.yaml"
    file.write_text(text)
    with pytest.raises(PolicyError) as caught:
        read_suite(file, policy_to_test(tmp_path / "bot.yaml", {}))
    assert [f"{m.line}: {m.path}: {m.problem}" if m.path else f"{m.line}: {m.problem}"
            for m in caught.value.mistakes] == MISTAKES[text]  # fmt: skip


def test_a_folder_has_its_tests_and_does_not_read_them_as_policy(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "bot.yaml").write_text(POLICY.replace("file:/run/secrets/no-such-file", "none"))
    test = "tests:\n  - {name: a, expect: {status: 200}}\n"
    for name in ("a.test.yaml", "b.test.yml", ".hidden.test.yaml"):
        (folder / name).write_text(test)
    assert [path.name for path in files_beside(folder)] == ["a.test.yaml", "b.test.yml"]
    kept = load(folder, {"A_KEY_THAT_IS_UNSET": "x" * 20, "BOT_KEY": "y" * 20, "CLERK_KEY": "z" * 20})
    assert [path.name for path in kept.source] == ["bot.yaml"]
    assert [path.name for path in policy_to_test(folder, {}).source] == ["bot.yaml"]
    assert [(o["file"], o["ok"]) for o in run(folder, {})] == [("a.test.yaml", True), ("b.test.yml", True)]


def test_the_example_of_the_documentation_holds(tmp_path: Path) -> None:
    text = (SHIPPED.parent / "docs" / "policy.md").read_text().partition("## Tests of a policy")[2]
    example = tmp_path / "example.test.yaml"
    example.write_text(text.partition("```yaml\n")[2].partition("```")[0])
    assert [(o["name"], problems(o)) for o in run(SHIPPED / "support-bot.yaml", {}, example)] == [
        ("secrets do not leave", []),
        ("large refunds are not made", []),
    ]


@pytest.mark.parametrize(
    "policy",
    [
        "providers: {azure: {dialect: azure_openai, base_url: 'https://${NAME}.openai.azure.com', "
        "api_key: file:/run/secrets/none, api_version: '2024-10-21'}}\n"
        "models: {gpt-4o: {provider: azure}}\nauth: {mode: keys}\n"
        "keys: [{name: bot, key: file:/run/secrets/bot, team: '${TEAM}'}]\n"
        "alerts: [{name: hook, url: file:/run/secrets/hook, on: [pii]}]",
        "providers: {own: {dialect: openai, base_url: '${URL}', api_key: none}}\n"
        "models: {local: {provider: own, price: free}}\nauth: {mode: keys}",
        "providers: {openai: {dialect: openai, base_url: https://api.openai.com/v1}}\n"
        "models: {gpt-4o: {provider: openai}}\nauth: {mode: passthrough, provider: openai}",
    ],
    ids=["azure, secret files", "a server of one's own, stored keys", "passthrough"],
)
def test_whatever_providers_and_callers_a_policy_has(tmp_path: Path, policy: str) -> None:
    expected = "expect: {status: 200, text: Fine.}"
    tests = f"tests: [{{name: a, {expected}}}, {{name: b, surface: responses, {expected}}}]"
    done = outcomes(tmp_path, tests, "version: 1\n" + policy)
    assert [problems(o) for o in done] == [[], []]


def test_the_command_prints_a_line_each_and_leaves_with_1_when_one_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bot.yaml").write_text(POLICY)
    other = tmp_path / "others.yaml"
    other.write_text(
        "tests:\n  - {name: good, expect: {status: 200}}\n  - {name: bad, expect: {status: 400}}\n"
    )
    arguments = ["test", str(tmp_path / "bot.yaml"), "--tests", str(other)]
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 1
    assert capsys.readouterr().out.splitlines() == [
        "ok     others.yaml:2: good",
        "FAILED others.yaml:3: bad",
        "       others.yaml:3: status: got 200, expected 400",
        "",
        "1 passed, 1 FAILED",
    ]
    with pytest.raises(SystemExit) as left:
        cli.main([*arguments, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (left.value.code, told["passed"], told["failed"]) == (1, 1, 1)
    assert told["tests"][1]["failures"] == [{"line": 3, "path": "status", "problem": "got 200, expected 400"}]
    with pytest.raises(SystemExit) as left:
        cli.main(arguments[:2])
    assert left.value.code == 1
    assert "got no tests, expected bot.test.yaml beside it" in capsys.readouterr().err
    other.write_text("tests:\n  - {name: good, expect: {status: 200}}\n")
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 0
