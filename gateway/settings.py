"""Everything that is read from the environment, and the gateway's own secrets in the data directory.

The only module that reads environment variables. An option of `gateway serve` is the same as its variable.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.auth import LOOPBACK_HOSTS, Secrets

PROVIDER_KEYS = (
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "AZURE_OPENAI_API_KEY",
    "GROQ_API_KEY",
    "OPENROUTER_API_KEY",
)
"""With none of these the simulated provider is offered, so that a first call works."""

_NUMBERS = (
    ("port", int),
    ("workers", int),
    ("screening_processes", int),
    ("drain_s", float),
    ("lease_s", float),
)
_PUBLIC_URL = re.compile(r"https?://[^\s/?#@]+[^\s?#]*")


class SettingsError(Exception):
    """An option is missing or makes no sense together with the others; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Options of a gateway process. `environment` is what policies and providers may read."""

    policy: Path
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    store_url: str = "embedded"
    ledger_url: str | None = None
    admin_listen: str | None = None
    data_dir: Path = Path(".gateway")
    secret_key: str | None = field(default=None, repr=False)
    admin_token: str | None = field(default=None, repr=False)
    drain_s: float = 20.0
    """How long a shutdown lets answers in flight finish."""
    lease_s: float = 30.0
    """How long a reservation outlives a process that died and left no journal of it."""
    log_level: str = "info"
    screening_processes: int = max(1, min(4, (os.cpu_count() or 2) - 1))
    """Processes in which each worker screens long texts."""
    public_url: str | None = None
    """Where operators reach the admin plane; links in alerts begin with it."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def embedded(self) -> bool:
        """State lives in this one process."""
        return self.store_url == "embedded"

    @property
    def on_loopback(self) -> bool:
        """The data plane is reachable from this machine alone."""
        return is_loopback(self.host)

    @property
    def offers_simulation(self) -> bool:
        """No provider key is at hand."""
        return not any(self.environment.get(name) for name in PROVIDER_KEYS)

    @property
    def admin_address(self) -> tuple[str, int] | None:
        """Where the admin plane listens by itself; None when it shares the data plane's listener."""
        if self.admin_listen in (None, "", "same"):
            return None
        assert self.admin_listen is not None
        host, _, port = self.admin_listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def shares_admin(self) -> bool:
        """The admin plane is served on the data plane's listener: on loopback, or when said on purpose."""
        return self.admin_address is None and (self.on_loopback or self.admin_listen == "same")

    def link(self, path: str) -> str:
        """The address of a path of the admin API, as far as it is known: without `public_url` the path."""
        return f"{(self.public_url or '').rstrip('/')}/admin/v1{path}"

    def check(self) -> None:
        """Raise `SettingsError` for combinations that would not be safe or would not work."""
        if self.workers < 1:
            raise SettingsError("--workers has to be at least 1")
        if self.screening_processes < 1:
            raise SettingsError("GATEWAY_SCREENING_PROCESSES has to be at least 1")
        if not self.embedded and not self.store_url.startswith(("redis://", "rediss://")):
            raise SettingsError(
                f"--store: got {self.store_url!r}, expected 'embedded', redis://HOST:PORT/DB or "
                "rediss://HOST:PORT/DB (Sentinel and Cluster are not served by this version)"
            )
        if self.embedded and self.workers > 1:
            raise SettingsError(
                f"--workers {self.workers} needs a shared store: the embedded store lives in one process and "
                "would give each worker its own budgets. Use --store redis://HOST:PORT/DB."
            )
        if not self.embedded and self.secret_key is None:
            raise SettingsError(
                "GATEWAY_SECRET_KEY has to be given with a shared store: every replica needs the same one"
            )
        if self.admin_token is None and (not self.embedded or not self.on_loopback):
            raise SettingsError("GATEWAY_ADMIN_TOKEN has to be given with a shared store or beyond loopback")
        if self.admin_listen not in (None, "", "same"):
            try:
                address = self.admin_address
            except ValueError:
                address = None
            if address is None or not address[0]:
                raise SettingsError(
                    f"--admin-listen: got {self.admin_listen!r}, expected HOST:PORT or 'same'"
                )
        if self.public_url is not None and not _PUBLIC_URL.fullmatch(self.public_url):
            raise SettingsError(
                f"GATEWAY_PUBLIC_URL: got {self.public_url!r}, expected a URL such as https://gateway.example.com"
            )


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is this machine's own."""
    if host in LOOPBACK_HOSTS:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def from_environment(environment: Mapping[str, str] | None = None, **given: object) -> Settings:
    """Settings from `GATEWAY_…`; `given` options that are not None win. Raises `SettingsError`."""
    env = dict(os.environ if environment is None else environment)
    values: dict[str, object] = {
        "policy": env.get("GATEWAY_POLICY"),
        "host": env.get("GATEWAY_HOST"),
        "port": env.get("GATEWAY_PORT"),
        "workers": env.get("GATEWAY_WORKERS"),
        "store_url": env.get("GATEWAY_STORE_URL"),
        "ledger_url": env.get("GATEWAY_LEDGER_URL"),
        "admin_listen": env.get("GATEWAY_ADMIN_LISTEN"),
        "data_dir": env.get("GATEWAY_DATA_DIR"),
        "secret_key": env.get("GATEWAY_SECRET_KEY"),
        "admin_token": env.get("GATEWAY_ADMIN_TOKEN"),
        "drain_s": env.get("GATEWAY_DRAIN_S"),
        "lease_s": env.get("GATEWAY_LEASE_S"),
        "log_level": env.get("GATEWAY_LOG_LEVEL"),
        "screening_processes": env.get("GATEWAY_SCREENING_PROCESSES"),
        "public_url": env.get("GATEWAY_PUBLIC_URL"),
    }
    values.update({name: value for name, value in given.items() if value is not None})
    chosen = {name: value for name, value in values.items() if value not in (None, "")}
    try:
        for name, kind in _NUMBERS:
            if name in chosen:
                chosen[name] = kind(str(chosen[name]))
    except ValueError:
        raise SettingsError(f"{name}: got {chosen[name]!r}, expected a number") from None
    chosen["policy"] = Path(str(chosen.get("policy") or default_policy()))
    chosen["data_dir"] = Path(str(chosen.get("data_dir") or ".gateway"))
    settings = Settings(environment=env, **chosen)  # type: ignore[arg-type]  # checked by name above
    settings.check()
    return settings


def default_policy() -> Path:
    """The shipped default policy: beside the working directory's tree, or inside the installed package."""
    here = Path("policies/default.yaml")
    return here if here.exists() else Path(__file__).parent.parent / "policies" / "default.yaml"


def own_secrets(settings: Settings) -> Secrets:
    """The HMAC secret: as given, else made once and kept in the data directory."""
    text = settings.secret_key or _kept(settings.data_dir / "secret.key")
    try:
        return Secrets.parse(text)
    except ValueError as error:
        raise SettingsError(str(error)) from None


def admin_token(settings: Settings) -> str:
    """The admin token: as given, else made once and kept where the command line finds it."""
    return settings.admin_token or _kept(settings.data_dir / "admin.token")


def _kept(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_urlsafe(32))
    return path.read_text().strip()
