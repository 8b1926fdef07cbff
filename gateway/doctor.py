"""What `gateway doctor` looks at before a launch and at 3 a.m.: the list, and how what was seen is judged.

Every check has an id, and docs/launch-checklist.md has an item of that id. Pure: facts in, findings out; who
collects them is `gateway.web.admin_doctor` inside a gateway and `gateway.commands.doctor` outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from gateway.domain import Json

Status = Literal["ok", "warn", "fail", "skip", "manual"]
"""`skip`: it could not be looked at; `manual`: no program can."""

CHECKLIST = "docs/launch-checklist.md"


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the launch checklist."""

    id: str
    title: str
    by_hand: bool = False
    """No program can tell."""


ITEMS: tuple[Item, ...] = (
    Item("gateway.settings", "Its settings fit together"),
    Item("gateway.reachable", "The admin API answers"),
    Item("gateway.ready", "It is ready to serve"),
    Item("gateway.metrics", "Its metrics can be scraped"),
    Item("clock.host", "This machine and the gateway have the same time"),
    Item("clock.store", "Workers and Redis have the same time"),
    Item("clock.zones", "Time zones are known"),
    Item("store.kind", "The store fits the number of processes"),
    Item("store.answers", "The store answers"),
    Item("store.version", "Redis is new enough"),
    Item("store.role", "Redis is the master"),
    Item("store.eviction", "Redis never deletes keys by itself"),
    Item("store.persistence", "Redis writes to disk"),
    Item("store.memory", "Redis has memory to spare"),
    Item("store.rights", "The gateway may do in Redis what it has to"),
    Item("store.latency", "Redis is near"),
    Item("store.keys", "Redis holds the gateway's counters"),
    Item("ledger.writable", "The ledger can be written"),
    Item("ledger.hosts", "The ledger fits the number of hosts"),
    Item("ledger.disk", "There is room on the disk"),
    Item("ledger.lag", "What was spent reaches the ledger"),
    Item("ledger.rejected", "No event was rejected"),
    Item("ledger.sums", "The sums agree"),
    Item("policy.healthy", "The policy on disk is the one in force"),
    Item("policy.warnings", "The policy has no rule without effect"),
    Item("policy.workers", "All workers have the same policy"),
    Item("policy.limits", "Spending is limited"),
    Item("prices.age", "Prices are recent"),
    Item("prices.unknown", "Every model has a price"),
    Item("providers.keys", "Providers have their credentials"),
    Item("providers.reachable", "Providers answer"),
    Item("guards.budget", "A budget refuses"),
    Item("guards.kill", "A kill reaches every worker"),
    Item("guards.loops", "A loop is found"),
    Item("guards.screening", "Canaries are found"),
    Item("guards.bypassed", "No check was let pass"),
    Item("alerts.receivers", "Somebody is told"),
    Item("alerts.delivery", "Alerts arrive"),
    Item("audit.chain", "The audit log is unbroken"),
    Item("security.auth", "Callers need a key"),
    Item("security.admin", "The admin plane is not exposed"),
    Item("security.tls", "Nothing secret travels in the clear"),
    Item("security.token", "The admin token cannot be guessed"),
    Item("security.secret", "The secret key is long and given"),
    Item("security.files", "The data directory is private"),
    Item("manual.egress", "Agents cannot reach providers past the gateway", by_hand=True),
    Item("manual.provider-limits", "Providers have spend limits of their own", by_hand=True),
    Item("manual.backup", "The ledger's backup was restored once", by_hand=True),
    Item("manual.drill", "Operators have stopped an agent once", by_hand=True),
    Item("manual.oncall", "Somebody wakes up", by_hand=True),
    Item("manual.privacy", "Retention was agreed upon", by_hand=True),
)

IDS = frozenset(item.id for item in ITEMS)


@dataclass(frozen=True, slots=True)
class Finding:
    """What was seen of one item. `todo` is a sentence that says what to do; empty where all is well."""

    id: str
    status: Status
    seen: str
    todo: str = ""

    def view(self) -> Json:
        """As it is sent and printed as JSON."""
        return {
            "id": self.id,
            "status": self.status,
            "seen": self.seen,
            "todo": self.todo,
            "docs": f"{CHECKLIST}#{anchor(self.id)}",
        }


def anchor(item_id: str) -> str:
    """Where the checklist speaks of an item: the anchor of its heading."""
    return item_id.replace(".", "")


def ok(item_id: str, seen: str) -> Finding:
    """All is well."""
    return Finding(item_id, "ok", seen)


def warn(item_id: str, seen: str, todo: str) -> Finding:
    """It works, and is not as it should be."""
    return Finding(item_id, "warn", seen, todo)


def fail(item_id: str, seen: str, todo: str) -> Finding:
    """It must not stay so."""
    return Finding(item_id, "fail", seen, todo)


def skip(item_id: str, why: str) -> Finding:
    """Nobody looked."""
    return Finding(item_id, "skip", why)


def complete(findings: Iterable[Finding], why: str) -> list[Finding]:
    """One finding for each item, in the order of the list: the worst where there are several, `why` it was
    not looked at where there is none."""
    by_id: dict[str, Finding] = {}
    for finding in findings:
        known = by_id.get(finding.id)
        if known is None or _RANK[finding.status] > _RANK[known.status]:
            by_id[finding.id] = finding
    todo = "Have somebody see to it, and note when."
    return [
        by_id.get(item.id)
        or (Finding(item.id, "manual", "no program can tell", todo) if item.by_hand else skip(item.id, why))
        for item in ITEMS
    ]


_RANK: dict[str, int] = {"manual": 0, "skip": 1, "ok": 2, "warn": 3, "fail": 4}


# -- Redis ---------------------------------------------------------------------------------------------

OLDEST = (6, 2)
SLOW_MS, TOO_SLOW_MS = 5.0, 50.0
"""A step asks the store two to three times before it is sent; the store gives up at 250 ms."""
SKEW_MS, TOO_SKEWED_MS = 500, 5_000
"""Windows follow the store's clock; times on record, approvals and logs that of each worker."""


def of_redis(facts: Mapping[str, object]) -> list[Finding]:
    """What `gateway.stores.redis_facts` found out about a Redis."""
    if error := facts.get("error"):
        todo = "Start Redis, or mend GATEWAY_STORE_URL; until it answers nothing is admitted."
        unseen = [skip(item_id, "Redis does not answer") for item_id in _ABOUT_REDIS]
        return [fail("store.answers", str(error), todo), *unseen]
    found = [
        ok("store.answers", f"Redis at {facts['address']}"),
        _version(facts),
        _role(facts),
        _eviction(facts),
        _persistence(facts),
        _memory(facts),
        _rights(facts),
        _latency(_float(facts["latency_ms"])),
    ]
    if facts.get("seeded") is not None:
        found.append(_keys(facts))
    return found


def without_redis() -> list[Finding]:
    """For the embedded store, which has none."""
    return [skip(item_id, "the store is embedded") for item_id in _ABOUT_REDIS]


_OF_ANY_STORE = ("store.kind", "store.answers")
_ABOUT_REDIS = (
    "clock.store",
    *(item.id for item in ITEMS if item.id.startswith("store.") and item.id not in _OF_ANY_STORE),
)


def _version(facts: Mapping[str, object]) -> Finding:
    version = str(facts["version"])
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST:
        return fail("store.version", f"Redis {version}", "Use Redis 6.2 or newer, or Valkey.")
    return ok("store.version", f"Redis {version}")


def _role(facts: Mapping[str, object]) -> Finding:
    if facts["role"] in ("slave", "replica"):
        return fail(
            "store.role", "a replica, which takes no writes", "Point GATEWAY_STORE_URL at the master."
        )
    return ok("store.role", "master")


def _eviction(facts: Mapping[str, object]) -> Finding:
    policy, evicted = str(facts["eviction"]), _int(facts["evicted"])
    todo = "Set maxmemory-policy noeviction: an evicted key is a budget that begins at zero."
    if policy != "noeviction":
        return fail("store.eviction", f"maxmemory-policy {policy}", todo)
    nodes = [node for node in _list(facts.get("nodes")) if isinstance(node, dict)]
    evicting = [f"{n['address']} {n['eviction']}" for n in nodes if n.get("eviction", policy) != policy]
    if evicting:
        return fail("store.eviction", f"maxmemory-policy on other nodes: {', '.join(evicting)}", todo)
    if unseen := [str(n["address"]) for n in nodes if "error" in n]:
        todo = "Let the gateway's user in there too: any node may be the master tomorrow."
        return warn("store.eviction", f"noeviction; not seen on {', '.join(unseen)}", todo)
    if evicted:
        todo = "Compare `gateway budgets` with `gateway spend`: what was evicted began again at zero."
        return warn("store.eviction", f"noeviction now, but {evicted:,} keys were evicted earlier", todo)
    everywhere = f" on all {len(nodes) + 1} nodes" if nodes else ""
    return ok("store.eviction", f"maxmemory-policy noeviction{everywhere}")


def _persistence(facts: Mapping[str, object]) -> Finding:
    here = "store.persistence"
    if failed := [str(each) for each in _list(facts.get("write_failures"))]:
        return fail(here, f"the last write failed ({', '.join(failed)})", "Look at Redis's log and its disk.")
    if facts["appendonly"]:
        return ok(here, "appendonly yes")
    saves = facts["save"]
    if saves is None:
        return warn(here, "appendonly no; whether it saves is not told", "Set appendonly yes.")
    if saves:
        todo = "Set appendonly yes: what was spent since the last snapshot is lost with the process."
        return warn(here, f"snapshots alone (save {saves})", todo)
    todo = "Set appendonly yes: a restart loses what is not yet in the ledger, and open runs."
    return fail(here, "nothing is written to disk", todo)


def _memory(facts: Mapping[str, object]) -> Finding:
    used, limit, whose = _int(facts["used_memory"]), _int(facts["maxmemory"]), "maxmemory"
    if not limit:
        limit, whose = _int(facts["total_memory"]), "the machine's memory"
    if not limit:
        return ok("store.memory", f"{size(used)} in use, no limit known")
    share = used / limit
    seen = f"{size(used)} of {size(limit)} ({whose}), {share:.0%}"
    todo = "Give it more memory: full with noeviction it refuses writes, and with them every step."
    if share >= 0.9:
        return fail("store.memory", seen, todo)
    return warn("store.memory", seen, todo) if share >= 0.75 else ok("store.memory", seen)


def _rights(facts: Mapping[str, object]) -> Finding:
    denied = [str(each) for each in _list(facts["denied"])]
    if denied:
        todo = "Give the gateway's user these commands on its keys, kill:* and its channel: docs/stores.md."
        return fail("store.rights", f"refused: {', '.join(denied)}", todo)
    return ok("store.rights", "scripts, keys, streams, kill flags and its channel")


def _latency(latency_ms: float) -> Finding:
    seen = f"{latency_ms:.1f} ms for a round trip"
    todo = "Bring Redis nearer: every step asks it two or three times."
    if latency_ms >= TOO_SLOW_MS:
        return fail("store.latency", seen, todo)
    return warn("store.latency", seen, todo) if latency_ms >= SLOW_MS else ok("store.latency", seen)


def _keys(facts: Mapping[str, object]) -> Finding:
    if not facts["seeded"]:
        todo = (
            "Nothing, if no step was ever made; else see whether this is the database that the gateway means."
        )
        return warn("store.keys", "no counters of a gateway in this database", todo)
    seen = f"counters are there, {_int(facts['waiting']):,} events wait for the ledger"
    hits, misses = _int(facts["hits"]), _int(facts["misses"])
    if hits + misses:
        seen += f"; {hits / (hits + misses):.0%} of all look-ups hit"
    return ok("store.keys", seen)


def of_skew(workers: Mapping[str, int]) -> Finding:
    """By how many milliseconds each worker's clock is ahead of the store's."""
    if not workers:
        return skip("clock.store", "no worker told its time")
    worker, worst = max(workers.items(), key=lambda pair: abs(pair[1]))
    seen = f"{worst:+,} ms at most, in {worker}"
    todo = "Run NTP on every host: windows follow Redis's clock, records each worker's."
    if abs(worst) >= TOO_SKEWED_MS:
        return fail("clock.store", seen, todo)
    return warn("clock.store", seen, todo) if abs(worst) >= SKEW_MS else ok("clock.store", seen)


# -- prices and disks ----------------------------------------------------------------------------------

PRICES_DAYS, TOO_OLD_DAYS = 60, 180


def of_prices(version: str, newest: date | None, today: date) -> Finding:
    """How old the price table is: its package's version, and the newest day its entries speak of."""
    if newest is None:
        return warn("prices.age", f"genai-prices {version}, of unknown age", "Install a newer genai-prices.")
    age = (today - newest).days
    seen = f"genai-prices {version}, newest entry {newest.isoformat()} ({max(0, age)} days ago)"
    todo = "Install a newer genai-prices, or state the prices of your models in the policy."
    if age > TOO_OLD_DAYS:
        return fail("prices.age", seen, todo)
    return warn("prices.age", seen, todo) if age > PRICES_DAYS else ok("prices.age", seen)


def of_disk(free: int, total: int) -> Finding:
    """Bytes on the disk that the data directory is on."""
    seen = f"{size(free)} free of {size(total)}"
    todo = (
        "Make room: without it neither the journal nor a SQLite ledger can be written, and steps are refused."
    )
    if free < 256 * 1024**2:
        return fail("ledger.disk", seen, todo)
    if free < 2 * 1024**3 or (total and free / total < 0.05):
        return warn("ledger.disk", seen, todo)
    return ok("ledger.disk", seen)


def of_lag(lag_s: float) -> Finding:
    """How long ago the ledger had everything."""
    seen = "up to date" if lag_s < 2 else f"{lag_s:.0f} s behind"
    todo = "See the log for what keeps the ledger from being written; what is spent waits in the store."
    if lag_s >= 60:
        return fail("ledger.lag", seen, todo)
    return warn("ledger.lag", seen, todo) if lag_s >= 5 else ok("ledger.lag", seen)


# -- secrets -------------------------------------------------------------------------------------------

SHORTEST_TOKEN = 24
SHORTEST_SECRET = 32
_GUESSED = (
    "admin",
    "changeme",
    "password",
    "secret",
    "token",
    "test",
    "guardrail",
    "gateway",
    "letmein",
    "default",
)


def of_token(token: str, *, given: bool) -> Finding:
    """Whether an admin token can be guessed. Nothing of it is shown."""
    if not given:
        return ok("security.token", "made by the gateway, 256 random bits")
    todo = "Use one of 32 random bytes: openssl rand -base64 32."
    if problem := guessable(token, SHORTEST_TOKEN):
        return fail("security.token", f"GATEWAY_ADMIN_TOKEN {problem}", todo)
    return ok("security.token", f"GATEWAY_ADMIN_TOKEN of {len(token)} characters")


def of_secret(secrets: Sequence[str], *, given: bool, shared: bool) -> Finding:
    """Whether the gateway's own secret is good enough; `shared` where several processes need the same."""
    todo = "Set GATEWAY_SECRET_KEY to 32 random bytes (openssl rand -base64 32), the old one behind a comma."
    if not given:
        if shared:
            return fail("security.secret", "GATEWAY_SECRET_KEY is not given, and the store is shared", todo)
        return ok("security.secret", "made by the gateway and kept in the data directory")
    for secret in secrets:
        if problem := guessable(secret, SHORTEST_SECRET):
            return fail("security.secret", f"GATEWAY_SECRET_KEY {problem}", todo)
    return ok("security.secret", f"GATEWAY_SECRET_KEY of {len(secrets[0])} characters")


def guessable(secret: str, shortest: int) -> str:
    """Why a secret can be guessed; empty when it looks random enough."""
    if len(secret) < shortest:
        return f"has fewer than {shortest} characters"
    if len(set(secret)) < 10:
        return "has very few different characters"
    lower = secret.lower()
    # A long secret with a word in it is fine, words behind one another are not.
    left = lower
    for word in _GUESSED:
        left = left.replace(word, "")
    if len(left.strip("0123456789-_.!")) < shortest // 3:
        return "is made of common words"
    return ""


# -- shown ---------------------------------------------------------------------------------------------


def size(count: int) -> str:
    """`1.5 GiB`."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def _int(value: object) -> int:
    return int(value) if isinstance(value, int | float | str) else 0


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float | str) else 0.0


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
