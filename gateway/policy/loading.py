"""Policy files to a `Policy`, or to every mistake in them.

The way: read the files, parse and merge them (`document.py`), expand references (`expansion.py`), validate
each value (`models.py`) and what holds between values (`checks.py`). Nothing but `PolicyError` is raised,
whatever the files hold, and a policy is used whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gateway.policy import checks, dead_rules, document, expansion, pending, sent
from gateway.policy.document import Document, DocumentError, KeyPath, Place, value_at
from gateway.policy.expansion import Expansion
from gateway.policy.messages import Mistake, PolicyError, from_validation, mistake_at, path_text
from gateway.policy.models import Policy

API_NAME = "policy"
"""What messages call the text of a policy that was sent."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A policy file as it was read. `name` is what messages call it."""

    path: Path
    name: str
    content: bytes


def load(path: Path, env: Mapping[str, str]) -> Policy:
    """The policy in a file, or in the `*.yaml` and `*.yml` files of a folder merged in name order.

    Raises: `PolicyError` with every mistake found, unreadable files included.
    """
    return load_files(read_files(path), env)


def load_text(
    text: str, env: Mapping[str, str] | None = None, *, base: Policy | None = None, name: str = API_NAME
) -> Policy:
    """The policy in a text.

    With `env` the text is read as a file would be. Without, it is one that was sent: `${NAME}` and
    `file:` are mistakes, and what decides where traffic goes and who may send it (`providers`, `auth`,
    `keys`, the URL and secret of alerts) is taken from `base` and may only repeat what `base` says, as it
    is written there or as `shown()` shows it.

    Raises: `PolicyError` with every mistake found.
    """
    written, mistakes = _parse([(name, text)])
    if written is None:
        raise PolicyError(_in_order(mistakes))
    if env is not None:
        return _build(written, expansion.expand(written, env), mistakes, ())
    if base is None:
        return _build(written, expansion.refuse(written), mistakes, ())
    kept, changed = sent.keep(written, base)
    if sent.names_another_directory(written, base):
        # Not to be looked into, so nothing else can be said.
        raise PolicyError(_in_order([*mistakes, *changed]))
    own = expansion.refuse(Document(kept.removed_from(written.data), written.places, written.file))
    return _build(written, own, [*mistakes, *changed], (), kept=kept)


def load_kept(version: str, text: str, base: Policy) -> Policy:
    """A version that was kept, as it governs now: what belongs to the files is taken from `base`, whatever
    the text says of it. Alerts that `base` does not have are left out, for their URLs are not known.

    Raises: `PolicyError` with every mistake found.
    """
    written, mistakes = _parse([(API_NAME, text)])
    if written is None:
        raise PolicyError(_in_order(mistakes))
    policy = load_text(sent.text_of(sent.portable(written.data, base)), base=base)
    policy._version = version
    return policy


def load_candidate(text: str, base: Policy) -> Policy:
    """The policy in a text that is to be tried and never to govern, as `gateway backtest` sends it.

    What a policy that governs by the API may not change may differ here, since no provider is asked and no
    caller let in: a whole policy file is tried as it is. What it leaves out of that, or repeats as `shown()`
    shows it, is as in `base`. Placeholders stand for its variables and secret files, which belong to another
    machine; alerts are left out.

    Raises: `PolicyError` with every mistake found.
    """
    written, mistakes = _parse([(API_NAME, text)])
    if written is None:
        raise PolicyError(_in_order(mistakes))
    if sent.names_another_directory(written, base):
        told = "got a directory, expected none: nothing of this machine is loaded for a policy that is tried"
        path: KeyPath = ("screening", "injection", "classifier", "directory")
        raise PolicyError([mistake_at(written, path, told)])
    data, own = sent.completed(written.data, base)
    told_of = {key: value for key, value in data.items() if key != "alerts"}
    plain = Document(told_of, written.places, written.file)
    policy = _build(plain, expansion.pretend(plain), mistakes, ())
    providers = {
        name: base.providers[name] if name in own and name in base.providers else provider
        for name, provider in policy.providers.items()
    }
    policy = policy.model_copy(update={"providers": providers})
    policy._version = version_of(data)
    return policy


def text_to_send(path: Path) -> str:
    """The policy in a file or folder as it can be sent to a gateway: without what belongs to that gateway's
    files, merged, comments gone. Whether it is valid the gateway says.

    Raises: `PolicyError` when it cannot be read.
    """
    texts = [(file.name, file.content.decode("utf-8-sig", "replace")) for file in read_files(path)]
    written, mistakes = _parse(texts)
    if written is None or mistakes:
        raise PolicyError(_in_order(mistakes))
    return sent.text_of(sent.portable(written.data))


def read_files(path: Path) -> tuple[SourceFile, ...]:
    """The files of a policy, in the order of merging. Tests of a policy and hidden files are no part of it.

    Raises: `PolicyError` when there is none, one cannot be read, or they are too large together.
    """
    try:
        if path.is_dir():
            found = sorted(
                entry
                for entry in path.iterdir()
                if entry.suffix in (".yaml", ".yml")
                and not entry.name.startswith(".")
                and not entry.name.endswith((".test.yaml", ".test.yml"))
                and entry.is_file()
            )
            if not found:
                raise PolicyError([Mistake(str(path), 0, "", "got no *.yaml file, expected at least one")])
        else:
            found = [path]
        files, left = [], document.MAX_BYTES
        for file in found:
            with file.open("rb") as stream:
                content = stream.read(left + 1)
            left -= len(content)
            if left < 0:
                limit = f"got more than {document.MAX_BYTES:,} bytes of policy, expected fewer"
                raise PolicyError([Mistake(file.name, 0, "", limit)])
            files.append(SourceFile(file, file.name, content))
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or "not a path").lower()
        raise PolicyError([Mistake(str(path), 0, "", f"cannot be read: {reason}")]) from None
    return tuple(files)


def load_files(files: Iterable[SourceFile], env: Mapping[str, str]) -> Policy:
    """The policy in files that were read.

    Raises: `PolicyError` with every mistake found.
    """
    texts: list[tuple[str, str]] = []
    mistakes: list[Mistake] = []
    paths = []
    for file in files:
        paths.append(file.path)
        try:
            texts.append((file.name, file.content.decode("utf-8-sig")))
        except UnicodeDecodeError as error:
            line = file.content.count(b"\n", 0, error.start) + 1
            mistakes.append(Mistake(file.name, line, "", "got a byte that is no UTF-8, expected UTF-8 text"))
    written, found = _parse(texts, complete=not mistakes)
    mistakes += found
    if written is None:
        raise PolicyError(_in_order(mistakes))
    return _build(written, expansion.expand(written, env), mistakes, tuple(paths))


def _parse(texts: list[tuple[str, str]], *, complete: bool = True) -> tuple[Document | None, list[Mistake]]:
    """The merged document, `None` when nothing can be validated, and the mistakes so far.

    With a file missing from `texts` (not `complete`), or unreadable, the others would be blamed for what it
    defines, so nothing is merged.
    """
    nodes, problems = [], []
    for name, text in texts:
        if len(text) > document.MAX_BYTES:
            limit = f"got more than {document.MAX_BYTES:,} bytes of policy, expected fewer"
            problems.append(DocumentError(Place(name, 0), (), limit))
            continue
        node, found = document.read(text, name)
        problems += found
        if node is None and not found and len(texts) == 1:
            expected = "got an empty file, expected a policy that begins with version: 1"
            problems.append(DocumentError(Place(name, 1), (), expected))
        if node is not None and not isinstance(node.value, dict):
            problems.append(
                DocumentError(node.place, (), "got something else, expected a mapping of sections")
            )
        elif node is not None:
            nodes.append(node)
    complete = complete and (len(nodes) == len(texts) or not problems)
    if not nodes and not problems and complete:
        files = texts[0][0] if texts else API_NAME
        problems.append(DocumentError(Place(files, 1), (), "got only empty files, expected a policy"))
    elif sum(node.size for node in nodes) > document.MAX_NODES:
        problems.append(DocumentError(nodes[0].place, (), document.TOO_MANY))
        nodes = []
    written = None
    if nodes and complete:
        root, found = document.merge(nodes)
        problems += found
        written = document.flatten(root)
    return written, [Mistake(p.place.file, p.place.line, path_text(p.path), p.problem) for p in problems]


def _build(
    written: Document,
    expanded: Expansion,
    mistakes: list[Mistake],
    source: tuple[Path, ...],
    *,
    kept: sent.Kept | None = None,
) -> Policy:
    """The policy of an expanded document; every mistake found on the way is raised together."""
    off, missing = _switched_off(written, expanded)
    mistakes = [*mistakes, *expanded.mistakes, *missing]
    told = {(m.file, m.line, m.path) for m in mistakes}
    data, to_check, as_written = expanded.data, expanded.data, written.data
    if kept:
        data, to_check = kept.validated_over(data), kept.written_over(data)
        as_written = kept.written_over(written.data)
    policy = None
    try:
        policy = Policy.model_validate(data)
    except ValidationError as error:
        for path, mistake in from_validation(written, error):
            # What cannot be expanded is told once, and is no mistake where it switches something off.
            if path not in expanded.missing and (mistake.file, mistake.line, mistake.path) not in told:
                mistakes.append(mistake)
    mistakes += checks.mistakes(written, to_check)
    if mistakes:
        raise PolicyError(_in_order(mistakes))
    if kept:
        off = kept.switched_off()
    if policy is None or off:
        policy = Policy.model_validate(_live(data, off))
    policy._version = version_of(as_written)
    policy._source = source
    policy._secret_files = kept.base.secret_files if kept else expanded.secret_files
    policy._switched_off = {str(path[1]): why for path, why in off.items() if path[0] == "providers"}
    policy._switched_off_alerts = {
        str(value_at(data, (*path, "name"))): why for path, why in off.items() if path[0] == "alerts"
    }
    policy._document = as_written
    policy._warnings = (
        *(_off_warning(written, path, why) for path, why in off.items()),
        *checks.warnings(written, data),
        *pending.warnings(written),
        *dead_rules.warnings(written, policy),
    )
    return policy


def version_of(data: Any) -> str:
    """Twelve hexadecimal digits that name a document; comments, layout and the order of keys do not count."""

    def plain(value: Any) -> Any:
        if isinstance(value, Decimal):
            return {"number": str(value.normalize())}
        raise TypeError(type(value).__name__)

    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), default=plain)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _switched_off(written: Document, expanded: Expansion) -> tuple[dict[KeyPath, str], list[Mistake]]:
    """Providers and alerts that lack a variable, with the reason; anywhere else the lack is a mistake."""
    off: dict[KeyPath, str] = {}
    mistakes = []
    for path, name in expanded.missing.items():
        if path[0] in ("providers", "alerts") and len(path) > 2:
            off.setdefault(path[:2], f"{name} is unset")
        else:
            problem = f"got ${{{name}}}, which is unset or empty, expected a value for it in the environment"
            mistakes.append(mistake_at(written, path, problem))
    return off, mistakes


def _live(data: dict[str, Any], off: Mapping[KeyPath, str]) -> dict[str, Any]:
    """The data without what is switched off."""
    live = dict(data)
    providers, alerts = data.get("providers"), data.get("alerts")
    if isinstance(providers, dict):
        live["providers"] = {k: v for k, v in providers.items() if ("providers", k) not in off}
    if isinstance(alerts, list):
        live["alerts"] = [v for i, v in enumerate(alerts) if ("alerts", i) not in off]
    return live


def _off_warning(written: Document, path: KeyPath, why: str) -> str:
    place = written.place(path)
    return f"{place.file}:{place.line}: {path_text(path)}: switched off because {why}"


def _in_order(mistakes: Iterable[Mistake]) -> list[Mistake]:
    return sorted(dict.fromkeys(mistakes), key=lambda mistake: (mistake.file, mistake.line))
