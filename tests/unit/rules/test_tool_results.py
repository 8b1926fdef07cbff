"""Reading the health of tool results: what failed, who is to blame, and what only looks like a failure."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rules.tool_results import ResultHealth, read_result
from tests.support.effort import Effort

SHARED = Path(os.environ.get("GATEWAY_SHARED_DATA") or Path(__file__).parents[4] / "shared" / "data")
TEXTS = SHARED / "injection_dev.jsonl.gz"


def brief(text: str, failed: bool = False) -> str:
    """`status/error_type/cause`, the empty ones left out."""
    health = read_result(text, failed)
    return "/".join(part for part in (health.status, health.error_type, health.cause) if part)


STRUCTURED: list[tuple[object, str]] = [
    ({"status": "error", "error_type": "upstream_failure", "retry_safe": True, "message": "x"}, "error/upstream_failure/tool"),
    ({"status": "error", "error_type": "timeout", "retry_safe": True}, "error/timeout/tool"),
    ({"status": "error", "error_type": "ValidationError", "message": "x"}, "error/ValidationError/caller"),
    ({"status": "error", "error_type": "quota_exceeded", "retry_safe": False}, "error/quota_exceeded/caller"),
    ({"status": "error", "error_type": "tool_unavailable", "message": "breaker open"}, "error/tool_unavailable/caller"),
    ({"status": "error", "error_type": "approval_pending", "message": "ask again"}, "pending"),
    ({"status": "error", "message": "something"}, "error/unknown"),
    ({"status": "ERROR", "message": "Order not found"}, "error/not_found/caller"),
    ({"status": "failed", "reason": "connection refused"}, "error/unavailable/tool"),
    ({"status": "failed"}, "error/unknown"),
    ({"status": "timeout"}, "error/timeout/tool"),
    ({"status": "timed_out", "job": "j1"}, "error/timeout/tool"),
    ({"error": "boom"}, "error/unknown"),
    ({"error": {"code": 503, "message": "overloaded"}}, "error/unavailable/tool"),
    ({"error": {"type": "rate_limit_error", "message": "slow down"}}, "error/rate_limited/caller"),
    ({"error": True, "message": "Missing required field 'id'"}, "error/invalid/caller"),
    ({"errors": [{"message": "Cannot query field 'x'"}], "data": None}, "error/unknown"),
    ({"errors": ["id is required"]}, "error/invalid/caller"),
    ({"errorMessage": "Task timed out after 3.00 seconds"}, "error/timeout/tool"),
    ({"errorMessage": "division by zero", "errorType": "ZeroDivisionError", "stackTrace": []}, "error/ZeroDivisionError"),
    ({"ok": False, "error": "channel_not_found"}, "error/not_found/caller"),
    ({"success": False, "message": "Permission denied"}, "error/denied/caller"),
    ({"successful": False, "data": {}, "error": "Request failed with status code 500"}, "error/exception/tool"),
    ({"status_code": 502, "body": "<html>"}, "error/unavailable/tool"),
    ({"statusCode": 404, "body": "{}"}, "error/not_found/caller"),
    ({"statusCode": "429"}, "error/rate_limited/caller"),
    ({"status": 422, "detail": [{"loc": ["body", "x"], "msg": "field required"}]}, "error/invalid/caller"),
    ({"code": 401, "message": "token expired"}, "error/denied/caller"),
    ({"cod": "404", "message": "city not found"}, "error/not_found/caller"),
    ({"type": "https://example.net/probs/out-of-credit", "title": "No credit", "status": 403}, "error/denied/caller"),
    ({"type": "about:blank", "title": "Service Unavailable", "status": 503}, "error/unavailable/tool"),
    ({"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "nope"}}, "error/not_found/caller"),
    ({"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "nope"}}, "error/invalid/caller"),
    ({"content": [{"type": "text", "text": "Read timed out."}], "isError": True}, "error/timeout/tool"),
    ({"content": [{"type": "text", "text": "hello"}], "isError": True}, "error/unknown"),
    ({"content": [{"type": "text", "text": '{"error": "no such user"}'}], "isError": False}, "error/not_found/caller"),
    ([{"type": "text", "text": "Error: no such table: users"}], "error/not_found/caller"),
    ([{"type": "text", "text": '{"status": "error", "error_type": "x"}'}], "error/x"),
    ("Error: boom", "error/unknown"),
    ('{"status": "error", "message": "denied: permission denied"}', "error/denied/caller"),
    ({"result": {"status": "error", "message": "HTTP 500"}}, "error/exception/tool"),
    ({"output": "make: *** failed", "metadata": {"exit_code": 2, "duration_seconds": 0.1}}, "error/unknown/caller"),
    ({"stdout": "", "stderr": "bash: foo: command not found", "exit_code": 127}, "error/not_found/caller"),
    ({"stdout": "", "exit_code": 124}, "error/timeout/tool"),
    ({"status": "pending", "job_id": "j1"}, "pending"),
    ({"status": "in_progress", "progress": 40}, "pending"),
    ({"state": "queued", "position": 3}, "pending"),
    ({"job": {"id": 1}, "status": "RUNNING"}, "pending"),
    ({"status": "pending", "message": "The upstream request timed out, still pending"}, "error/timeout/tool"),
    ({"status": "pending", "error": "worker timed out"}, "error/timeout/tool"),
    ({"status": "pending", "timeout": 30}, "pending"),
]  # fmt: skip


@pytest.mark.parametrize(("result", "expected"), STRUCTURED, ids=lambda v: json.dumps(v)[:70])
def test_structured_results_are_read(result: object, expected: str) -> None:
    assert brief(json.dumps(result)) == expected
    assert brief(json.dumps(json.dumps(result))) == expected


FINE: list[object] = [
    {},
    [],
    None,
    7,
    {"status": "ok", "error": None},
    {"status": "success", "data": {"status": "error"}, "took_ms": 3, "page": 1},
    {"error": None, "result": 4},
    {"error": "", "response": "42"},
    {"error": "None"},
    {"error": False},
    {"errors": []},
    {"errors": 0, "warnings": 2},
    {"ok": True, "error": "ignored"},
    {"file": "a.py", "errors": ["E501 line too long"], "warnings": []},
    {"data": {"user": {"id": 1}}, "errors": [{"message": "field deprecated"}]},
    {"results": [{"id": 1}], "error": "page 2 failed"},
    {"level": "error", "msg": "connection refused", "error": "ECONNREFUSED", "ts": 1},
    {"payment_id": "p1", "amount": 3, "status": "failed", "customer": "c1"},
    {"order_id": "A1", "status": "rejected", "items": [1], "total": 5},
    {"sku": 404, "code": 404, "name": "Shelf", "price": 500},
    {"status": 200, "body": "timeout"},
    {"exit_code": 0, "stdout": "0 errors, 3 tests passed", "stderr": "warning: timeout is deprecated"},
    [{"url": "https://a", "status": 404}, {"url": "https://b", "status": 200}],
    [{"level": "error", "error": "boom"}],
    {"titles": ["Timeout errors", "How to handle HTTP 503"]},
    {"title": "Timeout errors", "url": "https://example.org/timeouts"},
    {"text": "In 2003 the request failed because nobody had tried."},
    {"status": "processing", "order_id": "A1", "history": ["x" * 1700]},
    {"content": [{"type": "text", "text": "all good"}], "isError": False},
]


@pytest.mark.parametrize("result", FINE, ids=lambda v: json.dumps(v)[:70])
def test_data_that_mentions_errors_is_data(result: object) -> None:
    assert brief(json.dumps(result)) == "ok"


PLAIN: list[tuple[str, str]] = [
    ("Error: ZeroDivisionError('division by zero')\n Please fix your mistakes.", "error/exception/tool"),
    ("Error: KeyError('x')\n" + "y" * 9000 + "\n Please fix your mistakes.", "error/exception/tool"),
    ("Error: 1 validation error for f\nx\n  Field required\n Please fix your mistakes.", "error/invalid/caller"),
    ("Error: foo is not a valid tool, try one of [bar, baz].", "error/not_found/caller"),
    ("An error occurred while running the tool. Please try again. Error: Read timed out", "error/timeout/tool"),
    ("An error occurred while running the tool. Please try again. Error: 'id'", "error/unknown"),
    ("1 validation error:\n```json\n[{\"loc\": [\"x\"]}]\n```\n\nFix the errors and try again.", "error/invalid/caller"),
    ("2 validation errors:\n```json\n[{\"type\": \"extra_forbidden\"}]\n```\n\nFix the errors and try again.", "error/invalid/caller"),
    ("Not a city I know.\n\nFix the errors and try again.", "error/invalid/caller"),
    ("Unknown tool name: 'x'. Available tools: 'y'", "error/not_found/caller"),
    ("<tool_use_error>InputValidationError: Read failed: missing parameter `file_path`</tool_use_error>", "error/invalid/caller"),
    ("<tool_use_error>File does not exist.</tool_use_error>", "error/not_found/caller"),
    ("The user doesn't want to proceed with this tool use. The tool use was rejected", "error/denied/caller"),
    ("Call id: call_1\nError:\nboom\nNow let's retry: take care not to repeat previous errors! If you have retried several times, try a completely different approach.\n", "error/unknown"),
    ("MCP error -32602: Invalid arguments for tool x", "error/invalid/caller"),
    ("MCP error -32001: Request timed out", "error/timeout/tool"),
    ("Error executing tool get_weather: HTTPConnectionPool(host='x', port=80): Max retries exceeded: Connection refused", "error/unavailable/tool"),
    ("I encountered an error while trying to use the tool. This was the error: bad.", "error/unknown"),
    ("Observation: Error: 404 Client Error: Not Found for url: https://x/y", "error/not_found/caller"),
    ("Exit code 1\nFAILED tests/test_a.py::test_b - assert 1 == 2", "error/unknown/caller"),
    ("Exit code: 2\nWall time: 0.1 seconds\nOutput:\nls: cannot access 'x': No such file or directory", "error/not_found/caller"),
    ("some output\n[Command finished with exit code 1]", "error/unknown/caller"),
    ("total 0\n(exit code 2)", "error/unknown/caller"),
    ("<returncode>1</returncode>\n<output>\nx\n</output>", "error/unknown/caller"),
    ("Command: make\nDirectory: (root)\nOutput: x\nError: (none)\nExit Code: 2\nSignal: (none)\nProcess Group PGID: 7", "error/unknown/caller"),
    ("Traceback (most recent call last):\n  File \"/app/tools.py\", line 3, in run\n    f()\nRuntimeError: boom", "error/exception/tool"),
    ("Traceback (most recent call last):\n  File \"/app/t.py\", line 3, in run\n    f()\nhttpx.ReadTimeout: timed out", "error/timeout/tool"),
    ("Traceback (most recent call last):\n  File \"<string>\", line 1, in <module>\nZeroDivisionError: division by zero", "error/exception/caller"),
    ("step 1\nstep 2\nTraceback (most recent call last):\n  File \"/a.py\", line 1, in <module>\n    x\nValueError: boom", "error/exception/tool"),
    ("Error: boom", "error/unknown"),
    ("ERROR: relation \"users\" does not exist", "error/not_found/caller"),
    ("ValueError: invalid literal for int()", "error/invalid/caller"),
    ("requests.exceptions.ConnectionError: Max retries exceeded", "error/unavailable/tool"),
    ("TypeError: f() got an unexpected keyword argument 'q'", "error/invalid/caller"),
    ("❌ Error (3): boom", "error/unknown"),
    ("[ERROR]: boom", "error/unknown"),
    ("Error 1045: Access denied for user 'x'", "error/denied/caller"),
    ("Fatal: not a git repository", "error/unknown"),
    ("HTTP 503", "error/unavailable/tool"),
    ("HTTP/1.1 404 Not Found", "error/not_found/caller"),
    ("HTTP error 500: Internal Server Error", "error/exception/tool"),
    ("503 Service Unavailable", "error/unavailable/tool"),
    ("429 Too Many Requests", "error/rate_limited/caller"),
    ("Request failed with status code 502", "error/unavailable/tool"),
    ("The API returned 504", "error/timeout/tool"),
    ("connect ECONNREFUSED 127.0.0.1:5432", "error/unavailable/tool"),
    ("fetch failed: ECONNRESET", "error/unavailable/tool"),
    ("ENOENT: no such file or directory, open '/x'", "error/not_found/caller"),
    ("bash: foo: command not found", "error/not_found/caller"),
    ("cat: /etc/shadow: Permission denied", "error/denied/caller"),
    ("Operation timed out after 30 seconds", "error/timeout/tool"),
    ("timed out", "error/timeout/tool"),
    ("The search timed out, the job is still running", "error/timeout/tool"),
    ("Rate limit exceeded. Try again in 20s.", "error/rate_limited/caller"),
    ("Service temporarily unavailable", "error/unavailable/tool"),
    ("Failed to send the message: mailbox full", "error/unknown"),
    ("Order 123 not found", "error/not_found/caller"),
    ("String to replace not found in file.", "error/not_found/caller"),
    ("Could not connect to the database", "error/unknown"),
    ("{'error': 'Not Found', 'code': 3}", "error/not_found/caller"),
    ("{'success': False, 'message': 'Tracking information not found'}", "error/not_found/caller"),
    ("Fehler: Datei nicht gefunden", "error/not_found/caller"),
    ("Zeitüberschreitung der Anfrage", "error/timeout/tool"),
    ("Zugriff verweigert", "error/denied/caller"),
    ("Erreur : délai d'attente dépassé", "error/timeout/tool"),
    ("Error: tiempo de espera agotado", "error/timeout/tool"),
    ("Acceso denegado", "error/denied/caller"),
    ("错误：请求超时", "error/timeout/tool"),
    ("エラー：ファイルが見つかりません", "error/not_found/caller"),
    ("Ошибка: доступ запрещён", "error/denied/caller"),
    ("still running", "pending"),
    ("The export is still being generated. Check back later.", "pending"),
    ("Not ready yet", "pending"),
    ("Job j1 is queued.", "pending"),
    ("Status: in progress", "pending"),
    ("running", "pending"),
    ("Die Berechnung läuft noch", "pending"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), PLAIN, ids=lambda v: v[:50])
def test_plain_errors_and_waits_are_read(text: str, expected: str) -> None:
    assert brief(text) == expected


FINE_TEXTS = [
    "",
    "   \n",
    "done",
    "No results found.",
    "No files found",
    "0 results",
    "Keine Treffer gefunden",
    "404 items in stock",
    "500 EUR",
    "503",
    "Timeout errors\nhttps://example.org/timeouts\nHow to fix them",
    "# Errors\n\nError: this page lists every error that the service can return.",
    "ECONNREFUSED means that nothing listens on the port.",
    "How to fix ECONNREFUSED: start the server.",
    "If the request timed out, try again with a longer timeout.",
    "The default timeout is 30 seconds.",
    "Set `timeout` when the connection is refused.",
    "timeout: 30\nretries: 3\nlog_level: error",
    "def f():\n    raise ValueError('Error: boom')",
    "class TimeoutError(Exception):\n    pass",
    "     1\timport sys\n     2\tsys.exit('Error: usage')",
    '127.0.0.1 - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 503 2326\n'
    '127.0.0.1 - - [10/Oct/2000:13:55:37 -0700] "GET / HTTP/1.0" 404 12',
    "2024-05-01 10:00:00 ERROR db: connection refused\n2024-05-01 10:00:01 ERROR db: timed out",
    "ERROR: db: connection refused\nINFO: retrying\nERROR: db: connection refused",
    "[ERROR] boom\n[INFO] ok",
    "May  1 10:00:00 host app[1]: Error: boom\nMay  1 10:00:02 host app[1]: Error: boom",
    "src/a.py:12: raise TimeoutError('timed out')\nsrc/b.py:3: # Error: see above",
    "Traceback (most recent call last):\n  File \"a.py\", line 1\nKeyError: 'x'\n\nYou get this because x is missing.\n```\nd.get('x')\n```",
    "Exit code: 0\nWall time: 0.1 seconds\nOutput:\nError: nothing\nTraceback (most recent call last):\nValueError: x",
    "[Command finished with exit code 0]",
    "<returncode>0</returncode>\n<output>\nError: expected\n</output>",
    "Command: grep error x\nDirectory: (root)\nOutput: Error: boom\nError: (none)\nExit Code: 0\nSignal: (none)",
    "All 12 tests passed. 0 errors.",
    "The order was shipped on Monday and the customer was told that the first delivery attempt failed.",
    "The weather in Paris is 17 °C, cloudy.",
    "Error handling in Rust: a guide",
    "- Error: 1\n- Error: 2\n",
    "Meeting moved; the server room is not available until 3.",
    "x" * 500 + " timed out",
    "Found 3 matches:\n/a/errors.py\n/b/timeout.py",
]


@pytest.mark.parametrize("text", FINE_TEXTS, ids=lambda v: v[:50])
def test_texts_about_errors_are_no_errors(text: str) -> None:
    assert brief(text) == "ok"


def test_the_clients_own_flag_makes_any_result_an_error_and_keeps_what_the_text_tells() -> None:
    assert brief("all good", failed=True) == "error/unknown"
    assert brief("", failed=True) == "error/unknown"
    assert brief("still running", failed=True) == "error/unknown"
    assert brief("how to: the read timed out", failed=True) == "error/timeout/tool"
    assert read_result(
        '{"error_type": "gone", "status": "error", "retry_safe": false}', True
    ) == ResultHealth("error", "gone", False, "")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"status": "error", "retry_safe": True}, True),
        ({"status": "error", "retryable": False}, False),
        ({"error": {"message": "x", "retryable": True}}, True),
        ({"status": 503, "retry_safe": True}, True),
        ({"status": "error", "retry_safe": "yes"}, None),
        ({"status": "error"}, None),
    ],
)
def test_retry_safety_is_what_the_result_says(result: object, expected: bool | None) -> None:
    assert read_result(json.dumps(result)).retry_safe is expected


def test_a_kind_that_is_more_than_a_name_is_not_taken_over() -> None:
    told = {"status": "error", "error_type": "x" * 65}
    assert brief(json.dumps(told)) == "error/unknown"
    assert brief(json.dumps({"status": "error", "error_type": "a b\n"})) == "error/unknown"


def test_lone_surrogates_and_broken_json_are_texts() -> None:
    assert brief("Error: \ud800") == "error/unknown"
    assert brief('{"error": "x') == "ok"
    assert brief("[" * 100_000) == "ok"
    assert brief("\ud800", failed=True) == "error/unknown"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=12)
    | st.sampled_from(["error", "timeout", "pending", "Error: x", "404"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["error", "status", "code", "content", "type", "text", "isError", "errors", "result", "ok"])
        | st.text(max_size=4),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(JSON, st.booleans())
def test_no_result_breaks_the_reader(value: object, failed: bool) -> None:
    health = read_result(orjson.dumps(value).decode(), failed)
    assert health.status == "error" or not (health.error_type or health.cause or failed)


@given(JSON, st.booleans())
def test_what_is_parsed_already_need_not_be_parsed_again(value: object, failed: bool) -> None:
    text = orjson.dumps(value).decode()
    parsed = value if isinstance(value, (dict, list)) else None
    assert read_result(text, failed, parsed) == read_result(text, failed)


@pytest.mark.parametrize(
    "text",
    [
        "Error: " + "a" * 5_000_000,
        "a " * 2_000_000,
        "{" * 3_000_000,
        "[" + "[]," * 1_000_000 + "[]]",
        "error (" * 600_000,
        "the request " * 300,
        "x: " * 1_000,
        "\n" * 3_000_000,
        '"' + "\\\\" * 30_000 + '"',
        json.dumps({"error": "expected " * 6000}),
        "Traceback (most recent call last)" * 100_000,
    ],
    ids=lambda v: v[:12],
)
def test_the_work_is_bounded_whatever_the_size(text: str) -> None:
    with Effort() as effort:
        read_result(text)
        read_result(text, True)
    assert effort.seconds < 0.05


@pytest.mark.skipif(not TEXTS.exists(), reason=f"no texts at {TEXTS}")
def test_of_thousands_of_documents_mails_and_records_none_is_taken_for_an_error() -> None:
    wrong = []
    with gzip.open(TEXTS, "rt") as lines:
        for line in lines:
            record = json.loads(line)
            other = record["channel"] != "tool" or record["source"].startswith("toolbench")
            if not other and read_result(record["text"]).status != "ok":
                wrong.append(record["text"][:200])
    assert wrong == []
