"""The tiers behind the embedded detector of instructions, in a policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.policy.loading import load_text
from gateway.policy.messages import PolicyError
from tests.support.tiny_classifier import make

JUDGES = """version: 1
providers:
  a: {dialect: openai, base_url: "http://127.0.0.1:1/v1", api_key: none%s}
models: {"m-*": {provider: a, price: free}}
screening: {injection: {judge: {model: %s%s}}}
"""


def said(text: str) -> list[str]:
    with pytest.raises(PolicyError) as raised:
        load_text(text, {})
    return [f"{mistake.path}: {mistake.problem}" for mistake in raised.value.mistakes]


def classifier(place: Path, more: str = "") -> str:
    return f"version: 1\nscreening: {{injection: {{classifier: {{directory: {place}{more}}}}}}}\n"


def test_a_sent_policy_cannot_have_other_files_loaded(tmp_path: Path) -> None:
    text = classifier(make(tmp_path / "good"))
    base = load_text(text, {})
    assert load_text(text, base=base).version == base.version
    for place in (tmp_path / "none", tmp_path, make(tmp_path / "other")):
        with pytest.raises(PolicyError) as raised:
            load_text(classifier(place), base=base)
        assert [mistake.problem for mistake in raised.value.mistakes] == [
            "got a change, expected what the active policy says: a policy sent by API cannot change it"
        ]


def test_a_directory_is_looked_into(tmp_path: Path) -> None:
    path = "screening.injection.classifier"
    good = make(tmp_path / "good")
    rule = load_text(classifier(good), {}).screening.injection
    assert rule is not None
    assert rule.classifier is not None
    assert (rule.classifier.uncertain, rule.classifier.max_tokens) == ((0.2, 0.8), 512)
    none = Path("/not/there")
    assert said(classifier(none)) == [f'{path}.directory: got "{none}", expected a directory that is there']
    vague = make(tmp_path / "vague", labels=("LABEL_0", "LABEL_1"))
    assert said(classifier(vague)) == [
        f"{path}.labels: got nothing, expected the labels that mean an attack: the names of the model's do not "
        "say (LABEL_0, LABEL_1)"
    ]
    load_text(classifier(vague, ", labels: [1]"), {})
    load_text(classifier(vague, ", labels: LABEL_1"), {})
    assert said(classifier(vague, ", labels: [LABEL_2]")) == [
        f"{path}.labels: got a list, expected labels of this model (LABEL_0, LABEL_1), by name or number from 0"
    ]


@pytest.mark.parametrize(
    ("surfaces", "model", "problem"),
    [
        ("", "m-1", ""),
        (", surfaces: [responses]", "m-1", ""),
        (
            ", surfaces: [embeddings]",
            "m-1",
            "expected a model on a provider that serves chat, messages or responses",
        ),
        (
            ", surfaces: moderations",
            "m-1",
            "expected a model on a provider that serves chat, messages or responses",
        ),
        ("", "n-1", "expected a model that is configured"),
        ("", "m-*", "expected a model that is configured"),
    ],
)
def test_a_judge_can_be_asked(surfaces: str, model: str, problem: str) -> None:
    text = JUDGES % (surfaces, f'"{model}"', "")
    if problem:
        (mistake,) = said(text)
        assert mistake.startswith("screening.injection.judge.model: got ")
        assert problem in mistake
    else:
        assert load_text(text, {}).warnings == ()


@pytest.mark.parametrize(
    ("band", "warned"), [("[0.3, 0.7]", 0), ("[0.5, 0.7]", 1), ("[0.1, 0.4]", 1), ("[0, 1]", 0)]
)
def test_bounds_that_do_not_hold_the_threshold_are_warned_of(band: str, warned: int) -> None:
    warnings = load_text(JUDGES % ("", "m-1", f", uncertain: {band}"), {}).warnings
    assert len(warnings) == warned
    assert all("does not hold 0.5, the threshold" in warning for warning in warnings)


@pytest.mark.parametrize(
    "band",
    [
        "[0.7, 0.3]",
        "[0.5, 0.5]",
        "[0.1]",
        "[0.1, 0.2, 0.3]",
        "[-0.1, 0.5]",
        "[0.5, 1.1]",
        "[.nan, 0.5]",
        "low",
        "[a, b]",
        "[true, false]",
    ],
)
def test_bounds_are_two_scores_in_order(band: str) -> None:
    (mistake,) = said(JUDGES % ("", "m-1", f", uncertain: {band}"))
    assert "expected two scores from 0 to 1, the lower one first, such as [0.2, 0.8]" in mistake


MODERATES = """version: 1
providers:
  a: {dialect: openai, base_url: "http://127.0.0.1:1/v1", api_key: none%s}
models: {"m-*": {provider: a, price: free}}
screening: {moderation: {model: m-1%s}}
"""


@pytest.mark.parametrize(
    ("surfaces", "more", "problem"),
    [
        ("", "", ""),
        ("", ", by: judge, categories: {rude: 0.5}", ""),
        ("", ", by: judge, categories: {rude: 0.5}, definitions: {rude: swears}, constrained: false", ""),
        (", surfaces: moderations", "", ""),
        ("", ", by: judge", "screening.moderation.by: got a judge alone, expected categories"),
        (
            "",
            ", by: judge, categories: {}",
            "screening.moderation.by: got a judge alone, expected categories",
        ),
        (
            "",
            ", by: judge, categories: {rude: 0.5}, definitions: {ruder: swears}",
            'screening.moderation.definitions.ruder: got "ruder", expected one of the categories',
        ),
        ("", ", categories: {rude: 0.5}, definitions: {rude: swears}", "definitions: is for a judge"),
        ("", ", constrained: false", "constrained: is for a judge"),
        ("", ", by: nobody", "screening.moderation.by: "),
        (
            ", surfaces: moderations",
            ", by: judge, categories: {rude: 0.5}",
            'screening.moderation.model: got "m-1", expected a model on a provider that serves chat',
        ),
    ],
)
def test_a_moderator_can_be_asked(surfaces: str, more: str, problem: str) -> None:
    text = MODERATES % (surfaces, more)
    if problem:
        (mistake,) = said(text)
        assert problem in mistake
    else:
        assert load_text(text, {}).warnings == ()
