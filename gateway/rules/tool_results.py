"""Reading a tool's result: did the tool work, fail, or is it still at it?

Most agents pass errors to the model as plain text or as JSON of their own making, so health has to be read
from what the result says. `read_result` knows the common structured forms (a status, an error object, an
HTTP number, `isError`, problem+json, JSON-RPC), the wordings of the agent frameworks, exit codes,
tracebacks and, in short results, the phrases of failing systems.

It is conservative: a result that *is about* errors (documentation, a log excerpt, source code, a list of
search results) is `ok`. Where an error is clear but its kind is not, the kind is `unknown` and nobody is
blamed. The work is bounded: a structured result is parsed up to `MAX_JSON` characters, of any other only the
head and the tail are looked at, with patterns that run in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import orjson
import re2

from gateway.domain import Json
from gateway.values import frozen

MAX_JSON = 65_536
"""Characters; a longer structured result is data, not an error message."""
EDGE = 4096
"""Characters of the head and of the tail that are looked at."""
SHORT = 400
"""Characters up to which a phrase such as `timed out` says something about the call itself."""
_DEPTH = 4
"""Envelopes in envelopes: a JSON string in a content part of an MCP result, and one to spare."""

Cause = Literal["tool", "caller", ""]


@frozen
class ResultHealth:
    """How a tool call went, as its result tells."""

    status: Literal["ok", "error", "pending"]
    error_type: str = ""
    """As the result tells it under `error_type`, else `timeout`, `unavailable`, `rate_limited`, `not_found`,
    `invalid`, `denied`, `exception` or `unknown`; empty unless `status` is `error`."""
    retry_safe: bool | None = None
    """Whether the result says that the same call may be tried again; None when it does not say."""
    cause: Cause = ""
    """Who is to blame: the caller (arguments, rights, its own rate) or the tool (crash, outage, timeout)."""


OK = ResultHealth("ok")
PENDING = ResultHealth("pending")


def read_result(text: str, failed: bool = False, parsed: Any = None) -> ResultHealth:
    """The health of one tool result. `failed` is the client's own flag for it (`is_error`); `parsed` is the
    text as JSON where the caller has it already."""
    known = parsed is not None and len(text) <= MAX_JSON
    found = _value(parsed, len(text), 0) if known else _read(text, 0)
    if failed and found.status != "error":
        return _error(_kind(_clean(text[:EDGE])) or "unknown")
    return found


def _read(text: str, depth: int) -> ResultHealth:
    head = text[:EDGE].lstrip()
    if head.startswith("Observation:"):
        head = head[12:].lstrip()
    if not head:
        return OK
    if head[0] in '{["' and len(text) <= MAX_JSON and depth < _DEPTH:
        try:
            value = orjson.loads(text.encode("utf-8", "replace"))
        except orjson.JSONDecodeError:
            return _plain(text, head)
        return _value(value, len(text), depth)
    return _plain(text, head)


def _value(value: Any, size: int, depth: int) -> ResultHealth:
    if isinstance(value, dict):
        return _object(value, size, depth)
    if isinstance(value, str):
        return _read(value, depth + 1)
    if isinstance(value, list) and (said := _content_text(value)) is not None:
        return _read(said, depth + 1)
    return OK


def _content_text(parts: list[Any]) -> str | None:
    """The text of a list of content parts as MCP and the model APIs have it; None for any other list."""
    texts = []
    for part in parts[:64]:
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            return None
        if isinstance(said := part.get("text"), str):
            texts.append(said)
    return "\n".join(texts) if texts else None


# --- structured results

_FAILED = frozenset(
    ("error", "err", "errored", "exception", "fatal", "timeout", "timed_out", "timedout", "internal_error")
)
"""Values of `status` that only a call can have."""
_MAYBE_FAILED = frozenset(
    (
        "fail",
        "failed",
        "failure",
        "unavailable",
        "denied",
        "forbidden",
        "unauthorized",
        "rejected",
        "invalid",
        "not_found",
        "aborted",
    )
)
"""Values of `status` that an order, a payment or a build can have as well."""
_WAITING = frozenset(
    ("pending", "queued", "running", "in_progress", "in-progress", "processing", "waiting", "not_ready")
)
_FINE = frozenset(
    ("ok", "success", "successful", "succeeded", "done", "completed", "complete", "passed", "200")
)
_NOTHING = frozenset(("", "none", "null", "nil", "false", "no", "ok", "no error", "no errors", "n/a", "0"))
_STATUS_KEYS = ("status", "state", "result_status")
_NUMBER_KEYS = ("status_code", "statusCode", "http_status", "httpStatus", "status")
_CODE_KEYS = ("code", "cod", "error_code", "errorCode")
_OUTCOME_KEYS = ("ok", "success", "succeeded", "successful", "is_success", "isSuccess")
_FLAG_KEYS = ("isError", "is_error", "iserror", "failed", "hasError", "has_error")
_ERROR_KEYS = ("error", "Error", "err", "exception", "fault", "error_message", "errorMessage", "error_msg")
_TOLD_KEYS = ("error_type", "errorType", "error_class")
_SAYING_KEYS = (
    "message", "Message", "msg", "detail", "details", "reason", "title", "description", "error_description",
    "stderr", "hint", "type", "code", "name",
)  # fmt: skip
_RETRY_KEYS = ("retry_safe", "retrySafe", "retryable", "is_retryable", "isRetryable", "should_retry")
_EXIT_KEYS = ("exit_code", "exitCode", "returncode", "return_code", "exit_status")
_LOG_KEYS = ("level", "severity", "lvl", "loglevel", "log_level", "levelname")
_PAYLOAD_KEYS = ("data", "result", "results", "items", "rows", "records", "hits", "matches")
_ENVELOPE_KEYS = (
    "content", "result", "output", "response", "body", "tool_result", "return_value", "data", "text",
)  # fmt: skip
_MAX_ERROR_KEYS = 12
"""An object with more keys than this is a record that has an `error` column, not an error."""


def _object(o: Json, size: int, depth: int) -> ResultHealth:
    retry_safe = _retry_safe(o)
    if any(o.get(key) is True for key in _FLAG_KEYS):
        return _of_object(o, retry_safe, depth)
    log_entry = any(isinstance(o.get(key), str) for key in _LOG_KEYS)
    exit_code = _exit_code(o)
    if exit_code is not None:
        return _exited(exit_code, _saying(o)) if exit_code else OK
    if log_entry:
        return OK
    status = _word(o)
    if any(o.get(key) is False or o.get(key) == "false" for key in _OUTCOME_KEYS):
        return _of_object(o, retry_safe, depth)
    if status in _FAILED:
        return _of_object(o, retry_safe, depth)
    if status in _MAYBE_FAILED and _tells_of_a_failure(o):
        return _of_object(o, retry_safe, depth)
    if (number := _http_number(o)) is not None:
        kind = _kind_of_status(number)
        return _error(_told(o) or kind, retry_safe, _CAUSES.get(kind, ""))
    fine = status in _FINE or any(o.get(key) is True for key in _OUTCOME_KEYS) or _http_success(o)
    if not fine and _has_error(o):
        return _of_object(o, retry_safe, depth)
    if not fine and status in _WAITING and size <= 4 * SHORT:
        return _of_object(o, retry_safe, depth) if _kind(_saying(o)) == "timeout" else PENDING
    return OK if fine else _envelope(o, size, depth)


def _envelope(o: Json, size: int, depth: int) -> ResultHealth:
    """What stands in an object that does little more than wrap the result."""
    if len(o) > 4 or depth >= _DEPTH:
        return OK
    for key in _ENVELOPE_KEYS:
        inner = o.get(key)
        if isinstance(inner, (str, dict, list)) and inner:
            return _value(inner, size, depth + 1)
    return OK


def _of_object(o: Json, retry_safe: bool | None, depth: int) -> ResultHealth:
    """The health of an object that is known to be an error."""
    told = _told(o)
    if told == "approval_pending":
        return ResultHealth("pending")
    kind = _kind(told.replace("_", " ")) if told else ""
    if told in _OWN_TYPES:
        return _error(told, retry_safe, "caller")
    if not kind:
        number = _http_number(o)
        kind = _kind_of_status(number) if number is not None else _kind(_saying(o))
    if not kind and isinstance(o.get("content"), list):
        kind = _kind((_content_text(o["content"]) or "")[:EDGE])
    if not kind and depth < _DEPTH:
        for key in ("result", "output", "content", "text", "data"):
            if isinstance(said := o.get(key), str):
                kind = kind or _kind(said[:EDGE])
    return _error(told or kind or "unknown", retry_safe, _CAUSES.get(kind, ""))


def _word(o: Json) -> str:
    for key in _STATUS_KEYS:
        if isinstance(value := o.get(key), str):
            return value.strip().lower().replace(" ", "_")[:32]
    return ""


def _tells_of_a_failure(o: Json) -> bool:
    """Whether `status: failed` is the call's and not that of the thing asked for."""
    if _has_error(o) or any(key in o for key in (*_TOLD_KEYS, *_RETRY_KEYS)):
        return True
    rest = [key for key in o if key not in _STATUS_KEYS]
    return all(key in _SAYING_KEYS for key in rest)


def _has_error(o: Json) -> bool:
    if len(o) > _MAX_ERROR_KEYS:
        return False
    if o.get("error") is True:
        return True
    partial = any(isinstance(o.get(key), (list, dict)) and o[key] for key in _PAYLOAD_KEYS)
    if partial:
        return False
    for key in _ERROR_KEYS:
        value = o.get(key)
        if isinstance(value, str) and value.strip().lower() not in _NOTHING:
            return True
        if isinstance(value, dict) and value:
            return True
    errors = o.get("errors")
    if not isinstance(errors, list) or not errors:
        return False
    # A linter's or validator's findings come with the thing examined; an error comes with little else.
    return all(key in ("errors", *_SAYING_KEYS, *_STATUS_KEYS) or not o[key] for key in o)


def _http_number(o: Json) -> int | None:
    """An HTTP error number in the object or in its error object."""
    for key in _NUMBER_KEYS:
        if (number := _error_number(o.get(key))) is not None:
            return number
    inner = o.get("error")
    if isinstance(inner, dict):
        for key in (*_NUMBER_KEYS, *_CODE_KEYS):
            if (number := _error_number(inner.get(key))) is not None:
                return number
    if any(key in o for key in ("message", "msg", "detail", "error", "errors", "title")):
        for key in _CODE_KEYS:
            if (number := _error_number(o.get(key))) is not None:
                return number
    return None


def _http_success(o: Json) -> bool:
    return any(isinstance(value := o.get(key), int) and 200 <= value <= 299 for key in _NUMBER_KEYS)


def _error_number(value: Any) -> int | None:
    if isinstance(value, str) and len(value) == 3 and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 400 <= value <= 599 else None


def _exit_code(o: Json) -> int | None:
    meta = o.get("metadata")
    for place in (o, meta) if isinstance(meta, dict) else (o,):
        for key in _EXIT_KEYS:
            value = place.get(key)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return None


def _retry_safe(o: Json) -> bool | None:
    inner = o.get("error")
    for place in (o, inner) if isinstance(inner, dict) else (o,):
        for key in _RETRY_KEYS:
            if isinstance(value := place.get(key), bool):
                return value
    return None


def _told(o: Json) -> str:
    """The kind as the result itself names it; empty when it does not, or says more than a name."""
    inner = o.get("error")
    for place in (o, inner) if isinstance(inner, dict) else (o,):
        for key in _TOLD_KEYS:
            value = place.get(key)
            if isinstance(value, str) and _NAME.fullmatch(value):
                return value
    return ""


def _saying(o: Mapping[str, Any]) -> str:
    """What an error object says in words, its status and error object included; bounded."""
    said: list[str] = []
    for key in (*_STATUS_KEYS, *_ERROR_KEYS, *_SAYING_KEYS, "errors"):
        value = o.get(key)
        if isinstance(value, str):
            said.append(value[:EDGE])
        elif isinstance(value, dict):
            if isinstance(value.get("code"), int):
                said.append(f"jsonrpc {value['code']}")
            said.extend(v[:EDGE] for k in _SAYING_KEYS if isinstance(v := value.get(k), str))
        elif isinstance(value, list):
            for entry in value[:4]:
                if isinstance(entry, dict):
                    said.extend(v[:EDGE] for k in _SAYING_KEYS if isinstance(v := entry.get(k), str))
                elif isinstance(entry, str):
                    said.append(entry[:EDGE])
    return " \n".join(said)[:EDGE].replace("_", " ")


# --- plain texts


def _one_of(alternatives: str) -> re2.Pattern:
    """The lines of `alternatives` as one pattern, in any case; linear in the length of the text."""
    lines = (line.strip() for line in alternatives.strip().split("\n"))
    return re2.compile("(?i)(?:" + "|".join(lines) + ")")


_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_FRAMEWORK = _one_of(r"""
    <tool_use_error>
    <error>
    an error occurred while (?:running|executing|calling|invoking)\b
    error (?:executing|calling|invoking|running|occurred|while|when|during|in (?:tool call|code))\b
    error (?:fetching|reading|writing|parsing|searching|accessing|processing|getting|loading)\b
    error (?:creating|updating|deleting|sending|connecting)\b
    (?:tool|function|command|code|task)(?: call| execution)? (?:failed|errored|timed out)\b
    (?:request|api request|api call|operation) (?:failed|errored|timed out)\b
    (?:tool|function|command) ['"`]?[\w.-]{1,64}['"`]? (?:failed|errored|timed out|not found|does not exist)\b
    call id: [^\n]{1,100}\nerror\b
    encountered (?:an )?error:
    i encountered an error while trying to use the tool
    inputvalidationerror\b
    mcp error -?\d
    unknown tool(?: name)?:
    \d+ validation errors?(?::| for )
    the user doesn't want to proceed
    \[request interrupted by user
""")
"""How agent frameworks begin an error that they hand to the model."""
_FRAMEWORK_END = re2.compile(
    r"(?:Please fix your mistakes\.?|Fix the errors and try again\.?|Please fix the error and try again\.?"
    r"|is not a valid tool, try one of \[[^\]]*\]\.?|</tool_use_error>"
    r"|take care not to repeat previous errors![^\n]*)\s*\z"
)
"""And how they end one."""
_ERROR_LEAD = _one_of(r"""
    [\[(*!❌✗✖⚠🚫\x{FE0F} ]{0,4}(?:[a-z_][\w.]{0,80})?(?:error|exception)[\])*]{0,2} ?(?::|：)
    [\[(*!❌✗✖⚠🚫\x{FE0F} ]{0,4}(?:[a-z_][\w.]{0,80})?(?:error|exception) ?(?:[\[(][\w -]{1,40}[\])]|\d+) ?:
    [\[(*!❌✗✖⚠🚫\x{FE0F} ]{0,4}(?:fatal|failure|failed|panic)[\])*]{0,2} ?:
    (?:fehler|erreur|errore|erro|fout|błąd|hata|virhe|chyba|hiba|eroare|ошибка|помилка)\s?:
    (?:错误|錯誤|エラー|오류|에러)\s?(?::|：)
""")
_EXIT_HEAD = _one_of(r"""
    exit code:? (-?\d{1,10})
    (?:process|command) exited with code (-?\d{1,10})
    command failed(?: with exit code|: exit status) (-?\d{1,10})
    <returncode>(-?\d{1,10})
""")
_EXIT_TAIL = re2.compile(
    r"(?i)(?:^|\n)[\[(<]?(?:the )?(?:(?:command|process|program) (?:finished|exited|completed|failed) with )?"
    r"(?:exit(?:ed)?[ _-]?(?:code|status)|returncode|return code)(?: with)?[ :=>]{1,3}(-?\d{1,10})"
    r"[\])<>./a-z\s]{0,16}\z"
)
_EXIT_LINE = re2.compile(r"\nExit Code: (-?\d{1,10})\n")
_TRACEBACK = "Traceback (most recent call last)"
_RAISED = re.compile(r"[A-Za-z_][\w.]{0,100}(?:Error|Exception|Exit|Interrupt|Warning|Timeout)\b(?::|\Z)")
_HTTP_LEAD = _one_of(r"""
    http(?: ?error| ?status|/[\d.]{1,3})?(?: code)?[ :]{1,2}\(?([45]\d\d)(?:[ :),.-]|\z)
    status(?: code)?[ :]{1,2}([45]\d\d)(?:[ :),.-]|\z)
    ([45]\d\d)[ :,-]{1,3}(?:bad request|unauthori[sz]ed|payment required|forbidden|not found|method not)\b
    ([45]\d\d)[ :,-]{1,3}(?:request time|conflict|gone|precondition|payload|unsupported|unprocessable)
    ([45]\d\d)[ :,-]{1,3}(?:too many|internal|not implemented|bad gateway|service|gateway)
    ([45]\d\d)[ :,-]{1,3}(?:client|server) error
""")
_HTTP_INSIDE = _one_of(r"""
    (?:failed|responded|returned|error|answered)(?: with)?(?: an?)?(?: http)?(?: error)?:? ?\(?([45]\d\d)\b
    \bhttp(?: status)?(?: code)?[ :]{1,2}(?:error )?([45]\d\d)\b
    \bstatus(?: code)?:? ?([45]\d\d)\b
""")
_LOG_LINE = re.compile(
    r"\s{0,8}(?:\[?\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d|\[?\d\d:\d\d:\d\d"
    r"|\[?(?:DEBUG|INFO|WARN|WARNING|ERROR|FATAL|TRACE)\b[\]:| ]|\d{1,3}(?:\.\d{1,3}){3} \S+ \S+ \["
    r"|[A-Z][a-z]{2} {1,2}\d{1,2} \d\d:\d\d:\d\d\b)"
)
_ABOUT = re2.compile(
    r"(?im)\bhow to\b|\bwhat is\b|\bmeans\b|\bstack ?overflow\b|\btutorial\b|\bguide\b|\bdocumentation\b"
    r"|\btroubleshoot|\btitle:|\bsnippet\b|\barticle\b|\bfaq\b|\bdefault(?:s| timeout)?\b"
    r"|\b(?:if|when) (?:the|you|an?)\b|\bshould\b|\bconfigur|\bset(?:s|ting)?\b"
    r"|\bhandl(?:es?|ing)\b|\boccurs?\b|```|^#|^[-*] |^\d+[.)] "
    r"|^\s*(?:import|def|class|from|const|function|//)\b"
)
"""Signs that a text explains errors rather than being one."""
_STATED = _one_of(r"""
    (?:failed|unable|was not able) to\b
    (?:could not|couldn't|cannot|can't) \w
    (?:sorry|unfortunately),? .{0,80}\b(?:failed|error|not (?:found|available)|unavailable|unable)\b
    (?:the )?(?:request|connection|operation|call|query|command)\b.{0,60}\b(?:failed|refused|denied|aborted)\b
    (?:the )?(?:request|connection|operation|call|query|command)\b.{0,60}\b(?:reset|rejected|timed out)\b
    (?:the )?(?:tool|service|server|api|job)\b.{0,60}\b(?:failed|unavailable|unreachable|timed out|aborted)\b
    (?:the )?(?:fetch|upload|download|search|read|write)\b.{0,60}\b(?:failed|refused|denied|timed out)\b
    no such (?:file|tool|table|column|command|host)\b
    permission denied\b
    access (?:is )?denied\b
    unauthori[sz]ed\b
    forbidden\b
    too many requests\b
    rate[ -]?limit(?:ed)?\b
    quota exceeded\b
    internal server error\b
    bad gateway\b
    service (?:is )?(?:temporarily )?unavailable\b
    gateway time-?out\b
    network (?:is )?(?:error|unreachable)\b
    timed[ -]?out\b
    timeout(?:\z| (?:error|after|while|waiting|exceeded|reached|of|connecting|reading)\b)
    invalid (?:argument|input|parameter|request|json|tool|api key)
    [^\n]{1,120}: (?:command not found|no such file or directory|permission denied|not found)\b
    (?:command not found|not found)\b
    (?:(?:connect|read|write|getaddrinfo|open) |.{0,40}: )?e(?:connrefused|connreset|timedout|notfound)\b
    (?:(?:connect|read|write|getaddrinfo|open) |.{0,40}: )?e(?:noent|acces|perm|ai_again|pipe)\b
    (?:(?:connect|read|write|getaddrinfo|open) |.{0,40}: )?e(?:hostunreach|netunreach)\b
    zeitüberschreitung
    verbindung (?:abgelehnt|verweigert|fehlgeschlagen)
    zugriff verweigert
    dienst nicht verfügbar
    délai (?:d'attente )?dépassé
    accès refusé
    connexion refusée
    tiempo de espera agotado
    acceso denegado
    conexión rechazada
    tempo (?:limite )?(?:esgotado|scaduto)
    acesso negado
    accesso negato
    превышено время
    доступ запрещ
    (?:请求)?超时
    请求失败
    连接被拒绝
    权限不足
    タイムアウト
    接続が拒否
    アクセスが拒否
    시간 초과
    연결이 거부
""")
"""How a short result begins that says that the call itself failed."""
_MISSING = _one_of(r"""
    [^\n?]{1,120}\bnot (?:be )?(?:found|exist)\b[^\n?]{0,60}\z
    [^\n?]{1,120}\b(?:nicht gefunden|existiert nicht|introuvable|non trouv[^\n?]{0,60})\z
    [^\n?]{1,120}\b(?:no encontrad[oa]|não encontrad[oa]|non trovat[oa])\b[^\n?]{0,60}\z
    [^\n?]{0,60}(?:未找到|不存在|見つかりません)[^\n?]{0,40}\z
""")
_EMPTY = re2.compile(r"(?i)(?:no|0|none|keine?|aucune?|ning[uú]n[oa]?|nessun[oa]?)\b")
"""A search that found nothing did what it was asked."""
_TIMED_OUT = _one_of(r"""
    \btimed[ -]?out\b
    \btime-?out (?:after|exceeded|of|reached|error|expired)
    \b(?:read|request|connection|connect|operation|gateway|tool|execution|call) time-?out\b
    deadline exceeded
    zeitüberschreitung
    délai .{0,14}dépassé
    tiempo de espera agotado
    超时
    タイムアウト
""")
_STILL = _one_of(r"""
    \bstill (?:running|processing|pending|in progress|working|queued|executing)\b
    \bstill being (?:processed|generated|built|prepared|created)\b
    \bnot (?:yet )?(?:ready|finished|complete|completed|done|available) yet\b
    \bnot yet (?:ready|finished|complete|completed|done|available)\b
    \bnot ready\b
    \b(?:is|are|currently) (?:being processed|in progress|queued|pending)\b
    \brunning in (?:the )?background\b
    ^\W{0,3}(?:status|state)\W{1,3}(?:pending|queued|running|in[_ -]progress|processing)\b
    ^(?:pending|queued|running|processing|in[_ -]progress)\W{0,3}\z
    \bcheck (?:back|again) (?:later|soon|in)\b
    \bläuft noch\b
    \bnoch nicht (?:fertig|bereit|verfügbar|abgeschlossen)\b
    \bin bearbeitung\b
    \bpas encore prêt
    \baún no está list
    处理中
    正在运行
    尚未完成
    処理中
    実行中
""")
_REPR_ERROR = re.compile(
    r"\{\s?'(?:error|err|exception)'\s?:\s?(?!None|False|''|\"\"|\{\}|\[\])"
    r"|\{[^{}]{0,200}'(?:ok|success)'\s?:\s?False\b"
    r"|\{[^{}]{0,200}'status'\s?:\s?'(?:error|timeout|timed_out|exception)'"
)
"""A Python dict that was printed instead of serialised."""


def _plain(text: str, head: str) -> ResultHealth:
    head, tail = _clean(head), _clean(text[-EDGE:].rstrip())
    exit_code = _number(_EXIT_HEAD.match(head) or _EXIT_TAIL.search(tail[-240:]))
    if exit_code is None and head.startswith("Command: "):
        exit_code = _number(_EXIT_LINE.search(tail))
    if exit_code is not None:
        return _exited(exit_code, head[:SHORT] + "\n" + tail[-SHORT:]) if exit_code else OK
    if end := _FRAMEWORK_END.search(tail[-600:]):
        # The first line names the error; what follows may be the model's own input.
        return _error(_kind(head.split("\n", 1)[0]) or _kind(head[:SHORT]) or _kind(end[0]) or "unknown")
    if _looks_like_a_log(head):
        return OK
    if _FRAMEWORK.match(head):
        return _error(_kind(_first_of(head, tail)) or "unknown")
    if _TRACEBACK in tail and _ends_in_traceback(text, tail):
        return _raised(tail)
    short = len(text) <= SHORT
    if len(text) <= EDGE and (_ERROR_LEAD.match(head) or _REPR_ERROR.match(head)):
        if short or not _ABOUT.search(head):
            return _error(_kind(_first_of(head, tail)) or "unknown")
        return OK
    if not short:
        return OK
    return _short(head.rstrip())


def _short(said: str) -> ResultHealth:
    """A result of a line or three: is it a statement that the call failed, or is under way?"""
    waiting = _STILL.search(said)
    about = _ABOUT.search(said)
    if waiting and not (about and about.start() < waiting.start()):
        return _error("timeout") if _TIMED_OUT.search(said) else PENDING
    if about or said.count("\n") > 4:
        return OK
    if (status := _number(_HTTP_LEAD.match(said) or _HTTP_INSIDE.search(said))) is not None:
        return _error(_kind_of_status(status))
    if _STATED.match(said) or (_TIMED_OUT.search(said) and said.count("\n") == 0):
        return _error(_kind(said) or "unknown")
    if len(said) <= 200 and not _EMPTY.match(said) and _MISSING.match(said):
        return _error("not_found")
    return OK


def _number(found: re2.Match | None) -> int | None:
    """The number in the first group that took part."""
    return None if found is None else next((int(group) for group in found.groups() if group), None)


def _clean(text: str) -> str:
    """Without lone surrogates, which RE2 cannot read."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _looks_like_a_log(head: str) -> bool:
    """Several lines, most of which begin as log entries do."""
    lines = [line for line in head[:2048].split("\n", 12)[:12] if line.strip()]
    entries = sum(1 for line in lines if _LOG_LINE.match(line))
    return entries >= 2 and entries * 2 >= len(lines)


def _ends_in_traceback(text: str, tail: str) -> bool:
    """A program's output that ends in its traceback, as opposed to a page that shows one."""
    if "```" in tail or _looks_like_a_log(text[:EDGE]):
        return False
    rest = tail[tail.rfind(_TRACEBACK) :]
    lines = rest.split("\n")
    raised = next((n for n, line in enumerate(lines) if _RAISED.match(line)), None)
    # The message may go on for some lines; prose after an empty one is somebody's explanation.
    return raised is not None and len(lines) - raised <= 12 and "" not in lines[raised:]


def _raised(tail: str) -> ResultHealth:
    """What a traceback that ends the text was raised for. Code that the caller wrote is the caller's."""
    at = tail.rfind(_TRACEBACK)
    lines = [line for line in tail.split("\n") if _RAISED.match(line)]
    last = lines[-1] if lines else tail[-SHORT:]
    kind = _kind(last)
    if kind and kind != "exception":
        return _error(kind)
    own_code = any(
        mark in tail[max(at, 0) :]
        for mark in ('File "<string>"', 'File "<stdin>"', "<ipython", "<module>\n    exec(")
    )
    own_code = own_code or last.startswith(("SyntaxError", "NameError", "IndentationError"))
    return _error("exception", None, "caller" if own_code else "tool")


def _exited(code: int, said: str) -> ResultHealth:
    """A program's exit. What it was asked to do failed; that is rarely the fault of the shell that ran it."""
    if code == 124 or _TIMED_OUT.search(said[:EDGE]):
        return _error("timeout")
    if code == 127:
        return _error("not_found")
    if code == 126:
        return _error("denied")
    return _error(_kind(said[:EDGE]) or "unknown", None, "caller")


def _first_of(head: str, tail: str) -> str:
    """The part of an error text that names its kind: the first lines, or where a traceback ends."""
    return tail[-SHORT:] if _TRACEBACK in head else head[: 2 * SHORT]


# --- kinds

_OWN_TYPES = frozenset(
    (
        "tool_not_allowed",
        "unknown_tool",
        "invalid_arguments",
        "quota_exceeded",
        "order_violation",
        "argument_not_allowed",
        "approval_denied",
        "approval_expired",
        "tool_unavailable",
        "not_executed",
    )
)
"""What this gateway itself answers for a tool: no tool has run, so none is to blame."""

_STATUS_NUMBER = _one_of(r"""
    \b(?:http(?:/[\d.]{1,3})?|status(?:[ _]?code)?|code|error)['": =(]{1,4}([45]\d\d)\b
    \b([45]\d\d) (?:bad|unauthor|forbidden|not found|request time|conflict|gone|unprocess|too many)
    \b([45]\d\d) (?:internal|service|gateway|client error|server error)
""")
_KINDS: tuple[tuple[str, re2.Pattern], ...] = (
    (
        "timeout",
        _one_of(r"""
            time[ds]?[ _-]?out
            etimedout
            deadline ?exceeded
            jsonrpc -32001
            zeitüberschreitung
            délai .{0,14}dépassé
            tiempo de espera
            tempo (?:limite|esgotado|scaduto)
            превышено время
            超时
            タイムアウト
            시간 초과
        """),
    ),
    (
        "rate_limited",
        _one_of(r"""
            rate[ -]?limit
            too ?many ?requests
            throttl
            quota ?exceeded
            resource ?exhausted
        """),
    ),
    (
        "denied",
        _one_of(r"""
            permission ?(?:denied|error)
            access ?(?:is |was )?denied
            unauthori[sz]ed
            forbidden
            not ?(?:authori[sz]ed|permitted|allowed)
            \beacces\b
            \beperm\b
            authentication ?(?:failed|error|required)
            invalid ?(?:api[ _-]?key|token|credentials)
            expired ?token
            the user doesn't want to proceed
            interrupted by user
            zugriff verweigert
            accès refusé
            acceso denegado
            acesso negado
            accesso negato
            доступ запрещ
            权限
        """),
    ),
    (
        "unavailable",
        _one_of(r"""
            econnrefused
            econnreset
            enotfound
            eai_again
            ehostunreach
            enetunreach
            \bepipe\b
            connection ?(?:was )?(?:refused|reset|aborted|error|closed|failed)
            service ?(?:is )?(?:temporarily )?unavailable
            temporarily ?unavailable
            \bunavailable\b
            bad ?gateway
            unreachable
            overloaded
            (?:server|host|service) ?(?:is )?down\b
            name resolution
            \bdns\b
            remote end closed
            broken pipe
            ssl ?error
            upstream ?(?:error|failure|failed)
            certificate verify
            verbindung (?:abgelehnt|verweigert|fehlgeschlagen)
            dienst nicht verfügbar
            connexion refusée
            conexión rechazada
            连接被拒绝
            接続が拒否
            연결이 거부
        """),
    ),
    (
        "not_found",
        _one_of(r"""
            not ?found
            no such
            does ?n[o']t exist
            unknown (?:tool|id|order|user|file|resource)
            not a valid tool
            \benoent\b
            jsonrpc -32601
            nicht gefunden
            existiert nicht
            introuvable
            no encontrad
            não encontrad
            non trovat
            не найден
            未找到
            不存在
            見つかりません
        """),
    ),
    (
        "invalid",
        _one_of(r"""
            invalid
            validation ?error
            bad ?request
            malformed
            missing (?:required|\d+ required|argument|parameter|field)
            unprocessable
            unexpected keyword argument
            required (?:property|parameter|field|argument)
            is required
            must be
            \bschema\b
            expected .{1,40} got
            (?:jsonrpc|mcp error) -32(?:60[02]|700)
            fix the errors
            ungültig
            inválid
            无效
        """),
    ),
    (
        "exception",
        _one_of(r"""
            traceback
            exception\b
            \w(?:error|exception)\b ?[:(]
            internal ?(?:server )?error
            \bpanic\b
            segmentation fault
            stack ?trace
            jsonrpc -32603
        """),
    ),
)
_CAUSES: dict[str, Cause] = {
    "timeout": "tool",
    "unavailable": "tool",
    "exception": "tool",
    "rate_limited": "caller",
    "denied": "caller",
    "not_found": "caller",
    "invalid": "caller",
}


def _kind(said: str) -> str:
    """The kind of failure that an error text speaks of; empty when it does not say."""
    if (status := _number(_STATUS_NUMBER.search(said))) is not None:
        return _kind_of_status(status)
    for kind, pattern in _KINDS:
        if pattern.search(said):
            return kind
    return ""


def _kind_of_status(number: int) -> str:
    """The kind of failure behind an HTTP number of 400 to 599."""
    if number in (408, 504):
        return "timeout"
    if number >= 500:
        return "unavailable" if number in (502, 503, 529) else "exception"
    return {401: "denied", 403: "denied", 404: "not_found", 410: "not_found", 429: "rate_limited"}.get(
        number, "invalid"
    )


def _error(kind: str, retry_safe: bool | None = None, cause: Cause | None = None) -> ResultHealth:
    return ResultHealth("error", kind, retry_safe, _CAUSES.get(kind, "") if cause is None else cause)
