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
from typing import Literal

from gateway.auth import LOOPBACK_HOSTS, Secrets
from gateway.roles import RoleRule, parse_role_rules

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
    ("drain_delay_s", float),
    ("worker_timeout_s", float),
    ("lease_s", float),
)
_MOUNTABLE = ("store_url", "ledger_url", "secret_key", "admin_token", "metrics_token", "oidc_client_secret")
"""Variables that may say `file:/path`."""
_WORDS = {
    "log_level": ("debug", "info", "warning", "error", "critical"),
    "log_format": ("text", "json"),
    "trace_conventions": ("genai", "openinference", "both"),
    "trace_parent": ("link", "client"),
}
_PUBLIC_URL = re.compile(r"https?://[^\s/?#@]+[^\s?#]*")
_ISSUER = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[^\s/?#@:\[\]]+)(?::\d{1,5})?(/[!-~]*)?")
MAX_SECRET_BYTES = 65_536
MAX_WAIT_S = 86_400


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
    metrics_token: str | None = field(default=None, repr=False)
    """Opens `/metrics` and nothing else, for those who scrape it."""
    drain_s: float = 20.0
    """How long a shutdown lets answers in flight finish."""
    drain_delay_s: float = 0.0
    """How long a stop still takes new connections while `/readyz` says 503, for load balancers to notice."""
    worker_timeout_s: float = 30.0
    """How long one of several workers may stand still before it is killed and replaced."""
    lease_s: float = 30.0
    """How long a reservation outlives a process that died and left no journal of it."""
    log_level: str = "info"
    log_format: str | None = None
    """`text` or `json`; by default text on a terminal, else JSON."""
    trace_conventions: Literal["genai", "openinference", "both"] = "genai"
    """Names of attributes in traces: `genai`, `openinference` or `both`."""
    trace_parent: Literal["link", "client"] = "link"
    """What a client's own span is to a step's: `link`, or `client` for its parent."""
    screening_processes: int = max(1, min(4, (os.cpu_count() or 2) - 1))
    """Processes in which each worker screens long texts."""
    public_url: str | None = None
    """Where operators reach the admin plane; links in alerts begin with it."""
    oidc_issuer: str | None = None
    """The OpenID provider whose people may be operators."""
    oidc_client_id: str | None = None
    oidc_client_secret: str | None = field(default=None, repr=False)
    oidc_roles: str = ""
    """`claim:value=role,…`; nobody has a role without it."""
    oidc_scopes: str = "openid email profile"
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

    @property
    def admin_on_loopback(self) -> bool:
        """The admin plane can be reached from this machine alone."""
        return is_loopback(self.admin_address[0]) if self.admin_address is not None else self.on_loopback

    @property
    def role_rules(self) -> tuple[RoleRule, ...]:
        """`oidc_roles` as rules. Raises `ValueError`."""
        return parse_role_rules(self.oidc_roles)

    def link(self, path: str) -> str:
        """The address of a page of the dashboard, as far as it is known: without `public_url` its path."""
        return f"{(self.public_url or '').rstrip('/')}/dashboard#{path}"

    def check(self) -> None:
        """Raise `SettingsError` for combinations that would not be safe or would not work."""
        if self.workers < 1:
            raise SettingsError("--workers has to be at least 1")
        for name, seconds, least in (
            ("DRAIN_S", self.drain_s, 0),
            ("DRAIN_DELAY_S", self.drain_delay_s, 0),
            ("WORKER_TIMEOUT_S", self.worker_timeout_s, 3),
        ):
            if not least <= seconds <= MAX_WAIT_S:
                raise SettingsError(
                    f"GATEWAY_{name}: got {seconds:g}, expected {least} to {MAX_WAIT_S} seconds"
                )
        if self.screening_processes < 1:
            raise SettingsError("GATEWAY_SCREENING_PROCESSES has to be at least 1")
        if not self.embedded:
            from gateway.stores.redis_url import parse_store_url

            try:
                parse_store_url(self.store_url)
            except ValueError as error:
                raise SettingsError(f"--store: {error}; or 'embedded'") from None
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
        self._check_oidc()

    def _check_oidc(self) -> None:
        if self.oidc_issuer is None:
            if self.oidc_client_id or self.oidc_client_secret or self.oidc_roles:
                raise SettingsError("GATEWAY_OIDC_ISSUER has to be given with the other GATEWAY_OIDC_… ones")
            return
        issuer = _ISSUER.fullmatch(self.oidc_issuer)
        if issuer is None or (issuer[1] == "http" and not is_loopback(issuer[2])):
            raise SettingsError(
                f"GATEWAY_OIDC_ISSUER: got {self.oidc_issuer!r}, expected the provider's https:// URL as it "
                "stands in its ID tokens"
            )
        if not self.oidc_client_id:
            raise SettingsError("GATEWAY_OIDC_CLIENT_ID has to be given with GATEWAY_OIDC_ISSUER")
        try:
            rules = self.role_rules
        except ValueError as error:
            raise SettingsError(f"GATEWAY_OIDC_ROLES: {error}") from None
        if not rules:
            raise SettingsError(
                "GATEWAY_OIDC_ROLES has to be given with GATEWAY_OIDC_ISSUER, or nobody has a role: for "
                "example groups:sre=operator,groups:security=admin"
            )
        if "openid" not in self.oidc_scopes.split():
            raise SettingsError(f"GATEWAY_OIDC_SCOPES: got {self.oidc_scopes!r}, expected openid among them")
        if self.public_url is None and not self.admin_on_loopback:
            raise SettingsError(
                "GATEWAY_PUBLIC_URL has to be given with GATEWAY_OIDC_ISSUER beyond loopback: the provider "
                "sends browsers back to it"
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
        "drain_delay_s": env.get("GATEWAY_DRAIN_DELAY_S"),
        "worker_timeout_s": env.get("GATEWAY_WORKER_TIMEOUT_S"),
        "lease_s": env.get("GATEWAY_LEASE_S"),
        "metrics_token": env.get("GATEWAY_METRICS_TOKEN"),
        "log_level": env.get("GATEWAY_LOG_LEVEL"),
        "log_format": env.get("GATEWAY_LOG_FORMAT"),
        "trace_conventions": env.get("GATEWAY_TRACE_CONVENTIONS"),
        "trace_parent": env.get("GATEWAY_TRACE_PARENT"),
        "screening_processes": env.get("GATEWAY_SCREENING_PROCESSES"),
        "public_url": env.get("GATEWAY_PUBLIC_URL"),
        "oidc_issuer": env.get("GATEWAY_OIDC_ISSUER"),
        "oidc_client_id": env.get("GATEWAY_OIDC_CLIENT_ID"),
        "oidc_client_secret": env.get("GATEWAY_OIDC_CLIENT_SECRET"),
        "oidc_roles": env.get("GATEWAY_OIDC_ROLES"),
        "oidc_scopes": env.get("GATEWAY_OIDC_SCOPES"),
    }
    values.update({name: value for name, value in given.items() if value is not None})
    chosen = {name: value for name, value in values.items() if value not in (None, "")}
    try:
        for name, kind in _NUMBERS:
            if name in chosen:
                chosen[name] = kind(str(chosen[name]))
    except ValueError:
        raise SettingsError(f"{name}: got {chosen[name]!r}, expected a number") from None
    for name in _MOUNTABLE:
        if name in chosen:
            chosen[name] = mounted(f"GATEWAY_{name.upper()}", str(chosen[name]))
    for name in _WORDS.keys() & chosen.keys():
        chosen[name] = str(chosen[name]).strip().lower()
        if chosen[name] not in _WORDS[name]:
            expected = ", ".join(_WORDS[name])
            raise SettingsError(f"GATEWAY_{name.upper()}: got {chosen[name]!r}, expected one of {expected}")
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


def mounted(name: str, given: str) -> str:
    """What a variable says, or the secret in the file of `file:/path`. Raises `SettingsError`."""
    if not given.startswith("file:"):
        return given
    path = Path(given.removeprefix("file:"))
    try:
        with path.open("rb") as file:
            secret = file.read(MAX_SECRET_BYTES + 1).decode().strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SettingsError(f"{name}: {path}: {reason}") from None
    if not secret or len(secret) > MAX_SECRET_BYTES:
        raise SettingsError(f"{name}: {path}: expected a secret of one line")
    return secret


def _kept(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_urlsafe(32))
    return path.read_text().strip()


_OF_CHILDREN = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TIKTOKEN_CACHE_DIR", "TMPDIR")


def of_child() -> dict[str, str]:
    """The environment of a process of ours that is told everything else: it finds itself, and nothing of the
    gateway's options and keys."""
    kept = {name: value for name, value in os.environ.items() if name in _OF_CHILDREN}
    path = (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", ""))
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
