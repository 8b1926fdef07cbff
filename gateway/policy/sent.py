"""What a policy that is sent to the admin API may not change, and how a policy is shown to be sent back.

Where traffic goes and who may send it (providers, auth, keys, the URL and secret of alerts) belongs to the
files, for whoever holds an admin token could otherwise point the gateway's credentials elsewhere; so does
what is loaded from this machine (a classifier's directory). A sent policy may leave these out or repeat them;
they are then those of the base policy, secrets included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from gateway.policy.document import Document, KeyPath, value_at
from gateway.policy.messages import Mistake, mistake_at
from gateway.policy.models import Policy, is_secret_at

HIDDEN = "**********"
"""Stands for a literal secret in what is shown, and for an unchanged one in what is sent back."""

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
