"""What is looked for in texts, and what is done about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr

from gateway.policy.fields import (
    Count,
    EntityName,
    Flag,
    Host,
    Label,
    Mode,
    ModelName,
    Name,
    OneOrMore,
    OnFailure,
    OutputTokens,
    Pattern,
    Prose,
    Seconds,
    Share,
    unexpected,
)
from gateway.policy.sections.base import Section
from gateway.policy.sections.callers import EVERYTHING, Match

Action = Literal["allow", "flag", "redact", "mask", "pseudonymise", "neutralise", "block"]


class ChannelAction(Section):
    """What is done with a finding in one channel."""

    action: Action
    """The action."""


class Screen(Section):
    """A screening of text. `user`, `tool` and `output` replace `action` for one channel."""

    mode: Mode = "enforce"
    """`shadow` decides and records, and never acts."""
    action: Action | None = None
    """What is done with a finding; absent means `block`."""
    user: ChannelAction | None = None
    """For what users and the developer say."""
    tool: ChannelAction | None = None
    """For what tools return."""
    output: ChannelAction | None = None
    """For what the model says."""
    on_failure: OnFailure = "refuse"
    """What happens when the screening fails or overruns its time."""
    match: Match = EVERYTHING
    """Calls it applies to."""


class CustomEntity(Section):
    """A kind of personal data of one's own."""

    pattern: Pattern
    """What it looks like, in RE2; a group, if there is one, is the value."""
    words: tuple[str, ...] = ()
    """Words of which one must stand beside it; without any it is found by itself."""
    score: Share = 0.8
    """How sure a finding is; where findings overlap, the surer one counts."""


class PiiScreen(Screen):
    """Screening for personal data."""

    entities: tuple[EntityName, ...] | None = None
    """Kinds of personal data; absent means all that are known."""
    custom: Mapping[EntityName, CustomEntity] = {}
    """Further kinds by name, looked for besides `entities`."""
    language_model: Label | None = None
    """A spaCy model, installed together with presidio-analyzer, by which `PERSON`, `LOCATION`, `ORGANIZATION`
    and `NRP` are found in requests; absent means that names and places are not looked for."""


def _band(value: Any) -> Any:
    scores = [_score(each) for each in value] if isinstance(value, list | tuple) else []
    if len(scores) != 2 or not 0 <= scores[0] < scores[1] <= 1:
        raise unexpected("two scores from 0 to 1, the lower one first, such as [0.2, 0.8]")
    return tuple(scores)


def _score(value: Any) -> float:
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    return float(value) if is_number else math.nan


Band = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1)], ...],
    BeforeValidator(_band),
    Field(min_length=2, max_length=2),
]
"""Two scores: where something begins to be looked at, and where it ends, both included."""


def _directory(value: Any) -> Any:
    if isinstance(value, str) and len(value) <= 4096 and value.startswith("/") and value.isprintable():
        return value
    raise unexpected("a directory from the root on, such as /models/injection")


Directory = Annotated[str, BeforeValidator(_directory), Field(pattern="^/|\\$\\{")]


def _class(value: Any) -> Any:
    if isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable():
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10_000:
        return value
    raise unexpected("a label or its number, such as INJECTION or 1")


Class = Annotated[int | str, BeforeValidator(_class)]
"""One of the labels that a classifier tells apart."""


class InjectionClassifier(Section):
    """A transformer classifier on this machine, for texts of which the embedded detector is not sure."""

    directory: Directory
    """Where its files are, as on the Hugging Face hub: `config.json`, `tokenizer.json`, and `model.onnx` or
    `onnx/model.onnx`; `model.safetensors` where transformers and torch are installed."""
    labels: Annotated[tuple[Class, ...], Field(min_length=1), OneOrMore] | None = None
    """Labels that mean an attack, by name or number; absent means those that `config.json` gives a name that
    says so."""
    threshold: Share = 0.5
    """The probability from which on a text is an attack."""
    uncertain: Band = (0.2, 0.8)
    """Scores of the embedded detector between which the classifier decides; 0.5 is the threshold there."""
    max_tokens: OutputTokens = 512
    """Tokens that it reads at once; longer texts are read in windows that overlap."""
    timeout_s: Seconds = 5.0
    """Seconds by which screening a request may take longer for it."""

    _pinned: Any = PrivateAttr(None)


class InjectionJudge(Section):
    """A model of this policy that is asked about texts of which the detectors before it are not sure."""

    model: ModelName
    """The model, on a provider that serves chat, messages or responses; the texts go there."""
    timeout_s: Seconds = 3.0
    """Seconds until an answer that has not come is none."""
    uncertain: Band = (0.3, 0.7)
    """Scores between which it is asked: the classifier's where that has read the text, else the embedded
    detector's; 0.5 is the threshold of both."""
    max_chars: Count = 8000
    """Characters of a text that it is shown; of a longer one, what is suspicious with the text around it."""
    max_texts: Count = 4
    """Texts of one request that it is asked about, the most suspicious first."""
    constrained: Flag = True
    """Hold its answer to a JSON schema; `false` for a model that knows no such thing."""


class InjectionScreen(Screen):
    """Screening for instructions that someone smuggles in."""

    spotlight: Flag = False
    """Tell the model, in a line before and after each tool result, that what stands there is data."""
    classifier: InjectionClassifier | None = None
    """A transformer classifier on this machine, for texts of which the embedded detector is not sure."""
    judge: InjectionJudge | None = None
    """A model that is asked about texts of which the detectors before it are not sure."""


class LinkScreen(Screen):
    """Screening of the addresses in answers."""

    allow_hosts: tuple[Host, ...] = ()
    """Hosts that may be told anything; with a leading dot, all below it."""


class Moderation(Section):
    """Judgement of answers by a moderation endpoint or a model. Streams are held back whole for it."""

    mode: Mode = "enforce"
    """`shadow` asks and records, and never acts."""
    model: ModelName
    """A model on a provider that serves `/v1/moderations`; with `by: judge`, one on a provider that serves
    chat, messages or responses. The answers go there."""
    by: Literal["endpoint", "judge"] = "endpoint"
    """`judge` asks the model itself how much of each of the `categories` an answer has."""
    categories: Mapping[Label, Share] = {}
    """Scores from which a category counts; absent means what the endpoint itself flags. A judge has those
    that are named here and no others."""
    definitions: Mapping[Label, Prose] = {}
    """What categories of a judge mean, where their names do not say it."""
    constrained: Flag = True
    """Hold a judge's answer to a JSON schema; `false` for a model that knows no such thing."""
    timeout_s: Seconds = 10.0
    """Seconds until a verdict that has not come is none."""
    action: Literal["flag", "block"] = "block"
    """What is done with an answer that is over a threshold."""
    on_failure: OnFailure = "refuse"
    """What happens when there is no verdict."""
    match: Match = EVERYTHING
    """Calls it applies to."""


class ScreenException(Section):
    """Findings that are recorded as in `shadow` and not acted on, for somebody has looked at them. At
    least one of `channel`, `tool` and `type` is given; what is given must all be so."""

    name: Name
    """What the exception is called; say why it is there."""
    detector: Literal["injection", "pii", "secrets", "links", "leak"]
    """Whose findings."""
    channel: (
        Annotated[
            tuple[Literal["system", "user", "tool", "definition", "assistant", "output"], ...],
            Field(min_length=1),
            OneOrMore,
        ]
        | None
    ) = None
    """In which texts."""
    tool: Annotated[tuple[Label, ...], Field(min_length=1), OneOrMore] | None = None
    """In the results, definition or arguments of which tools."""
    type: Annotated[tuple[Label, ...], Field(min_length=1), OneOrMore] | None = None
    """Of which types, such as `EMAIL_ADDRESS`."""
    mode: Literal["enforce", "off"] = "enforce"
    """`off` keeps it without effect."""
    match: Match = EVERYTHING
    """Calls it applies to."""

    def covers(self, detector: str, channel: str, type_: str, tool: str) -> bool:
        """Whether a finding is one of these."""
        return (
            detector == self.detector
            and (self.channel is None or channel in self.channel)
            and (self.tool is None or tool in self.tool)
            and (self.type is None or type_ in self.type)
        )


class Screening(Section):
    """What is looked for in texts."""

    injection: InjectionScreen | None = None
    """Instructions that someone smuggles in."""
    pii: PiiScreen | None = None
    """Personal data."""
    secrets: Screen | None = None
    """Credentials."""
    links: LinkScreen | None = None
    """Addresses in answers that carry data away: pictures of foreign hosts whose address has more than a
    path, and links with personal data or secrets in them."""
    leak: Screen | None = None
    """Passages of the system prompt in answers, sixteen words or more in a row."""
    moderation: Moderation | None = None
    """Content of answers, judged by a moderation endpoint."""
    unscannable: Literal["allow", "flag", "block"] = "flag"
    """What is done with parts that cannot be read, such as images and stored prompts."""
    exceptions: tuple[ScreenException, ...] = ()
    """Findings that are false alarms."""

    @property
    def is_on(self) -> bool:
        """Whether anything is looked for."""
        rules = (self.injection, self.pii, self.secrets, self.links, self.leak)
        return self.unscannable == "block" or any(r is not None and r.mode != "off" for r in rules)
