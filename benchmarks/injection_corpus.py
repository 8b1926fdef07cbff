"""Training texts for the injection models, made from seed sentences: attacks in documents, and hard negatives.

Everything is drawn from one seeded generator, so that a corpus is the same on every machine.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks import injection_grammar as grammar
from benchmarks import injection_users as users
from benchmarks.injection_benign import BENIGN
from benchmarks.injection_seeds import (
    ATTACKS,
    BARE,
    LANGUAGES,
    PREFIXES,
    SLOTS,
    SUFFIXES,
    USER_ATTACKS,
    USER_BENIGN,
    VOICES,
)

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Text:
    """One labelled text. `start` and `end` are where its attack stands; `kind` its family."""

    text: str
    attack: bool
    kind: str
    start: int = 0
    end: int = 0
    source: str = "own"
    host: str = ""
    """Where the document around the attack comes from, if not from here."""


def fill(rng: random.Random, sentence: str) -> str:
    """A seed with its slots filled, and the slots of what filled them."""
    for _ in range(3):
        sentence = _SLOT.sub(lambda m: rng.choice(SLOTS[m[1]]) if m[1] in SLOTS else m[0], sentence)
    # A verb inside a sentence is lower case, a noun at its beginning upper case.
    sentence = _INNER_VERB.sub(lambda m: m[1] + m[2].lower(), sentence)
    return (sentence[:1].upper() + sentence[1:]).replace("{{", "{").replace("}}", "}")


_VERB_SLOTS = ("edit", "change", "do", "give", "look_up", "wipe", "switch", "money")
_VERBS = "|".join(sorted({verb for slot in _VERB_SLOTS for verb in SLOTS[slot]}, key=len, reverse=True))
_INNER_VERB = re.compile(rf"([\w,] )({_VERBS})\b")


def _lower(sentence: str) -> str:
    keep = (len(sentence) > 1 and sentence[1].isupper()) or sentence.startswith(("I ", "{"))
    return sentence if keep else sentence[:1].lower() + sentence[1:]


def order(rng: random.Random, kind: str, voice: str | None = None) -> tuple[str, str]:
    """An attack of a kind, in some voice: the text and the voice."""
    sentence = fill(rng, rng.choice(ATTACKS[kind]))
    if rng.random() < 0.15:
        sentence += " " + fill(
            rng, rng.choice(ATTACKS[rng.choice(("send_mail", "exfiltrate", "task_for_me", "tool_call"))])
        )
    if voice is None:
        voice = rng.choice(("plain", "courteous") if kind in BARE and rng.random() < 0.6 else VOICES)
    shape = fill(rng, rng.choice(PREFIXES[voice]).replace("{x}", "\0x").replace("{l}", "\0l"))
    text = shape.replace("\0x", sentence).replace("\0l", _lower(sentence))
    suffix = rng.choice(SUFFIXES) if kind not in BARE or rng.random() < 0.3 else ""
    return (f"{text} {suffix}" if suffix else text), voice


def _typos(rng: random.Random, text: str) -> str:
    chars = list(text)
    for _ in range(max(1, len(chars) // 30)):
        at = rng.randrange(len(chars) - 1) if len(chars) > 1 else 0
        if chars[at].isalpha():
            match rng.randrange(3):
                case 0:
                    chars[at] = ""
                case 1:
                    chars[at] *= 2
                case _ if at + 1 < len(chars):
                    chars[at], chars[at + 1] = chars[at + 1], chars[at]
    return "".join(chars)


def disguise(rng: random.Random, text: str) -> str:
    """Mostly the text itself; else with typos, in capitals, without them, or over several lines."""
    match rng.randrange(14):
        case 0:
            return _typos(rng, text)
        case 1:
            return text.upper()
        case 2:
            return text.lower()
        case 3:
            return text.replace(" ", "\n", rng.randrange(1, 8))
        case _:
            return text


# --- where an attack stands


def benign_text(rng: random.Random, kind: str, most: int = 7) -> str:
    """A document of one kind."""
    sentences = [fill(rng, rng.choice(BENIGN[kind])) for _ in range(rng.randint(1, most))]
    return (
        "\n"
        if kind in ("cli", "readme", "log", "code", "chat", "record", "notes")
        else rng.choice((" ", "\n", " "))
    ).join(sentences)


_WRAPS = (
    *["{}"] * 8,
    "<!-- {} -->",
    "# {}",
    "// {}",
    "/* {} */",
    "> {}",
    "- {}",
    '<span style="color:white">{}</span>',
    '<img alt="{}" src="x.png">',
    '"comment": "{}"',
    '{{"description": "{}"}}',
    '{{"note": "{}", "id": 7}}',
    "2026-03-14 09:12:44 WARN message={}",
    "| {} | 12 | open |",
    "Review: {} 5 stars",
    "Signature: {}",
    "Description: {}",
    "P.S. {}",
    "Bio: {}",
    "Registrant Organization: {}",
    "Name: {}",
    "Comment: {}",
    "Author: {}",
    "Location: {}",
    "address: {}",
    "Tags: news, {}, sport",
    "--------\n{}\n--------",
    "Subject: {}",
    "[hidden text: {}]",
    "title: {}",
    "\n\n\n{}\n\n\n",
    "**{}**",
    "```\n{}\n```",
)


Host = tuple[str, str]
"""A harmless document, and where it comes from."""


def insert(rng: random.Random, document: Host, attack: str, kind: str) -> Text:
    """The attack at the start, the end or some line, sentence or JSON string of the host."""
    host, origin = document
    shape = rng.choice(_WRAPS).replace("{{", "{").replace("}}", "}")
    head, tail = shape.split("{}", 1)
    if host.lstrip().startswith("{") and '"' in host and rng.random() < 0.6:
        return _into_json(rng, document, attack, kind)
    places = [0, len(host), *(m.end() for m in re.finditer(r"[.!?]\s|\n", host))]
    at = rng.choice((0, len(host), rng.choice(places), rng.choice(places)))
    joint = rng.choice((" ", "\n", "\n\n"))
    before = host[:at] + joint * bool(at) + head
    after = tail + joint * (at < len(host)) + host[at:]
    return Text(before + attack + after, True, kind, len(before), len(before) + len(attack), host=origin)


def _into_json(rng: random.Random, document: Host, attack: str, kind: str) -> Text:
    host, origin = document
    quoted = json.dumps(attack, ensure_ascii=rng.random() < 0.3)[1:-1]
    ends = [m.start() for m in re.finditer(r'(?<=[\w.!])"\s*[,}]', host)]
    if not ends:
        text = json.dumps({"result": host, "message": attack}, ensure_ascii=False)
        at = text.index(json.dumps(attack, ensure_ascii=False)[1:-1])
        return Text(text, True, kind, at, len(text), host=origin)
    at = rng.choice(ends)
    # At the end of a string, or instead of it.
    begin = host.rfind('"', 0, at) + 1 if rng.random() < 0.6 else 0
    if begin and host[begin - 3 : begin - 1] in (": ", '":'):
        text = host[:begin] + quoted + host[at:]
        return Text(text, True, kind, begin, begin + len(quoted), host=origin)
    before = host[:at] + " "
    return Text(before + quoted + host[at:], True, kind, len(before), len(before) + len(quoted), host=origin)


# --- corpora


def requests(rng: random.Random, asked: Sequence[Host], hosts: Sequence[Host]) -> Iterator[Text]:
    """What users ask, as somebody else's orders in a document."""
    for text, origin in asked:
        yield placed(rng, hosts, text, f"request/{origin}", alone=0.0)


def tool_attacks(
    rng: random.Random, hosts: Sequence[Host], each: int, kinds: Sequence[str] | None = None
) -> Iterator[Text]:
    """`each` attacks of every kind; two of three in a host document."""
    for kind in kinds or ATTACKS:
        # What overrides comes with every other attack; it has to be known by itself as well.
        for _ in range(each * 3 if kind in ("override", "reveal_prompt") else each):
            voice = (
                rng.choice(("override", "addressed", "system", "task", "turn"))
                if kind == "off_topic" and rng.random() < 0.8
                else None
            )
            text, voice = order(rng, kind, voice)
            text = disguise(rng, text)
            name = f"{kind}/{voice}"
            # A request is an attack only by what is around it.
            bare = kind in BARE and voice in ("plain", "courteous", "polite")
            yield placed(rng, hosts, text, name, 0.0 if bare else 0.2)


def generated(rng: random.Random, hosts: Sequence[Host], each: int) -> Iterator[Text]:
    """Orders of the grammar, unmarked and marked, half of them in results of the grammar; and such results
    without one."""
    for group in range(grammar.GROUPS):
        for number in range(each * 3 // 2):
            bare = number < each
            told = grammar.order(rng, group) if bare else grammar.marked(rng, group)
            said = disguise(rng, told)
            # What follows an order is none, and must not be learned as one.
            whole = f"{said} {grammar.reason(rng)}".strip() if bare else said
            name = f"{'unmarked' if bare else 'marked'} {group + 1}"
            if rng.random() < 0.5:
                text = placed(rng, hosts, whole, name, alone=0.0 if bare else 0.1)
                yield replace(text, end=text.end - (len(whole) - len(said)))
                continue
            result = grammar.result(rng, whole)
            start, end = found_in(result, said)
            yield Text(result, True, name, start, end)
    for language in grammar.FOREIGN:
        for _ in range(each // 4):
            said = grammar.foreign_order(rng, language)
            yield placed(rng, hosts, said, f"language/{language}", alone=0.0)
    for _ in range(each * grammar.GROUPS * 4 // 3):
        yield Text(grammar.result(rng, None), False, "results")


def found_in(text: str, said: str) -> tuple[int, int]:
    """Where an order stands that was quoted in some way."""
    for form in (said, json.dumps(said)[1:-1], json.dumps(said, ensure_ascii=False)[1:-1], repr(said)[1:-1]):
        at = text.find(form)
        if at >= 0:
            return at, at + len(form)
    start = text.find(said[:12])
    return (start, start + len(said)) if start >= 0 else (0, 0)


def foreign_attacks(rng: random.Random, hosts: Sequence[Host], each: int, half: int) -> Iterator[Text]:
    """Attacks in other languages, of one half of the sentences, in hosts of that language or any other."""
    for code, (attacks, benign) in LANGUAGES.items():
        for _ in range(each):
            text = " ".join(fill(rng, s) for s in rng.sample(attacks[half::2], rng.choice((1, 1, 2))))
            host = (" ".join(fill(rng, s) for s in rng.sample(benign[half::2], rng.randint(1, 5))), "")
            if rng.random() < 0.4:
                host = rng.choice(hosts)
            yield placed(
                rng, (host,), disguise(rng, text) if code not in ("zh", "ja") else text, f"language/{code}"
            )


def placed(rng: random.Random, hosts: Sequence[Host], text: str, name: str, alone: float = 0.2) -> Text:
    """An attack in one of the hosts or of the documents made here, or, at the rate `alone`, by itself."""
    if rng.random() < alone:
        return Text(text, True, name, 0, len(text))
    host, origin = (
        rng.choice(hosts) if rng.random() < 0.6 else (benign_text(rng, rng.choice(tuple(BENIGN))), "")
    )
    if len(host) > 3000:
        at = rng.randrange(len(host) - 2500)
        host = host[at : at + rng.randint(300, 2500)]
    return insert(rng, (host, origin), text, name)


def tool_benign(rng: random.Random, each: int) -> Iterator[Text]:
    """Hard negatives of every kind, mixed documents, other languages."""
    for kind in BENIGN:
        for _ in range(each):
            yield Text(benign_text(rng, kind), False, kind)
    kinds = tuple(BENIGN)
    for _ in range(each * 3):
        yield Text(
            "\n".join(benign_text(rng, rng.choice(kinds), 4) for _ in range(rng.randint(2, 4))),
            False,
            "mixed",
        )


def foreign_benign(rng: random.Random, each: int, half: int) -> Iterator[Text]:
    """Harmless texts in other languages, of one half of the sentences."""
    for code, (_attacks, benign) in LANGUAGES.items():
        for _ in range(each):
            joint = rng.choice((" ", "\n"))
            chosen = rng.sample(benign[half::2], rng.randint(1, 5))
            yield Text(joint.join(fill(rng, s) for s in chosen), False, f"language/{code}")


def foreign_user_attacks(rng: random.Random, each: int, half: int) -> Iterator[Text]:
    """What users try in other languages."""
    for code, (attacks, benign) in LANGUAGES.items():
        telling = [
            s for s in attacks[half::2] if not any(slot in s for slot in ("{tool}", "{account}", "{product}"))
        ]
        for _ in range(each):
            host = (fill(rng, rng.choice(benign[half::2])), "")
            yield asked(rng, (host,), fill(rng, rng.choice(telling)), f"language/{code}")


def user_attacks(rng: random.Random, questions: Sequence[Host], each: int) -> Iterator[Text]:
    """What users try: by itself, after a harmless question, or before one."""
    for kind, sentences in USER_ATTACKS.items():
        for _ in range(each):
            text = " ".join(fill(rng, s) for s in rng.sample(sentences, rng.choice((1, 1, 2))))
            yield asked(rng, questions, disguise(rng, text), kind)
    for kind in ("override", "reveal_prompt"):
        for _ in range(each):
            text, voice = order(
                rng, kind, rng.choice(("override", "system", "turn", "authority", "hypothetical"))
            )
            yield asked(rng, questions, disguise(rng, text), f"{kind}/{voice}")


def users_grammar(rng: random.Random, questions: Sequence[Host], each: int) -> Iterator[Text]:
    """Attempts and harmless prompts of the grammar."""
    for _ in range(each):
        yield asked(rng, questions, disguise(rng, users.attack(rng)), "user_grammar")
        yield Text(disguise(rng, users.question(rng)), False, "trigger_grammar")


def asked(rng: random.Random, questions: Sequence[Host], text: str, kind: str) -> Text:
    question, origin = rng.choice(questions)
    question = question[:600]
    match rng.randrange(5):
        case 0:
            before = question + rng.choice((" ", "\n", "\n\n"))
            return Text(before + text, True, kind, len(before), len(before) + len(text), host=origin)
        case 1:
            return Text(text + rng.choice((" ", "\n")) + question, True, kind, 0, len(text), host=origin)
        case _:
            return Text(text, True, kind, 0, len(text))


def user_benign(rng: random.Random, hosts: Sequence[Host], each: int) -> Iterator[Text]:
    """Questions with the words that attacks use, and questions about pasted documents."""
    for sentence in USER_BENIGN:
        for _ in range(each):
            text = fill(rng, sentence)
            if rng.random() < 0.2:
                text += " " + fill(rng, rng.choice(USER_BENIGN))
            yield Text(disguise(rng, text), False, "trigger_words")
    asks = (
        "Summarise this:",
        "What does this mean?",
        "Please fix this:",
        "Translate into {language}:",
        "Is this correct?",
        "Explain:",
    )
    for _ in range(each * 40):
        kind = rng.choice(tuple(BENIGN))
        pasted = benign_text(rng, kind, 4) if rng.random() < 0.5 else rng.choice(hosts)[0][:1500]
        yield Text(fill(rng, rng.choice(asks)) + "\n\n" + pasted, False, f"pasted/{kind}")
