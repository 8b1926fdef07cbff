"""Writes the generated part of the loop corpus: `python -m tests.corpora.loops.generate`.

Each family is a function of a seed. Families in `HELD_OUT` are for measuring alone: nothing in the rules was
tuned on them. Traces in the YAML files beside this one are written by hand.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

FOLDER = Path(__file__).parent
Record = dict[str, Any]
Family = Callable[[random.Random], Record]
TUNED: dict[str, tuple[Family, int]] = {}
HELD_OUT: dict[str, tuple[Family, int]] = {}


def family(seeds: int, *, held_out: bool = False) -> Callable[[Family], Family]:
    def register(make: Family) -> Family:
        (HELD_OUT if held_out else TUNED)[make.__name__.replace("_", "-")] = (make, seeds)
        return make

    return register


def call(name: str, arguments: Any, result: Any, *, failed: bool = False) -> list[Any]:
    return [name, arguments, result, "error"] if failed else [name, arguments, result]


def turn(*calls: list[Any], say: str = "", user: str = "") -> Record:
    written: Record = {}
    if say:
        written["say"] = say
    if calls:
        written["calls"] = list(calls)
    if user:
        written["user"] = user
    return written


def loop(turns: list[Record], rules: str, since: int, by: int, **more: Any) -> Record:
    return {"loop": True, "rules": rules.split(), "since": since, "by": by, "turns": turns, **more}


def work(turns: list[Record], **more: Any) -> Record:
    return {"loop": False, "turns": turns, **more}


# --- material

FIRST = [
    "anna",
    "boris",
    "chen",
    "dilara",
    "emeka",
    "fatima",
    "giulia",
    "hiro",
    "ines",
    "jonas",
    "kemal",
    "lucia",
    "mateo",
    "nadia",
    "olu",
    "petra",
    "quinn",
    "rosa",
    "sven",
    "tariq",
]
LAST = [
    "meyer",
    "okafor",
    "tanaka",
    "silva",
    "novak",
    "haddad",
    "larsen",
    "moreau",
    "ricci",
    "yilmaz",
    "kovacs",
    "dubois",
]
CITIES = [
    "Lyon",
    "Porto",
    "Graz",
    "Osaka",
    "Lagos",
    "Quito",
    "Turin",
    "Malmö",
    "Bergen",
    "Cork",
    "Izmir",
    "Hanoi",
    "Perth",
    "Tampa",
    "Bruges",
    "Split",
]
THINGS = [
    "lamp",
    "kettle",
    "router",
    "jacket",
    "backpack",
    "monitor",
    "keyboard",
    "helmet",
    "blender",
    "tent",
    "headset",
    "scooter",
    "drill",
    "camera",
]
TOPICS = [
    "solar panel subsidies", "battery recycling rates", "urban heat islands", "rail freight costs", "soil carbon",
    "desalination energy use", "wind turbine noise", "heat pump sales", "water pricing", "bicycle lane safety",
]  # fmt: skip
FILES = [
    "parser",
    "cache",
    "router",
    "auth",
    "billing",
    "queue",
    "mailer",
    "search",
    "export",
    "session",
    "upload",
    "report",
]
WORDS = [
    "river",
    "budget",
    "signal",
    "harbour",
    "garden",
    "metric",
    "tunnel",
    "winter",
    "module",
    "bridge",
    "vector",
    "orange",
    "policy",
    "shadow",
    "engine",
    "market",
    "silver",
    "planet",
    "copper",
    "forest",
    "number",
    "window",
    "pencil",
    "stream",
    "castle",
    "thread",
    "mirror",
    "basket",
    "tunnel",
    "ladder",
]


def sentence(r: random.Random, n: int = 9) -> str:
    return " ".join(r.choice(WORDS) for _ in range(n)).capitalize() + "."


def page(r: random.Random, lines: int = 8) -> str:
    return "\n".join(sentence(r) for _ in range(lines))


def clock(r: random.Random) -> str:
    return f"2026-{r.randint(1, 12):02}-{r.randint(1, 28):02}T{r.randint(0, 23):02}:{r.randint(0, 59):02}:{r.randint(1, 59):02}Z"


def uid(r: random.Random) -> str:
    return str(uuid.UUID(int=r.getrandbits(128), version=4))


def shuffled(r: random.Random, value: Record) -> Record:
    keys = list(value)
    r.shuffle(keys)
    return {key: value[key] for key in keys}


def person(r: random.Random) -> str:
    return f"{r.choice(FIRST)}.{r.choice(LAST)}"


def prelude(r: random.Random, most: int = 3) -> list[Record]:
    """A few productive turns."""
    turns = []
    for topic in r.sample(TOPICS, r.randint(0, most)):
        turns.append(turn(call("web_search", {"query": topic}, page(r)), say=f"Let me look into {topic}."))
    return turns


# --- loops


@family(14)
def same_call_support(r: random.Random) -> Record:
    before = prelude(r, 2)
    order = f"A{r.randint(1000, 9999)}"
    result = {"order": order, "status": r.choice(["shipped", "delivered", "refunded"]), "carrier": "DHL"}
    turns = [turn(call("get_order", {"order_id": order}, result)) for _ in range(6)]
    n = len(before)
    return loop(before + turns, "same_call no_progress", n + 2, n + 3, user=f"Where is my order {order}?")


@family(16)
def nonce_in_arguments(r: random.Random) -> Record:
    before = prelude(r, 2)
    query = r.choice(TOPICS)
    kind = r.randrange(8)

    def noise() -> Record:
        noises: list[Record] = [
            {"nonce": uid(r)}, {"timestamp": r.randint(1_700_000_000, 1_800_000_000)}, {"request_id": uid(r)},
            {"ts": clock(r)}, {"trace_id": f"{r.getrandbits(128):032x}"}, {"idempotency_key": uid(r)},
            {"attempt": r.randint(1, 99)}, {"cache_bust": f"{r.getrandbits(60):x}"},
        ]  # fmt: skip
        return noises[kind]

    result = page(r, 4) if r.random() < 0.5 else {"results": [sentence(r) for _ in range(3)]}
    turns = [
        turn(call("search_kb", shuffled(r, {"query": query, "top_k": 5, **noise()}), result))
        for _ in range(6)
    ]
    n = len(before)
    return loop(before + turns, "same_call no_progress near_duplicate", n + 2, n + 3)


@family(12)
def opaque_value_in_arguments(r: random.Random) -> Record:
    before = prelude(r, 2)
    result = {"rows": [{"region": city, "sales": r.randint(100, 999)} for city in r.sample(CITIES, 4)]}
    kind = r.randrange(4)

    def noise() -> str:
        return [
            uid(r), f"{r.getrandbits(96):024x}", clock(r),
            "".join(r.choice("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz0123456789") for _ in range(24)),
        ][kind]  # fmt: skip

    turns = [
        turn(call("run_report", {"report": "sales by region", "marker": noise()}, result)) for _ in range(6)
    ]
    n = len(before)
    return loop(before + turns, "same_call no_progress near_duplicate", n + 2, n + 3)


@family(14)
def volatile_results(r: random.Random) -> Record:
    before = prelude(r, 2)
    host = f"db-{r.randint(1, 9)}"

    def result() -> Any:
        shape = kind
        if shape == 0:
            return {"host": host, "state": "degraded", "checked_at": clock(r), "request_id": uid(r)}
        if shape == 1:
            return f"[{clock(r)}] {host} is degraded: replica lag too high (took {r.randint(10, 900)} ms)"
        if shape == 2:
            return f"FAILED tests/test_{host}.py::test_lag - assert 3 == 4\n1 failed, 12 passed in {r.random() * 3:.2f}s"
        return shuffled(
            r,
            {
                "host": host,
                "state": "degraded",
                "elapsed_ms": r.randint(1, 99),
                "ts": r.randint(10**9, 2 * 10**9),
            },
        )

    kind = r.randrange(4)
    turns = [turn(call("check_host", {"host": host}, result())) for _ in range(6)]
    n = len(before)
    return loop(before + turns, "same_call no_progress", n + 2, n + 4)


@family(14)
def failing_call(r: random.Random) -> Record:
    before = prelude(r, 3)
    path = f"/srv/{r.choice(FILES)}/{r.choice(FILES)}.csv"
    texts = [
        "Error: permission denied: {path}", '{{"error": {{"code": 500, "message": "internal error, request {uid}"}}}}',
        "HTTP 503 Service Unavailable (after {ms} ms)", "Error: connection reset by peer (attempt {n})",
    ]  # fmt: skip
    text = r.choice(texts)
    turns = [
        turn(
            call(
                "read_file",
                {"path": path},
                text.format(path=path, uid=uid(r), ms=r.randint(1, 999), n=i),
                failed=True,
            ),
            say=r.choice(["", "Let me try that again."]),
        )
        for i in range(1, 7)
    ]
    n = len(before)
    return loop(before + turns, "same_call no_progress", n + 2, n + 3)


def _cycle(r: random.Random, length: int) -> Record:
    before = prelude(r, 2)
    places = r.sample(["/home", "/cart", "/login", "/help", "/account", "/orders"], length)
    pages = {place: page(r, 3) for place in places}
    turns = [turn(call("open_page", {"path": place}, pages[place])) for _ in range(5) for place in places]
    n = len(before)
    return loop(before + turns, "cycle same_call no_progress", n + length + 1, n + 3 * length)


@family(10)
def cycle_of_two(r: random.Random) -> Record:
    return _cycle(r, 2)


@family(8)
def cycle_of_three(r: random.Random) -> Record:
    return _cycle(r, 3)


@family(8)
def cycle_of_four(r: random.Random) -> Record:
    return _cycle(r, 4)


@family(14)
def paraphrased_search(r: random.Random) -> Record:
    before = prelude(r, 1)
    core = r.sample(WORDS[:20], 4)
    empty = r.choice(
        ["No results found.", {"results": [], "total": 0}, "[]", "0 results", "Nothing matches your query."]
    )
    turns = []
    for i in range(8):
        words = core[:]
        if i:
            r.shuffle(words)
        filler = r.choice(["", "the ", "about ", "what is ", "please "])
        turns.append(
            turn(
                call(
                    "search_docs",
                    {
                        "query": f"{filler}{words[0]} {words[1]} of {words[2]} {words[3]}{r.choice(['', '?', 's'])}"
                    },
                    empty,
                )
            )
        )
    n = len(before)
    return loop(before + turns, "near_duplicate no_progress same_call", n + 2, n + 6)


@family(12)
def same_page_in_browser(r: random.Random) -> Record:
    before = [turn(call("goto", {"url": "https://shop.example/start"}, page(r, 12)))]
    stuck = page(r, 14)
    turns = [
        turn(
            call("click", {"selector": f"#{r.choice(WORDS)}-{r.randint(1, 99)}"}, stuck),
            say="I will click the button.",
        )
        for _ in range(7)
    ]
    return loop(before + turns, "no_progress near_duplicate same_call repeated_text", 3, 6)


@family(12)
def error_streak(r: random.Random) -> Record:
    before = prelude(r, 2)
    tools = ["query_db", "list_tables", "describe_table", "run_script", "fetch_schema", "read_log"]
    turns = [
        turn(call(tool, {"target": r.choice(FILES)}, f"Error: {sentence(r, 5)}", failed=True))
        for tool in r.sample(tools, 6)
    ]
    n = len(before)
    return loop(before + turns, "consecutive_tool_errors no_progress", n + 3, n + 5)


@family(10)
def text_agent_repeats(r: random.Random) -> Record:
    topic = r.choice(TOPICS)
    say = f"Thought: I need to find out more on {topic} before I can answer the question.\nAction: search[{topic}]"
    heard = f"Observation: {sentence(r)}"
    turns = [turn(say=say, user=heard) for _ in range(6)]
    return loop(turns, "repeated_text", 2, 3)


@family(8)
def nudged_without_end(r: random.Random) -> Record:
    say = r.choice(
        ["I have completed the task.", "Everything is done, let me know if you need more.", "Task finished."]
    )
    turns = prelude(r, 2)
    n = len(turns)
    nudge = "You did not call the final tool. Please go on."
    return loop(turns + [turn(say=say, user=nudge) for _ in range(5)], "repeated_text", n + 2, n + 3)


@family(8)
def timeout_read_as_pending(r: random.Random) -> Record:
    job = f"job-{r.randint(100, 999)}"
    result = r.choice(
        [
            {"status": "pending", "message": "request timed out"},
            {"status": "pending", "detail": "upstream deadline exceeded"},
            f"{job}: pending (connection timed out)",
        ]
    )
    turns = [turn(call("check_job_status", {"job_id": job}, result)) for _ in range(12)]
    return loop(turns, "same_call no_progress consecutive_tool_errors", 2, 5)


@family(8)
def stuck_poll(r: random.Random) -> Record:
    job = f"job-{r.randint(100, 999)}"
    status = r.choice(["pending", "queued", "in_progress"])
    polls = turn(
        call(r.choice(["check_status", "get_job", "poll_build"]), {"id": job}, {"id": job, "status": status})
    )
    return loop([{**polls, "times": 55}], "same_call no_progress context_growth", 10, 52)


@family(10)
def parallel_pair_again(r: random.Random) -> Record:
    before = prelude(r, 2)
    cities = r.sample(CITIES, 2)
    results = {city: {"city": city, "temp": r.randint(-5, 35), "sky": "clear"} for city in cities}
    turns = []
    for _ in range(6):
        order = r.sample(cities, 2)
        turns.append(turn(*[call("get_weather", {"city": city}, results[city]) for city in order]))
    n = len(before)
    return loop(before + turns, "same_call no_progress", n + 2, n + 3)


@family(10)
def created_again_and_again(r: random.Random) -> Record:
    before = prelude(r, 2)
    title = sentence(r, 6)
    turns = [
        turn(
            call(
                "create_ticket",
                {"title": title, "priority": "high"},
                {"ticket_id": uid(r), "created": True, "at": clock(r)},
            )
        )
        for _ in range(6)
    ]
    n = len(before)
    return loop(before + turns, "same_call no_progress", n + 2, n + 3)


@family(10)
def same_test_again(r: random.Random) -> Record:
    name = r.choice(FILES)
    before = [
        turn(call("Read", {"file_path": f"src/{name}.py"}, page(r, 10))),
        turn(
            call(
                "Edit",
                {"file_path": f"src/{name}.py", "old_string": sentence(r), "new_string": sentence(r)},
                "The file has been updated.",
            )
        ),
    ]
    turns = [
        turn(call("Bash", {"command": f"pytest tests/test_{name}.py"},
                  f"E  assert 1 == 2\n1 failed, 4 passed in {r.random():.2f}s"))
        for _ in range(6)
    ]  # fmt: skip
    return loop(before + turns, "same_call no_progress", 4, 6)


# --- work


@family(10)
def batch_ok(r: random.Random) -> Record:
    ack = r.choice(["ok", "done", {}, {"status": "ok"}, {"success": True}, "Updated.", "null", ""])
    first = r.randint(1, 500)
    return work(
        [
            turn(call("update_record", {"id": first + i, "tag": "reviewed"}, ack))
            for i in range(r.randint(7, 12))
        ]
    )


@family(10)
def pagination(r: random.Random) -> Record:
    key = r.choice(["page", "offset", "cursor", "page_token"])
    turns = []
    for i in range(7):
        value: Any = {
            "page": i + 1,
            "offset": i * 20,
            "cursor": f"{r.getrandbits(80):020x}",
            "page_token": f"tok{i}",
        }[key]
        rows = [{"id": uid(r), "name": person(r), "status": "active"} for _ in range(5)]
        turns.append(
            turn(call("list_customers", {"limit": 20, key: value}, {"items": rows, "has_more": i < 6}))
        )
    return work(turns)


@family(10)
def poll_with_progress(r: random.Random) -> Record:
    job = f"build-{r.randint(100, 999)}"
    done = 0
    turns = []
    while done < 100:
        done = min(100, done + r.randint(7, 20))
        turns.append(
            turn(
                call(
                    "get_build",
                    {"id": job},
                    {"id": job, "status": "running", "percent": done, "ts": clock(r)},
                )
            )
        )
    turns.append(turn(call("get_build", {"id": job}, {"id": job, "status": "succeeded"})))
    return work(turns)


@family(10)
def patient_poll(r: random.Random) -> Record:
    job = f"deploy-{r.randint(100, 999)}"
    name = r.choice(["check_deploy_status", "get_job_status", "wait_for_rollout", "poll_run"])
    result = {
        "id": job,
        "status": r.choice(["pending", "queued", "in_progress"]),
        "checked_at": "2026-03-01T10:00:01Z",
    }
    turns = prelude(r, 1)
    for _ in range(r.randint(6, 16)):
        turns.append(turn(call(name, {"id": job}, {**result, "checked_at": clock(r)})))
        if name != "wait_for_rollout" and r.random() < 0.5:
            turns.append(turn(call("sleep", {"seconds": 30}, "ok")))
    turns.append(turn(call(name, {"id": job}, {"id": job, "status": "succeeded"})))
    return work(turns)


@family(12)
def test_fix_test(r: random.Random) -> Record:
    name = r.choice(FILES)
    path = f"src/{name}.py"
    failing = r.randint(4, 7)
    test = {"command": f"pytest -q tests/test_{name}.py"}
    turns = [turn(call("Bash", test, f"{page(r, 4)}\n{failing} failed in {r.random():.2f}s"))]
    while failing:
        same = r.random() < 0.3
        turns.append(
            turn(
                call(
                    "Edit",
                    {"file_path": path, "old_string": sentence(r), "new_string": sentence(r)},
                    f"The file {path} has been updated.",
                )
            )
        )
        if not same:
            failing -= 1
        turns.append(
            turn(
                call(
                    "Bash", test, f"{failing} failed in {r.random():.2f}s" if failing else "8 passed in 0.41s"
                )
            )
        )
        if len(turns) > 20:
            break
    return work(turns)


@family(10)
def read_edit_read(r: random.Random) -> Record:
    path = f"docs/{r.choice(FILES)}.md"
    lines = [sentence(r) for _ in range(12)]
    turns = []
    for i in range(6):
        turns.append(turn(call("read_file", {"path": path}, "\n".join(lines))))
        lines[i * 2] = sentence(r)
        turns.append(turn(call("write_line", {"path": path, "line": i * 2, "text": lines[i * 2]}, "ok")))
    return work(turns)


@family(10)
def transient_error(r: random.Random) -> Record:
    turns = []
    for topic in r.sample(TOPICS, 5):
        args = {"query": topic}
        for _ in range(r.randint(0, 2)):
            turns.append(
                turn(
                    call(
                        "web_search",
                        args,
                        r.choice(
                            ["HTTP 503 Service Unavailable", "Error: timed out", "429 Too Many Requests"]
                        ),
                        failed=True,
                    )
                )
            )
        turns.append(turn(call("web_search", args, page(r))))
    return work(turns)


@family(12)
def refined_search(r: random.Random) -> Record:
    topic = r.choice(TOPICS)
    query = topic
    turns = []
    for i in range(6):
        found = "No results found." if i == 1 else page(r, r.randint(3, 8))
        turns.append(turn(call("web_search", {"query": query, "n": 10}, found)))
        query = f"{query} {r.choice(WORDS)}"
    return work(turns)


@family(12)
def fan_out(r: random.Random) -> Record:
    kind = r.randrange(4)
    ack = r.choice(["ok", "done", "{}", {"queued": True}])
    turns = []
    for i in range(1, 8):
        args: Record = [
            {"item": f"item {i}"}, {"task": f"Summarise chapter {i} of the handbook"},
            {"title": "Weekly summary", "body": "Please find the summary attached.", "to": f"{person(r)}@example.com"},
            {"command": f"convert input_{i:02}.png output_{i:02}.jpg"},
        ][kind]  # fmt: skip
        turns.append(turn(call("process", args, ack)))
    return work(turns)


@family(8)
def parallel_identical(r: random.Random) -> Record:
    turns = []
    for topic in r.sample(TOPICS, 4):
        same = [call("ask_specialist", {"question": f"What of {topic}?"}, sentence(r, 14)) for _ in range(4)]
        turns.append(turn(*same))
    return work(turns)


@family(10)
def same_mail_to_many(r: random.Random) -> Record:
    body = page(r, 5)
    names = r.sample(FIRST, 9)
    return work(
        [
            turn(
                call(
                    "send_email",
                    {
                        "to": r.choice([f"{n}@example.com", n.title()]),
                        "subject": "Planned maintenance",
                        "body": body,
                    },
                    "sent",
                )
            )
            for n in names
        ]
    )


@family(10)
def time_windows(r: random.Random) -> Record:
    day = r.randint(1, 20)
    empty = r.choice([{"rows": []}, "[]", "0 rows", {"rows": [], "scanned": 0}])
    turns = []
    for hour in range(9):
        since, until = f"2026-04-{day:02}T{hour:02}:00:00Z", f"2026-04-{day:02}T{hour + 1:02}:00:00Z"
        args: Any = {"since": since, "until": until, "table": "events"}
        if empty == "0 rows":
            args = {"sql": f"SELECT * FROM events WHERE ts >= '{since}' AND ts < '{until}'"}
        turns.append(turn(call("query_events", args, empty)))
    return work(turns)


@family(10)
def many_lookups(r: random.Random) -> Record:
    missing = r.choice(["not found", {"found": False}, "No such customer.", {"results": []}])
    turns = []
    for n in r.sample(range(1000, 9999), 9):
        known = r.random() < 0.3
        result = {"name": person(r), "city": r.choice(CITIES)} if known else missing
        turns.append(turn(call("find_customer", {"customer_id": f"C{n}"}, result)))
    if missing in ("not found", "No such customer."):
        turns.insert(3, turn(call("count_customers", {}, {"total": 4812})))
        turns.insert(7, turn(call("get_region", {"name": "north"}, {"region": "north", "customers": 912})))
    return work(turns)


@family(10)
def classify_many(r: random.Random) -> Record:
    labels: list[Any] = r.choice([["positive"], ["spam", "spam", "ham"], [{"label": "neutral"}], ["true"]])
    return work([turn(call("classify", {"text": sentence(r, 12)}, r.choice(labels))) for _ in range(10)])


@family(8)
def rereads_its_plan(r: random.Random) -> Record:
    plan = "\n".join(f"{i}. {sentence(r, 5)}" for i in range(1, 6))
    turns = []
    for topic in r.sample(TOPICS, 6):
        turns.append(turn(call("read_plan", {}, plan)))
        turns.append(turn(call("web_search", {"query": topic}, page(r))))
    return work(turns)


@family(8)
def cleared_results(r: random.Random) -> Record:
    path = f"src/{r.choice(FILES)}.py"
    gone = "[Old tool result content cleared]"
    turns = []
    for _ in range(5):
        turns.append(turn(call("Read", {"file_path": path}, gone)))
        turns.append(
            turn(
                call("Edit", {"file_path": path, "old_string": sentence(r), "new_string": sentence(r)}, gone)
            )
        )
    return work(turns)


@family(8)
def tuning_for_speed(r: random.Random) -> Record:
    turns = []
    time = 900.0
    for i in range(6):
        turns.append(
            turn(
                call(
                    "run_benchmark",
                    {"suite": "parser"},
                    f"parser: mean {time:.0f} ms, p99 {time * 1.4:.0f} ms",
                )
            )
        )
        time *= r.uniform(0.6, 0.95)
        turns.append(turn(call("apply_patch", {"patch": f"@@ -{i},3 +{i},4 @@\n+{sentence(r)}"}, "Done!")))
    return work(turns)


@family(8)
def text_agent_works(r: random.Random) -> Record:
    return work(
        [
            turn(say=f"Thought: next I look at {t}.\nAction: search[{t}]", user=f"Observation: {sentence(r)}")
            for t in r.sample(TOPICS, 7)
        ]
    )


@family(8)
def text_agent_polls(r: random.Random) -> Record:
    return work(
        [
            turn(
                say="Thought: I check the job again.\nAction: status[42]",
                user=f"Observation: {10 * i} % done",
            )
            for i in range(1, 9)
        ]
    )


@family(10)
def varied_work(r: random.Random) -> Record:
    turns = []
    for _ in range(10):
        tool = r.choice(["web_search", "read_file", "query_db", "get_weather", "calc"])
        arguments = {"q": r.choice(TOPICS), "n": r.randint(1, 9)}
        turns.append(turn(call(tool, arguments, page(r, r.randint(2, 9)))))
    return work(turns)


# --- held out: loops


@family(8, held_out=True)
def crash_loop_watch(r: random.Random) -> Record:
    pod = f"api-{r.getrandbits(32):08x}-x7k2p"
    command = {"command": ["kubectl", "get", "pod", pod]}
    result = f"NAME READY STATUS RESTARTS\n{pod} 0/1 CrashLoopBackOff 17"
    before = [turn(call("shell", {"command": ["kubectl", "get", "ns"]}, page(r, 4)))]
    return loop(
        before + [turn(call("shell", command, result)) for _ in range(6)], "same_call no_progress", 3, 5
    )


@family(8, held_out=True)
def multilingual_search(r: random.Random) -> Record:
    groups = [
        ["günstige Hotels in Graz", "Hotels in Graz günstig", "Graz günstige Hotels", "günstige Hotels Graz bitte", "Hotels Graz günstige", "in Graz günstige Hotels"],
        ["vols pas chers Lyon Porto", "vols Lyon Porto pas chers", "Lyon Porto vols pas chers", "pas chers vols Lyon Porto", "Porto Lyon vols pas chers", "vols pas chers de Lyon Porto"],
        ["大阪 ホテル 安い", "安い ホテル 大阪", "ホテル 大阪 安い", "大阪 安い ホテル", "安い 大阪 ホテル", "ホテル 安い 大阪"],
        ["restaurantes baratos Quito centro", "Quito centro restaurantes baratos", "baratos restaurantes en Quito centro", "restaurantes Quito centro baratos", "centro Quito restaurantes baratos", "restaurantes baratos del centro Quito"],
    ]  # fmt: skip
    empty = r.choice(
        ["Keine Ergebnisse.", "Aucun résultat.", "見つかりませんでした", "Sin resultados.", {"hits": []}]
    )
    group = r.choice(groups)
    return loop([turn(call("suche", {"q": q}, empty)) for q in group], "near_duplicate no_progress same_call", 2, 6)  # fmt: skip


@family(8, held_out=True)
def sql_on_a_missing_table(r: random.Random) -> Record:
    table = r.choice(FILES)
    turns = [turn(call("list_tables", {}, {"tables": r.sample(WORDS, 6)}))]
    for _ in range(7):
        sql = (
            f"SELECT {r.choice(['*', 'count(*)', 'id', 'max(id)'])} FROM {table} LIMIT {r.choice([1, 5, 10])}"
        )
        turns.append(
            turn(
                call(
                    "execute_sql",
                    {"sql": sql},
                    {"error": f'relation "{table}" does not exist', "position": 15},
                )
            )
        )
    return loop(turns, "consecutive_tool_errors same_call near_duplicate no_progress", 3, 6)


@family(8, held_out=True)
def scrolls_to_nowhere(r: random.Random) -> Record:
    bottom = {"scrolled": True, "visible": [sentence(r) for _ in range(6)], "at": "bottom"}
    before = [
        turn(
            call(
                "scroll",
                {"dy": 800},
                {"scrolled": True, "visible": [sentence(r) for _ in range(6)], "at": "middle"},
            )
        )
        for _ in range(2)
    ]
    return loop(before + [turn(call("scroll", {"dy": 800}, {**bottom, "frame": clock(r)})) for _ in range(7)], "same_call no_progress", 4, 6)  # fmt: skip


@family(8, held_out=True)
def rag_same_passage(r: random.Random) -> Record:
    passages = [{"score": 0.71, "text": page(r, 3)}, {"score": 0.65, "text": page(r, 3)}]
    asks = [
        "{} deadline",
        "deadline for {}",
        "when is the deadline of {}",
        "{} due date",
        "last day for {}",
        "{} final date",
        "closing date {}",
    ]
    topic = r.choice(TOPICS)
    return loop(
        [turn(call("retrieve", {"query": a.format(topic), "k": 2}, passages)) for a in asks],
        "near_duplicate no_progress",
        3,
        6,
    )


@family(8, held_out=True)
def hand_over_ping_pong(r: random.Random) -> Record:
    pair = r.sample(
        ["transfer_to_billing", "transfer_to_support", "transfer_to_sales", "transfer_to_triage"], 2
    )
    before = prelude(r, 1)
    turns = [turn(call(name, "{}", {"assistant": name[12:].title()})) for _ in range(5) for name in pair]
    n = len(before)
    return loop(before + turns, "cycle same_call no_progress", n + 3, n + 6)


@family(8, held_out=True)
def mail_sent_twice_and_more(r: random.Random) -> Record:
    to = f"{person(r)}@example.org"
    body = sentence(r, 12)
    turns = [turn(call("lookup_contact", {"name": to.split("@")[0]}, {"email": to, "team": "finance"}))]
    turns += [turn(call("gmail.send", {"to": to, "body": body, "client_request_id": uid(r)}, {"messageId": f"{r.getrandbits(64):016x}", "labelIds": ["SENT"]})) for _ in range(6)]  # fmt: skip
    return loop(turns, "same_call no_progress", 3, 5)


@family(8, held_out=True)
def wall_of_consent(r: random.Random) -> Record:
    wall = "Before you continue\n" + page(r, 9)
    turns = [turn(call("web_search", {"query": r.choice(TOPICS)}, page(r, 7)))]
    turns += [
        turn(
            call("fetch_url", {"url": f"https://news.example/{r.choice(WORDS)}/{r.randint(100, 999)}"}, wall)
        )
        for _ in range(8)
    ]
    return loop(turns, "no_progress same_call near_duplicate", 3, 6)


@family(8, held_out=True)
def apologises_for_ever(r: random.Random) -> Record:
    say = "I apologise for the confusion. Unfortunately I cannot open the attachment you mentioned, so please send it again."
    turns = [turn(say=say, user="The attachment is there. Go on.") for _ in range(6)]
    return loop(turns, "repeated_text", 2, 4)


@family(8, held_out=True)
def calendar_stuck(r: random.Random) -> Record:
    who = person(r)
    turns = []
    for _ in range(6):
        turns.append(
            turn(
                call(
                    "free_busy",
                    {"who": who},
                    {"busy": [f"2026-05-0{d}T09:00:00Z" for d in range(1, 6)], "queried_at": clock(r)},
                )
            )
        )
        turns.append(
            turn(
                call(
                    "book_slot",
                    {"who": who, "at": "2026-05-03T09:00:00Z"},
                    {"booked": False, "reason": "conflict", "ref": uid(r)},
                )
            )
        )
    return loop(turns, "cycle same_call no_progress", 3, 7)


# --- held out: work


@family(8, held_out=True)
def rollout_goes_on(r: random.Random) -> Record:
    turns = [
        turn(call("bash", {"command": "kubectl apply -f deploy.yaml"}, "deployment.apps/api configured"))
    ]
    for ready in range(6):
        turns.append(
            turn(
                call(
                    "bash",
                    {"command": "kubectl rollout status deploy/api"},
                    f"Waiting for rollout to finish: {ready} of 6 updated replicas are available...",
                )
            )
        )
    turns.append(
        turn(
            call(
                "bash",
                {"command": "kubectl rollout status deploy/api"},
                'deployment "api" successfully rolled out',
            )
        )
    )
    return work(turns)


@family(8, held_out=True)
def inbox_triage(r: random.Random) -> Record:
    turns = []
    for _ in range(5):
        mail = f"{r.getrandbits(64):016x}"
        turns.append(
            turn(call("get_mail", {"id": mail}, {"from": f"{person(r)}@example.net", "text": page(r, 3)}))
        )
        turns.append(
            turn(
                call("label_mail", {"id": mail, "label": r.choice(["later", "later", "urgent"])}, "ok"),
                say="I will label this one.",
            )
        )
    return work(turns)


@family(8, held_out=True)
def translation_batch(r: random.Random) -> Record:
    return work([turn(call("save_translation", {"lang": "de", "key": f"menu.{w}", "text": w.title()}, {"saved": True})) for w in r.sample(list(dict.fromkeys(WORDS)), 11)])  # fmt: skip


@family(8, held_out=True)
def schema_exploration(r: random.Random) -> Record:
    turns = []
    for name in r.sample(FILES, 6):
        columns = [{"column": w, "type": r.choice(["text", "bigint"])} for w in r.sample(WORDS, 6)]
        turns.append(turn(call("describe_table", {"table": name}, {"columns": columns})))
        turns.append(
            turn(
                call(
                    "execute_sql",
                    {"sql": f"SELECT count(*) FROM {name}"},
                    [{"count": r.randint(0, 3) * r.randint(0, 5000)}],
                )
            )
        )
    return work(turns)


@family(8, held_out=True)
def feed_scrolling(r: random.Random) -> Record:
    return work(
        [turn(call("scroll", {"dy": 800}, {"visible": [sentence(r) for _ in range(6)]})) for _ in range(9)]
    )


@family(8, held_out=True)
def geocode_all(r: random.Random) -> Record:
    known = {city: [round(r.uniform(-60, 60), 4), round(r.uniform(-90, 90), 4)] for city in CITIES}
    return work([turn(*[call("geocode", {"place": city}, known[city]) for city in r.sample(CITIES, 2)]) for _ in range(3)]
                + [turn(call("geocode", {"place": f"{r.choice(CITIES)} {r.randint(1, 99)}"}, "ZERO_RESULTS")) for _ in range(3)])  # fmt: skip


@family(8, held_out=True)
def polite_scraper(r: random.Random) -> Record:
    turns = []
    for i in range(6):
        turns.append(turn(call("fetch", {"url": f"https://data.example/item/{i}"}, page(r, 6))))
        turns.append(turn(call("wait", {"ms": 1000}, "waited 1000 ms")))
    return work(turns)


@family(8, held_out=True)
def fix_the_pipeline(r: random.Random) -> Record:
    turns = []
    for i in range(5):
        turns.append(
            turn(
                call("run_pipeline", {"name": "nightly"}, {"ok": False, "failed_step": i, "log": page(r, 2)})
            )
        )
        turns.append(turn(call("patch_step", {"step": i, "sql": sentence(r)}, {"patched": True})))
    turns.append(turn(call("run_pipeline", {"name": "nightly"}, {"ok": True})))
    return work(turns)


@family(8, held_out=True)
def log_tail(r: random.Random) -> Record:
    return work([turn(call("tail_log", {"file": "app.log", "lines": 5}, "\n".join(f"{clock(r)} worker {sentence(r, 6)}" for _ in range(5)))) for _ in range(8)])  # fmt: skip


@family(8, held_out=True)
def reconcile_invoices(r: random.Random) -> Record:
    turns = []
    for n in r.sample(range(20000, 29999), 5):
        turns.append(
            turn(
                call(
                    "get_invoice",
                    {"number": n},
                    {"number": n, "total": round(r.uniform(5, 900), 2), "currency": "EUR"},
                )
            )
        )
        turns.append(turn(call("match_payment", {"invoice": n}, {"matched": r.random() < 0.7})))
    return work(turns)


@family(8, held_out=True)
def answers_in_a_chat(r: random.Random) -> Record:
    return work(
        [turn(say=r.choice(["You're welcome!", "Glad to help!"]), user=sentence(r, 7)) for _ in range(8)]
    )


def records(families: dict[str, tuple[Family, int]], held_out: bool) -> Iterator[Record]:
    for name, (make, seeds) in families.items():
        for seed in range(seeds):
            record = make(random.Random(f"{name}/{seed}"))
            yield {
                "id": f"{name}-{seed:02}",
                "family": name,
                **({"held_out": True} if held_out else {}),
                **record,
            }


def main() -> None:
    for file, families in (("tuned.jsonl", TUNED), ("held_out.jsonl", HELD_OUT)):
        lines = [orjson.dumps(record) for record in records(families, families is HELD_OUT)]
        (FOLDER / file).write_bytes(b"\n".join(lines) + b"\n")


if __name__ == "__main__":
    main()
