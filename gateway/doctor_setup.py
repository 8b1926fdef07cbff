"""What `gateway doctor` can tell from settings, the policy and files alone, whether or not a gateway runs."""

from __future__ import annotations

import re
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from shutil import disk_usage
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.doctor import Finding, fail, of_disk, of_secret, ok, warn
from gateway.policy.models import Policy
from gateway.settings import Settings, is_loopback


def of_policy(policy: Policy, *, version: str) -> list[Finding]:
    """What its warnings say; what is switched off is told with the providers and alerts."""
    told = [warning for warning in map(str, policy.warnings) if ": switched off because " not in warning]
    if not told:
        return [ok("policy.warnings", f"none in {version}")]
    more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
    todo = "Run gateway check: rules that can never fire were meant to do something."
    return [warn("policy.warnings", one_line(told[0]) + more, todo)]


def limits_of(policy: Policy) -> list[Finding]:
    """Whether anything ends what an agent spends."""
    holding = [
        b for b in policy.budgets if b.mode == "enforce" and b.on_exceed != "notify" and b.per != "tool"
    ]
    wide = [b for b in holding if b.per not in ("run", "session")]
    names = ", ".join(
        f"{b.name} (${b.limit_usd} per {b.per}{f' {b.window}' if b.window else ''})" for b in holding[:4]
    )
    if not holding:
        seen = "no budget refuses anything" if policy.budgets else "there is no budget"
        todo = "Give each run and everyone together a budget with mode enforce."
        return [fail("policy.limits", seen, todo)]
    if not wide:
        todo = "Add a budget per user, key, team or global: a thousand cheap runs cost as much as a dear one."
        return [warn("policy.limits", names, todo)]
    return [ok("policy.limits", names)]


def provider_keys(policy: Policy, *, simulated: bool) -> list[Finding]:
    """Whether providers have what they need to be asked."""
    if off := policy.switched_off:
        seen = ", ".join(f"{name}: {why}" for name, why in list(off.items())[:4])
        todo = "Give the gateway these variables, or take the providers out of the policy."
        if not policy.providers and not simulated:
            return [fail("providers.keys", f"none can be used ({seen})", todo)]
        return [warn("providers.keys", f"switched off: {seen}", todo)]
    if not policy.providers:
        return [fail("providers.keys", "the policy has no provider", "Add one, with its models.")]
    return [ok("providers.keys", ", ".join(list(policy.providers)[:6]))]


def receivers_of(policy: Policy) -> list[Finding]:
    """Whether anybody is told of anything."""
    todo = "Name a webhook under alerts, at least for run_stopped, budget_warning and breaker_open."
    if off := policy.switched_off_alerts:
        seen = ", ".join(f"{name}: {why}" for name, why in list(off.items())[:4])
        return [warn("alerts.receivers", f"switched off: {seen}", "Give the gateway these variables.")]
    live = [alert.name for alert in policy.alerts if alert.mode == "enforce"]
    if not live:
        return [warn("alerts.receivers", "none" if not policy.alerts else "none that is enforced", todo)]
    return [ok("alerts.receivers", ", ".join(live[:6]))]


def secret_of(settings: Settings) -> Finding:
    """Whether the gateway's own secret is good enough."""
    given = settings.secret_key
    parts = [part.strip() for part in (given or "").split(",") if part.strip()]
    return of_secret(parts or [""], given=given is not None, shared=not settings.embedded)


def auth_of(policy: Policy, stored: int) -> Finding:
    """Who may call. `stored` are keys made by the admin API."""
    mode = policy.auth.mode
    if mode == "open":
        todo = "Give callers keys (auth: {mode: keys}): whatever runs on this machine can spend."
        return warn("security.auth", "auth.mode open: anyone on this machine", todo)
    if mode == "passthrough":
        return ok("security.auth", "callers bring their own credential of the provider")
    count = len(policy.keys) + stored
    if not count:
        return warn(
            "security.auth", "there is no key, so nobody may call", "Make one: gateway keys create NAME."
        )
    return ok("security.auth", f"{len(policy.keys)} keys in the policy, {stored} made by the admin API")


def exposure_of(settings: Settings, policy: Policy) -> list[Finding]:
    """Where the admin plane listens, and what travels unencrypted."""
    found = []
    address = settings.admin_address
    where = f"{address[0]}:{address[1]}" if address is not None else f"{settings.host}:{settings.port}"
    if settings.admin_on_loopback:
        found.append(ok("security.admin", f"{where}, this machine alone"))
    elif settings.shares_admin:
        todo = "Give it an address of its own (--admin-listen HOST:PORT) that callers cannot reach."
        found.append(warn("security.admin", f"{where}, where callers reach it too", todo))
    elif address is None:
        found.append(ok("security.admin", "off beyond loopback"))
    else:
        todo = "See that a firewall or a proxy with TLS lets only operators through."
        found.append(warn("security.admin", f"{where}, beyond this machine", todo))
    clear = list(_in_the_clear(settings, policy))
    if clear:
        todo = "Put TLS on these: a proxy in front, https:// and rediss:// URLs, sslmode for PostgreSQL."
        found.append(warn("security.tls", "; ".join(clear), todo))
    else:
        found.append(ok("security.tls", "everything beyond this machine is encrypted"))
    return found


def _in_the_clear(settings: Settings, policy: Policy) -> Iterable[str]:
    if not settings.embedded:
        from gateway.stores.redis_url import parse_store_url

        store = parse_store_url(settings.store_url)
        if any(server.path is None and not is_loopback(server.host) for server in store.servers):
            if store.login.tls is None:
                yield f"Redis by {settings.store_url.partition('://')[0]}://"
            elif not store.encrypted:
                yield "Redis' sentinels"
    ledger = urlsplit(settings.ledger_url or "")
    far = ledger.scheme.startswith("postgres") and not is_loopback(ledger.hostname or "localhost")
    if far and not any(word in ledger.query for word in ("sslmode=require", "sslmode=verify")):
        yield "PostgreSQL without sslmode"
    for name, provider in policy.providers.items():
        url = urlsplit(provider.base_url)
        if url.scheme == "http" and provider.api_key is not None and not is_loopback(url.hostname or ""):
            yield f"provider {name} by http://"
    for alert in policy.alerts:
        url = urlsplit(alert.url.get_secret_value())
        if url.scheme == "http" and not is_loopback(url.hostname or ""):
            yield f"alert {alert.name} by http://"
    public = settings.public_url or ""
    if not settings.on_loopback and not public.startswith("https://"):
        yield f"callers on {settings.host}:{settings.port} (GATEWAY_PUBLIC_URL names no https:// in front)"


def zones_of(policy: Policy | None) -> Finding:
    """Whether the time zones that budgets are aligned to are known here."""
    wanted = {budget.timezone for budget in policy.budgets} if policy is not None else set()
    unknown = []
    for name in sorted({"Europe/Berlin", *wanted} - {"UTC"}):
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            unknown.append(name)
    todo = "Install the package tzdata, or the operating system's."
    if wanted.intersection(unknown):
        return fail("clock.zones", f"unknown: {', '.join(unknown)}", todo)
    if unknown:
        return warn("clock.zones", "no database of time zones; budgets by UTC work", todo)
    return ok("clock.zones", ", ".join(sorted(wanted)) or "known")


def files_of(settings: Settings) -> Iterable[Finding]:
    """Who may read and write the data directory."""
    folder = settings.data_dir
    todo = "Give the gateway's user a directory of its own that it can write: GATEWAY_DATA_DIR."
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield fail("ledger.writable", f"{folder} cannot be written: {(error.strerror or '?').lower()}", todo)
        return
    modes = {path: mode for path in (folder, *_secrets(folder)) if (mode := _mode(path)) & 0o077}
    seen = "; ".join(f"{path.name or path} has mode {mode:04o}" for path, mode in modes.items())
    if modes.keys() - {folder}:
        todo = f"chmod go-rwx {folder} and what is in it, and make new secrets: others could read them."
        yield fail("security.files", seen, todo)
    elif modes:
        yield warn("security.files", seen, f"chmod 700 {folder}: the ledger and the journal are in it.")
    else:
        yield ok("security.files", f"{folder}, for its owner alone")


def _secrets(folder: Path) -> tuple[Path, ...]:
    return folder / "admin.token", folder / "secret.key"


def _mode(path: Path) -> int:
    """A file's permissions; none where there is no file."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0


_CREDENTIALS = re.compile(r"(://)[^@/\s]*@")


def without_credentials(text: str) -> str:
    """A text without what stands before the `@` of URLs in it."""
    return _CREDENTIALS.sub(r"\1…@", text)


_LONGEST = 300


def one_line(text: str) -> str:
    """Text as one line that is not too long, whoever wrote it."""
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST else flat[: _LONGEST - 1] + "…"


def disk_of(settings: Settings) -> Finding:
    """The room where the data directory is. Raises `OSError`."""
    usage = disk_usage(settings.data_dir)
    return of_disk(usage.free, usage.total)


def hosts_of(settings: Settings) -> Finding:
    """Whether the ledger's database can be shared by as many hosts as the store."""
    sqlite = urlsplit(settings.ledger_url or "sqlite://").scheme.startswith("sqlite")
    if sqlite and not settings.embedded:
        todo = "Use --ledger postgresql://… before a second host shares this Redis: it would refuse to start."
        return warn("ledger.hosts", "SQLite, which serves one host", todo)
    return ok("ledger.hosts", "SQLite on one host" if sqlite else "PostgreSQL")
