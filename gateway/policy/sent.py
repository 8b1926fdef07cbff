"""What a policy that is sent to the admin API may not change, and how a policy is shown to be sent back.

Where traffic goes and who may send it (providers, auth, keys, the URL and secret of alerts) belongs to the
files, for whoever holds an admin token could otherwise point the gateway's credentials elsewhere; so does
what is loaded from this machine (a classifier's directory). A sent policy may leave these out or repeat them;
they are then those of the base policy, secrets included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import yaml
from pydantic import SecretStr

from gateway.policy.document import Document, KeyPath, value_at
from gateway.policy.expansion import HIDDEN as HIDDEN
from gateway.policy.language import is_secret_at, keys_of
from gateway.policy.messages import Mistake, mistake_at
from gateway.policy.models import Policy

SECTIONS = ("providers", "auth", "keys")
ALERT_KEYS = ("url", "secret")
_CLASSIFIER: KeyPath = ("screening", "injection", "classifier", "directory")
"""Files of this machine that would be loaded."""

_CHANGED = "got a change, expected what the active policy says: a policy sent by API cannot change it"


def shown(policy: Policy) -> dict[str, Any]:
    """The merged document as written, for showing: literal secrets are hidden, references stay.

    Plain data: dict, list, str, int, `Decimal`, bool and None.
    """

    def show(value: Any, path: KeyPath) -> Any:
        if isinstance(value, dict):
            return {key: show(part, (*path, key)) for key, part in value.items()}
        if isinstance(value, list):
            return [show(part, (*path, index)) for index, part in enumerate(value)]
        # A default inside a reference is as literal as a plain value.
        reference = isinstance(value, str) and (
            value == "none" or value.startswith("file:") or (value.startswith("${") and ":-" not in value)
        )
        return HIDDEN if isinstance(value, str) and not reference and is_secret_at(path) else value

    result: dict[str, Any] = show(policy.document, ())
    return result


def as_text(policy: Policy) -> str:
    """The policy as YAML text, comments gone and literal secrets hidden, sections in the reference's order:
    the same text for the same content, but for the order of what is within a section."""
    data = shown(policy)
    return text_of({key: data[key] for key in keys_of(Policy) if key in data})


def text_of(data: Mapping[str, Any]) -> str:
    """A document as YAML text."""
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None
    )


def completed(data: Mapping[str, Any], base: Policy) -> tuple[dict[str, Any], set[str]]:
    """A document with what it leaves out of what belongs to the files, or repeats as it is shown, as `base`
    has it; and the names of the providers that are those of `base`."""
    before, visible = base.document, shown(base)
    whole = dict(data)
    for section in (*SECTIONS, "alerts"):
        left_out = section not in whole and section in SECTIONS
        if section in before and (left_out or whole.get(section) == visible.get(section)):
            whole[section] = before[section]
    mine, theirs = whole.get("providers"), before.get("providers")
    if not isinstance(mine, dict) or not isinstance(theirs, dict):
        return whole, set()
    seen = visible["providers"]
    return whole, {name for name, value in mine.items() if value in (theirs.get(name), seen.get(name))}


def portable(data: Mapping[str, Any], base: Policy | None = None) -> dict[str, Any]:
    """A document without what belongs to the files, to be used with `base`, or with one that is not known."""
    own = {alert["name"] for alert in base.document.get("alerts") or []} if base is not None else None
    left = {key: value for key, value in data.items() if key not in SECTIONS}
    if isinstance(left.get("alerts"), list):
        left["alerts"] = [
            {key: value for key, value in alert.items() if key not in ALERT_KEYS}
            for alert in left["alerts"]
            if isinstance(alert, dict) and (own is None or alert.get("name") in own)
        ]
    return left


class _Dumper(yaml.SafeDumper):
    """Writes decimals as the numbers they are, and nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        """Everything is written where it stands."""
        return True


_Dumper.add_representer(
    Decimal,
    lambda dumper, value: dumper.represent_scalar(
        "tag:yaml.org,2002:float" if "." in f"{value:f}" else "tag:yaml.org,2002:int", f"{value:f}"
    ),
)


@dataclass(frozen=True, slots=True)
class Kept:
    """What of `base` stands in a policy that was sent. `alerts`: index sent → index in the base document."""

    base: Policy
    alerts: dict[int, int]

    def removed_from(self, data: dict[str, Any]) -> dict[str, Any]:
        """The data without what is kept: its references are not the sender's."""
        left = {key: value for key, value in data.items() if key not in SECTIONS}
        if isinstance(left.get("alerts"), list):
            left["alerts"] = [
                {key: value for key, value in alert.items() if key not in ALERT_KEYS}
                if isinstance(alert, dict)
                else alert
                for alert in left["alerts"]
            ]
        return left

    def validated_over(self, data: dict[str, Any]) -> dict[str, Any]:
        """`data`, with the kept parts as the base policy's own values."""
        merged = {**data, **{section: getattr(self.base, section) for section in SECTIONS}}
        live = {alert.name: alert for alert in self.base.alerts}
        for index in self.alerts:
            merged["alerts"] = list(merged["alerts"])
            alert = merged["alerts"][index]
            own = live.get(alert["name"])
            # What is switched off in the base has no URL; it stays until it is validated, then goes.
            kept = {"url": own.url, "secret": own.secret} if own else {"url": _NOWHERE}
            merged["alerts"][index] = {**alert, **kept}
        return merged

    def written_over(self, data: dict[str, Any]) -> dict[str, Any]:
        """`data`, with the kept parts as they are written in the base document."""
        before = self.base.document
        merged = {key: value for key, value in data.items() if key not in SECTIONS}
        merged |= {section: before[section] for section in SECTIONS if section in before}
        for index, old in self.alerts.items():
            merged["alerts"] = list(merged["alerts"])
            written = before["alerts"][old]
            kept = {key: written[key] for key in ALERT_KEYS if key in written}
            merged["alerts"][index] = {**merged["alerts"][index], **kept}
        return merged

    def switched_off(self) -> dict[KeyPath, str]:
        """Providers, and alerts as they are sent, that are switched off in the base, with the reason."""
        alerts = self.base.document.get("alerts") or []
        off: dict[KeyPath, str] = {("providers", name): why for name, why in self.base.switched_off.items()}
        for index, old in self.alerts.items():
            if why := self.base.switched_off_alerts.get(alerts[old]["name"]):
                off["alerts", index] = why
        return off


def names_another_directory(written: Document, base: Policy) -> bool:
    """Whether a sent policy would have files of this machine loaded that the base policy does not name."""
    chosen = written.at(_CLASSIFIER)
    return chosen is not None and chosen != value_at(base.document, _CLASSIFIER)


_NOWHERE = SecretStr("https://switched-off.invalid")


def keep(written: Document, base: Policy) -> tuple[Kept, list[Mistake]]:
    """What stands of `base` in a sent policy, and a mistake for each part of it that was changed."""
    mistakes = []
    visible = shown(base)
    for section in SECTIONS:
        allowed = (base.document.get(section), visible.get(section))
        if section in written.data and written.at((section,)) not in allowed:
            mistakes.append(mistake_at(written, (section,), _CHANGED))
    if names_another_directory(written, base):
        mistakes.append(mistake_at(written, _CLASSIFIER, _CHANGED))
    before = base.document.get("alerts") or []
    index_of = {alert["name"]: index for index, alert in enumerate(before)}
    kept: dict[int, int] = {}
    alerts = written.at(("alerts",))
    for index, alert in enumerate(alerts if isinstance(alerts, list) else ()):
        if not isinstance(alert, dict):
            continue
        name = alert.get("name")
        old = index_of.get(name) if isinstance(name, str) else None
        if old is not None:
            kept[index] = old
        for key in ALERT_KEYS:
            path: KeyPath = ("alerts", index, key)
            same = old is not None and alert.get(key) in (
                before[old].get(key),
                value_at(visible, ("alerts", old, key)),
            )
            if key in alert and not same:
                mistakes.append(mistake_at(written, path, _CHANGED))
    return Kept(base, kept), mistakes
