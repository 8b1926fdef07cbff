"""Texts that hold neither personal data nor secrets and look as if they did: what a detector must leave alone.

Made, not collected, so that nothing in them is anybody's. The same seed makes the same texts.
"""

# ruff: noqa: E501 - a rule is a line

from __future__ import annotations

import base64
import hashlib
import json
import random
import uuid
from collections.abc import Callable, Iterator

Maker = Callable[[random.Random], str]

_WORDS = [
    "cache",
    "worker",
    "queue",
    "index",
    "router",
    "tensor",
    "batch",
    "order",
    "stock",
    "ledger",
    "module",
    "schema",
    "socket",
    "thread",
    "parser",
    "shard",
]


def _digits(rng: random.Random, size: int) -> str:
    return "".join(rng.choices("0123456789", k=size))


def _hex(rng: random.Random, size: int) -> str:
    return "".join(rng.choices("0123456789abcdef", k=size))


def _upper(rng: random.Random, size: int) -> str:
    return "".join(rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZ0123456789", k=size))


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _stamp(rng: random.Random) -> str:
    return f"20{rng.randint(10, 29)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}T{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:{rng.randint(0, 59):02d}"


def _order(rng: random.Random) -> str:
    form = rng.choice(
        (
            "Your order number is {}.",
            "Order #{} has shipped",
            "order_id={}",
            "Bestellnummer: {}",
            "PO {} approved",
        )
    )
    number = rng.choice(
        (
            _digits(rng, 10),
            _digits(rng, 12),
            f"{_digits(rng, 3)}-{_digits(rng, 7)}-{_digits(rng, 7)}",
            _digits(rng, 16),
        )
    )
    return form.format(number)


def _tracking(rng: random.Random) -> str:
    number = rng.choice(
        (
            "1Z" + _upper(rng, 16),
            _digits(rng, 22),
            _digits(rng, 12),
            "RR" + _digits(rng, 9) + "DE",
            "JD" + _digits(rng, 18),
        )
    )
    return f"The parcel left the depot, tracking number {number}."


def _isbn(rng: random.Random) -> str:
    body = "978" + _digits(rng, 9)
    check = (10 - sum(int(c) * (1, 3)[i % 2] for i, c in enumerate(body)) % 10) % 10
    whole = body + str(check)
    return rng.choice(
        (
            f"ISBN {whole}",
            f"ISBN-13: {whole[:3]}-{whole[3]}-{whole[4:7]}-{whole[7:12]}-{whole[12]}",
            f"EAN {whole}",
        )
    )


def _bad_card(rng: random.Random) -> str:
    digits = "4" + _digits(rng, 14)
    doubled = [int(c) * 2 - 9 * (int(c) > 4) if i % 2 == 0 else int(c) for i, c in enumerate(digits)]
    wrong = (10 - sum(doubled) % 10 + rng.randint(1, 9)) % 10
    whole = f"{digits}{wrong}"
    return f"The test number {rng.choice((whole, ' '.join(whole[i : i + 4] for i in range(0, 16, 4))))} is not valid."


def _bad_iban(rng: random.Random) -> str:
    return f"Rejected: {rng.choice(('DE', 'FR', 'GB', 'XX'))}00{_digits(rng, 18)} has a wrong check digit."


def _bad_ssn(rng: random.Random) -> str:
    return rng.choice(
        (
            f"000-{_digits(rng, 2)}-{_digits(rng, 4)}",
            f"666-12-{_digits(rng, 4)}",
            f"{_digits(rng, 3)}-00-{_digits(rng, 4)}",
        )
    )


def _log(rng: random.Random) -> str:
    return (
        f"{_stamp(rng)}.{_digits(rng, 3)}Z {rng.choice(('INFO', 'WARN', 'ERROR'))} [{rng.choice(_WORDS)}-{rng.randint(1, 64)}] "
        f"request_id={_uuid(rng)} status={rng.choice((200, 404, 500))} bytes={_digits(rng, 6)} duration_ms={rng.random() * 900:.3f} "
        f"pid={_digits(rng, 5)} trace={_hex(rng, 32)}"
    )


def _access(rng: random.Random) -> str:
    return f'127.0.0.1 - - [{rng.randint(1, 28):02d}/Oct/2025:13:55:36 +0000] "GET /v1/items/{_digits(rng, 8)} HTTP/1.1" 200 {_digits(rng, 5)}'


def _version(rng: random.Random) -> str:
    a, b, c, d = (rng.randint(0, 99) for _ in range(4))
    return rng.choice(
        (f"Upgraded from version {a}.{b}.{c} to {a}.{b + 1}.0", f"version 10.0.{rng.randint(10000, 22000)}.{d}", f"v{a}.{b}.{c}-rc.{d}",
         f"release {a}.{b}.{c}.{d}", f"numpy=={a}.{b}.{c}", f"Mozilla/5.0 Chrome/{a + 60}.0.{_digits(rng, 4)}.{d} Safari/537.36", f"build {a}.{b}.{c}.{d}")
    )  # fmt: skip


def _json_metrics(rng: random.Random) -> str:
    return json.dumps(
        {"epoch": rng.randint(1, 99), "step": rng.randint(1, 10**7), "loss": rng.random(), "lr": rng.random() / 1e4,
         "tokens": rng.randint(10**8, 10**10), "timestamp": 1_600_000_000 + rng.randint(0, 10**8), "time_ns": rng.randint(10**18, 2 * 10**18),
         "id": _digits(rng, 9), "run": _hex(rng, 8), "values": [rng.randint(0, 10**6) for _ in range(5)]}
    )  # fmt: skip


def _price(rng: random.Random) -> str:
    return rng.choice(
        (f"The total is ${rng.randint(1, 999)},{_digits(rng, 3)}.{_digits(rng, 2)}.", f"Revenue rose to {rng.randint(1, 999)}.{_digits(rng, 3)}.{_digits(rng, 3)} EUR",
         f"Price: {_digits(rng, 4)}.{_digits(rng, 2)} USD, was {_digits(rng, 4)}.00", f"Market cap 1{_digits(rng, 9)} dollars, volume {_digits(rng, 8)}")
    )  # fmt: skip


def _coordinates(rng: random.Random) -> str:
    lat, lon = rng.uniform(-90, 90), rng.uniform(-180, 180)
    return rng.choice(
        (
            f"lat {lat:.6f}, lon {lon:.6f}",
            f"{lat:.4f} {lon:.4f}",
            f'{{"lat": {lat:.7f}, "lng": {lon:.7f}}}',
            f"geo:{lat:.5f},{lon:.5f}",
        )
    )


def _date(rng: random.Random) -> str:
    return rng.choice(
        (f"The meeting is on {rng.randint(1, 12)}/{rng.randint(1, 28)}/2024 at 10:30.", f"{_stamp(rng)}+02:00", f"Due 2024-{rng.randint(1, 12):02d}-15 14:00:00",
         f"epoch 1{_digits(rng, 9)}", f"created_at: 1{_digits(rng, 12)}", f"backup-20240{rng.randint(1, 9)}12-{_digits(rng, 6)}.tar.gz", "Office hours 9:00-17:00, 2019-2024")
    )  # fmt: skip


def _commit(rng: random.Random) -> str:
    return rng.choice(
        (f"commit {_hex(rng, 40)}", f"Fixed in {_hex(rng, 7)}, see {_hex(rng, 10)}", f"sha256:{_hex(rng, 64)}", f"md5 {_hex(rng, 32)}  file.bin",
         f"image: registry.local/app@sha256:{_hex(rng, 64)}", f"index {_hex(rng, 7)}..{_hex(rng, 7)} 100644")
    )  # fmt: skip


def _code(rng: random.Random) -> str:
    n = _digits(rng, rng.randint(3, 9))
    return rng.choice(
        (f"for i in range({n}):\n    total += data[i] * 0x{_hex(rng, 8)}", f"#define MAX_SIZE {n}u\nstatic const uint64_t seed = 0x{_hex(rng, 16)};",
         f"assert fib(90) == {_digits(rng, 18)}", f"std::vector<ab::cd> v; fe::Cafe::bad(dead::beef, {n});", f"const id = 'user_{n}'; // see RFC {_digits(rng, 4)}",
         f"x = [{', '.join(_digits(rng, 4) for _ in range(8))}]", f"password = os.environ['DB_PASSWORD']  # retries={n}", f"margin: 0 {n}px; color: #{_hex(rng, 6)};",
         "token = get_token(client)\nheaders = {'Authorization': f'Bearer {token}'}", f"SELECT * FROM t_{n} WHERE k = {n} LIMIT 100 OFFSET {n}",
         "import { Button } from '@acme/ui'; @dataclass class A: icon = 'logo@2x.png'", "git clone git@github.com:acme/widgets.git && npm i left-pad@1.3.0")
    )  # fmt: skip


def _lock(rng: random.Random) -> str:
    digest = base64.b64encode(rng.randbytes(64)).decode()
    return f'    "node_modules/{rng.choice(_WORDS)}": {{"version": "{rng.randint(0, 9)}.{rng.randint(0, 20)}.{rng.randint(0, 20)}", "integrity": "sha512-{digest}"}}'


def _image(rng: random.Random) -> str:
    return f"![chart](data:image/png;base64,{base64.b64encode(b'iVBOR' + rng.randbytes(rng.randint(100, 400))).decode()})"


def _table(rng: random.Random) -> str:
    return "\n".join(" ".join(_digits(rng, rng.randint(1, 5)) for _ in range(6)) for _ in range(6))


def _identifiers(rng: random.Random) -> str:
    return rng.choice(
        (f"SKU {_upper(rng, 3)}-{_digits(rng, 5)}-{_upper(rng, 2)}", f"Part no. {_digits(rng, 3)}-{_digits(rng, 4)}-{_digits(rng, 2)}", f"Serial {_upper(rng, 12)}",
         f"flight LH{_digits(rng, 4)} gate B{rng.randint(1, 40)}", f"Ticket INC{_digits(rng, 7)} and JIRA-{_digits(rng, 5)}", f"doi:10.{_digits(rng, 4)}/s{_digits(rng, 5)}-{_digits(rng, 3)}-{_digits(rng, 5)}-{rng.randint(0, 9)}",
         f"arXiv:{_digits(rng, 4)}.{_digits(rng, 5)}", f"case no. {rng.randint(1, 9)}:24-cv-{_digits(rng, 5)}", f"session {_uuid(rng)}", f"id: {_digits(rng, rng.randint(5, 19))}",
         f"tweet {_digits(rng, 19)}", f"arn:aws:s3:::bucket-{_digits(rng, 12)}", f"https://example.com/items/{_digits(rng, 9)}?page={rng.randint(1, 99)}", f"invoice INV-2024-{_digits(rng, 6)}",
         f"call_{_upper(rng, 24)}", f"chatcmpl-{_upper(rng, 29)}", f"Lot {_digits(rng, 8)}, batch {_digits(rng, 6)}", f"Chapter {rng.randint(1, 9)}.{rng.randint(1, 9)}.{rng.randint(1, 9)}.{rng.randint(1, 9)}")
    )  # fmt: skip


def _measures(rng: random.Random) -> str:
    return rng.choice(
        (f"Population {rng.randint(1, 99)} {_digits(rng, 3)} {_digits(rng, 3)} (2020)", f"{_digits(rng, 3)} x {_digits(rng, 3)} px, {_digits(rng, 4)} kB", f"Score 21-19, 19-21, 21-{rng.randint(0, 19)}",
         f"Temperatures of {rng.randint(10, 30)}-{rng.randint(31, 40)} degrees, humidity {rng.randint(20, 99)} %", f"pi is 3.14159265358979{_digits(rng, 4)}", f"ratio 16:9 at {_digits(rng, 2)}.{_digits(rng, 3)} fps",
         f"between 1914-1918 and 1939-1945, pages 123-{_digits(rng, 3)}", f"The polynomial has roots at {_digits(rng, 2)}, {_digits(rng, 2)} and {_digits(rng, 3)}", f"+{_digits(rng, 6)} new lines, -{_digits(rng, 5)} removed",
         f"Took 5 Drive tests, 3 Court cases and {rng.randint(2, 9)} Way points")
    )  # fmt: skip


MAKERS: dict[str, Maker] = {
    "uuid": lambda rng: f"session {_uuid(rng)} and {_uuid(rng)}",
    "order": _order, "tracking": _tracking, "isbn": _isbn, "bad card": _bad_card, "bad iban": _bad_iban, "bad ssn": _bad_ssn,
    "log": _log, "access log": _access, "version": _version, "metrics": _json_metrics, "price": _price,
    "coordinates": _coordinates, "date": _date, "commit": _commit, "code": _code, "lock file": _lock, "image": _image,
    "table": _table, "identifier": _identifiers, "measure": _measures,
}  # fmt: skip


def hard_negatives(each: int, seed: int = 20240) -> Iterator[tuple[str, str]]:
    """`each` texts of every kind, with the kind's name."""
    for kind, make in MAKERS.items():
        rng = random.Random(f"{seed}/{kind}")
        for _ in range(each):
            yield kind, make(rng)


def digest(texts: Iterator[tuple[str, str]]) -> str:
    """Tells whether two runs were over the same texts."""
    return hashlib.sha256("\0".join(text for _, text in texts).encode()).hexdigest()[:12]
