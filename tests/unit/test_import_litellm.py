"""Policies made from LiteLLM configurations, letter by letter, and what is refused."""

from __future__ import annotations

import random
import re
from decimal import Decimal
from pathlib import Path

import pytest

from gateway import cli
from gateway.commands.import_litellm import Imported, ImportFailed, NotReadable, convert
from gateway.policy.loading import load_text
from gateway.policy.models import Policy

CASES = Path(__file__).parent / "import_litellm"
CONFIGS = sorted(path for path in CASES.glob("*.yaml") if not path.name.endswith(".policy.yaml"))


def loaded(made: Imported) -> Policy:
    """The policy with every variable set."""
    names = re.findall(r"\$\{(\w+)\}", made.text)
    return load_text(made.text, {name: f"https://{name}.example/v1" for name in names})


def config(name: str) -> Imported:
    return convert((CASES / f"{name}.yaml").read_text(), f"{name}.yaml")


def one(params: str, more: str = "") -> Imported:
    return convert(f"model_list: [{{model_name: m, litellm_params: {params}}}]\n{more}", "c.yaml")


def test_there_are_many_configurations() -> None:
    assert len(CONFIGS) >= 10


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_policy_is_made_letter_by_letter(path: Path) -> None:
    made = convert(path.read_text(), path.name)
    assert made.text == path.with_suffix(".policy.yaml").read_text()
    assert made == convert(path.read_text(), path.name)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_everything_that_is_told_stands_in_the_policy_too(path: Path) -> None:
    made = convert(path.read_text(), path.name)
    for note in (*made.to_set, *made.changed, *made.left):
        assert f"# - {note}\n" in made.text
        assert note.isprintable()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_policy_is_valid_and_switched_on(path: Path) -> None:
    assert loaded(convert(path.read_text(), path.name)).switched_off == {}


def test_no_literal_secret_is_repeated() -> None:
    for path in CONFIGS:
        made = convert(path.read_text(), path.name)
        everything = "\n".join((made.text, *made.to_set, *made.changed, *made.left))
        assert "literal" not in everything
        assert "password-" not in everything
        assert "db-password" not in everything
        assert "s3cr3t" not in everything
        assert "hunter2" not in everything
        assert "123456789012" not in everything
    assert [note.split(":")[0] for note in config("secrets").to_set] == [
        "LITELLM_OPENAI_KEY_2",
        "LITELLM_OPENAI_KEY_3",
        "LITELLM_OPENAI_KEY_4",
        "LITELLM_MASTER_KEY",
    ]


def test_a_made_up_variable_is_none_that_the_file_uses() -> None:
    policy = load_text(
        config("secrets").text,
        {
            "LITELLM_OPENAI_KEY": "theirs",
            "LITELLM_OPENAI_KEY_2": "ours",
            "LITELLM_OPENAI_KEY_3": "x",
            "LITELLM_OPENAI_KEY_4": "x",
            "FROM_TEMPLATE": "x",
            "LITELLM_MASTER_KEY": "x" * 20,
        },
    )
    keys = {}
    for model in "abh":
        target = policy.find_model(model)
        assert target
        assert target.provider
        assert target.provider.api_key
        keys[model] = target.provider.api_key.get_secret_value()
    assert keys == {"a": "ours", "b": "ours", "h": "theirs"}


def test_prices_are_exact() -> None:
    price = loaded(config("prices")).models["priced"].price
    assert price not in (None, "free")
    assert price.input_usd_per_mtok == Decimal("0.152587890625")  # type: ignore[union-attr]
    assert price.output_usd_per_mtok == Decimal("0.6")  # type: ignore[union-attr]
    digits = "0.00000012345678901234567890123456789"
    made = one(f"{{model: gpt-4o, input_cost_per_token: {digits}, output_cost_per_token: 0}}")
    assert "input_usd_per_mtok: 0.12345678901234567890123456789," in made.text


@pytest.mark.parametrize(
    ("params", "base_url"),
    [
        ("{model: groq/llama3}", "https://api.groq.com/openai/v1"),
        ("{model: openrouter/a/b}", "https://openrouter.ai/api/v1"),
        ("{model: ollama/llama3}", "http://localhost:11434/v1"),
        ("{model: ollama/llama3, api_base: 'http://gpu:11434/'}", "http://gpu:11434/v1"),
        ("{model: ollama/llama3, api_base: os.environ/OLLAMA}", "https://OLLAMA.example/v1/v1"),
        ("{model: openai/x, api_base: 'https://h/v1/chat/completions'}", "https://h/v1"),
        ("{model: anthropic/x, api_base: 'https://h/v1/messages'}", "https://h"),
        ("{model: x/y, custom_llm_provider: openai, api_base: 'https://h/v1'}", "https://h/v1"),
        (
            "{model: azure/d, api_base: 'https://a.openai.azure.com/openai/v1/'}",
            "https://a.openai.azure.com/openai/v1",
        ),
    ],
)
def test_hosts_are_known(params: str, base_url: str) -> None:
    target = loaded(one(params)).find_model("m")
    assert target
    assert target.provider
    assert target.provider.base_url == base_url


def test_wildcards_lead_where_they_did() -> None:
    policy = loaded(config("wildcards"))
    found = [policy.find_model(name) for name in ("openai/gpt-4o", "anthropic/claude-x", "meta/llama")]
    assert [(target.model.provider, target.upstream_model) for target in found if target] == [
        ("openai", "gpt-4o"),
        ("anthropic", "claude-x"),
        ("openrouter", "meta/llama"),
    ]


def test_an_alias_of_a_group_shares_its_deployments_and_fallbacks() -> None:
    made = convert(
        """
        model_list:
          - {model_name: a, litellm_params: {model: openai/x, api_key: os.environ/ONE, rpm: 10}}
          - {model_name: a, litellm_params: {model: openai/x, api_key: os.environ/TWO, rpm: 30}}
          - {model_name: a-2, litellm_params: {model: groq/y}}
        router_settings: {model_group_alias: {b: a}, fallbacks: [{a: [a-2]}]}
        """,
        "c.yaml",
    )
    models = loaded(made).models
    assert models["a"].deployments == {"a-3": 3.0}
    assert (models["b"].deployments, models["b"].fallbacks) == ({"a-3": 3.0}, ("a-2",))
    assert models["b"].upstream_model == "x"
    assert models["a-3"].provider == "openai-2"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((600, 300, 0), (2, 1, 0)), ((5000, 1, 2500), (1000, 0.2, 500)), ((0, 0, 0), (1, 1, 1))],
)
def test_weights_fit(weights: tuple[int, int, int], expected: tuple[float, float, float]) -> None:
    entries = "".join(
        f"- {{model_name: m, litellm_params: {{model: gpt-4o, weight: {weight}}}}}\n" for weight in weights
    )
    models = loaded(convert(f"model_list:\n{entries}", "c.yaml")).models
    assert (models["m"].weight, *models["m"].deployments.values()) == expected


@pytest.mark.parametrize(
    ("duration", "window"),
    [("1h", "1h"), ("60m", "1h"), ("24h", "1d"), ("7d", "1w"), ("1w", "1w"), ("30d", "1mo"), ("1mo", "1mo")],
)
def test_durations_become_windows(duration: str, window: str) -> None:
    settings = f"litellm_settings: {{max_budget: 5, budget_duration: {duration}}}"
    (budget,) = loaded(one("{model: gpt-4o}", settings)).budgets
    assert (budget.per, budget.window, budget.limit_usd) == ("global", window, Decimal(5))


@pytest.mark.parametrize("duration", ["10d", "1y", "30", "text", "[1]"])
def test_other_durations_are_told(duration: str) -> None:
    made = one("{model: gpt-4o}", f"litellm_settings: {{max_budget: 5, budget_duration: {duration}}}")
    assert made.left == ("litellm_settings.max_budget: a window is 1h, 1d, 1w or 1mo: choose one",)
    assert loaded(made).budgets == ()


def test_cooldowns_can_be_off() -> None:
    made = one("{model: gpt-4o}", "router_settings: {disable_cooldowns: true, allowed_fails: 3}")
    assert loaded(made).providers["openai"].breaker is None


def test_rates_act_where_litellm_enforces_them() -> None:
    settings = "router_settings: {optional_pre_call_checks: [enforce_model_rate_limits]}"
    enforced, shadow = (loaded(one("{model: gpt-4o, rpm: 5}", more)) for more in (settings, ""))
    assert [rate.mode for rate in (*enforced.rates, *shadow.rates)] == ["enforce", "shadow"]


# -- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "c.yaml: got nothing, expected a configuration of LiteLLM"),
        ("[1]", "c.yaml: got a list, expected a configuration of LiteLLM"),
        ("version: 1\nproviders: {}", "c.yaml: got a policy of this gateway (try gateway check), expected"),
        ("services: {}", "c.yaml: got a Compose file"),
        ("apiVersion: v1\nkind: ConfigMap", "c.yaml: got a Kubernetes manifest"),
        ("model_name: x", "c.yaml: got one model without its model_list"),
        ("a: b", "c.yaml: got something else, expected"),
        ("model_list: text", "c.yaml: model_list: got text, expected a list of models"),
        ("model_list: [\n", "c.yaml:2: not valid YAML"),
        ("model_list: []\nmodel_list: []", "c.yaml:2: got this key a second time"),
        ("model_list: !!python/object/apply:os.system [id]", "c.yaml:1: got a YAML tag"),
        ("model_list: " + "[" * 40 + "]" * 40, "c.yaml:1: got more than 32 levels"),
        ("model_list: []\n" + "#" * 2**20, "c.yaml: got more than 1,048,576 bytes"),
    ],
)
def test_other_files_are_refused(text: str, problem: str) -> None:
    with pytest.raises(NotReadable) as refused:
        convert(text, "c.yaml")
    assert str(refused.value).startswith(problem)


def test_aliases_cannot_grow_without_bound() -> None:
    levels = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefg", "bcdefgh", strict=True)]
    with pytest.raises(NotReadable, match="100,000 values"):
        convert("\n".join(levels) + "\nmodel_list: *h", "c.yaml")


def test_what_is_told_is_bounded() -> None:
    unknown = ", ".join(f"k{n}: 1" for n in range(5000))
    made = convert(f"model_list: []\nlitellm_settings: {{{unknown}}}", "c.yaml")
    assert len(made.left) == 201
    assert made.left[-1] == "and 4800 more"


def test_values_of_any_kind_make_a_valid_policy_or_are_told() -> None:
    """Every scalar of the examples replaced by something odd: never an exception, never an invalid policy."""
    odd = (
        "null",
        "true",
        "-1",
        "0",
        "1e30",
        "''",
        "[x, {y: 1}]",
        "{a: b}",
        "text: x",
        '"\\u2028"',
        "'*'",
        ".5",
    )
    chance = random.Random(7)
    for _ in range(150):
        text = chance.choice(CONFIGS).read_text()
        spots = list(re.finditer(r"(?<=: )[\w./-]+(?=[,}\n])", text))
        for spot in sorted(chance.sample(spots, min(3, len(spots))), key=lambda m: -m.start()):
            text = text[: spot.start()] + chance.choice(odd) + text[spot.end() :]
        try:
            loaded(convert(text, "c.yaml"))
        except NotReadable:
            continue


# -- the command -------------------------------------------------------------------------------------


def run(*arguments: str) -> int:
    try:
        cli.main(["import", "litellm", *arguments])
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def test_the_command_prints_the_policy_and_tells_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(CASES / "secrets.yaml")) == 0
    said = capsys.readouterr()
    assert said.out == (CASES / "secrets.policy.yaml").read_text()
    assert said.err.splitlines()[0].startswith("set: LITELLM_OPENAI_KEY_2: the secret at model_list[0]")
    assert "not carried: environment_variables: " in said.err
    assert "differs: general_settings.master_key: " in said.err


def test_the_command_writes_and_does_not_overwrite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "policy.yaml"
    assert run(str(CASES / "simple.yaml"), "--out", str(out)) == 0
    assert out.read_text() == (CASES / "simple.policy.yaml").read_text()
    assert capsys.readouterr().out == ""
    assert run(str(CASES / "azure.yaml"), "--out", str(out)) == 2
    assert "is not overwritten" in capsys.readouterr().err
    assert out.read_text() == (CASES / "simple.policy.yaml").read_text()


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "No such file"), (b"\xff\xfe", "not UTF-8"), (b"a: b", "something else")]
)
def test_the_command_leaves_with_2_where_there_is_no_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, problem: str
) -> None:
    file = tmp_path / "config.yaml"
    if content is not None:
        file.write_bytes(content)
    assert run(str(file)) == 2
    said = capsys.readouterr()
    assert problem in said.err
    assert said.out == ""


def test_an_invalid_policy_is_called_a_mistake_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(text: str, file: str) -> Imported:
        raise ImportFailed("policy:1: x")

    monkeypatch.setattr("gateway.commands.import_litellm.convert", fail)
    assert run(str(CASES / "simple.yaml")) == 1
    assert "a mistake of the gateway" in capsys.readouterr().err
