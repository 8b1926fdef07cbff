"""The admin plane: every route of `/admin/v1`, and `/metrics`, behind one door.

`Gate` asks who is there before anything else; each route declares the role it needs. Every error has one
shape: `{"error": {"code", "message"}}`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.requests import Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from gateway.domain import Json
from gateway.errors import StoreUnavailable
from gateway.stores.ledger import AmbiguousRun, BadCursor, LedgerConflict, LedgerError, LedgerUnavailable
from gateway.web import (
    admin_alerts,
    admin_approvals,
    admin_audit,
    admin_backtest,
    admin_breakers,
    admin_budgets,
    admin_credentials,
    admin_doctor,
    admin_kills,
    admin_overview,
    admin_policy,
    admin_privacy,
    admin_runs,
    admin_sessions,
)
from gateway.web.admin_gate import (
    PREFIX,
    AdminError,
    AdminRoute,
    Gate,
    Limits,
    Operators,
    error_response,
    listens_on_loopback,
    needs,
)
from gateway.web.asgi import Receive, Scope, Send
from gateway.web.dashboard import Dashboard
from gateway.web.logins import DashboardLogins
from gateway.web.oidc import Provider
from gateway.web.sessions import COOKIE, Sessions

if TYPE_CHECKING:
    from gateway.app import Worker

log = logging.getLogger("gateway.admin")

_HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}

about = APIRouter(route_class=AdminRoute, tags=["about"])


@about.get("/openapi.json")
@needs("viewer")
async def openapi(request: Request) -> Json:
    """This API in OpenAPI 3.1."""
    return describe(request.app)


def admin_app(
    worker: Worker, *, limits: Limits | None = None
) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """The ASGI application of the admin plane of one worker."""
    app = FastAPI(
        title="Guardrail gateway: admin API",
        version="1",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.worker = worker
    app.state.operators = operators = Operators(worker, Sessions(worker))
    app.state.limits = limits = limits or Limits()
    app.router.routes.extend(_routes())
    for kind in (
        AdminError,
        HTTPException,
        RequestValidationError,
        StoreUnavailable,
        LedgerUnavailable,
        LedgerError,
        LedgerConflict,
        AmbiguousRun,
        BadCursor,
        Exception,
    ):
        app.add_exception_handler(kind, _answer)
    settings = worker.settings
    provider = Provider(settings, worker.transport, worker.clock) if settings.oidc_issuer else None
    gate = Gate(app, worker, operators, limits, DashboardLogins(worker, operators, limits, provider))
    return Dashboard(gate, local=listens_on_loopback(settings), public_url=settings.public_url)


@cache
def _routes() -> list[BaseRoute]:
    """Every route, which knows of no worker: what FastAPI makes of one is made once in a process."""
    whole = APIRouter()
    for router in (
        admin_kills.router,
        admin_overview.router,
        admin_runs.router,
        admin_budgets.router,
        admin_approvals.router,
        admin_alerts.router,
        admin_audit.router,
        admin_backtest.router,
        admin_breakers.router,
        admin_policy.router,
        admin_privacy.router,
        admin_credentials.router,
        admin_doctor.router,
        admin_sessions.router,
        about,
    ):
        whole.include_router(router, prefix=PREFIX)
    return whole.routes


async def _answer(_request: Request, error: Exception) -> Response:
    return error_response(as_admin_error(error))


def as_admin_error(error: Exception) -> AdminError:
    """What a failure of any kind is told as; an unexpected one says nothing of itself."""
    match error:
        case AdminError():
            return error
        case RequestValidationError():
            return AdminError(400, "invalid_request", "; ".join(_mistakes(error)))
        case HTTPException():
            code = _HTTP_CODES.get(error.status_code, "invalid_request")
            return AdminError(error.status_code, code, str(error.detail))
        case StoreUnavailable():
            return AdminError(503, "store_unavailable", "The store cannot answer.", retry_after_s=2)
        case LedgerUnavailable() | LedgerError():
            log.warning("the ledger cannot answer an operator: %s", error)
            return AdminError(503, "ledger_unavailable", "The ledger cannot answer.", retry_after_s=2)
        case LedgerConflict():
            return AdminError(409, "conflict", str(error))
        case AmbiguousRun():
            return AdminError(409, "ambiguous_run", str(error))
        case BadCursor():
            return AdminError(400, "invalid_cursor", str(error))
        case _:
            # The server logs it with its traceback.
            return AdminError(500, "internal_error", "The gateway failed; its log says why.")


def _mistakes(error: RequestValidationError) -> list[str]:
    """`query.limit: Input should be less than or equal to 500`, without what was sent."""
    mistakes = []
    for each in error.errors()[:10]:
        place = ".".join(str(part)[:64] for part in each["loc"])
        mistakes.append(f"{place}: {str(each['msg']).removeprefix('Value error, ')}")
    return mistakes


def describe(app: FastAPI) -> Json:
    """The OpenAPI document, with the ways to authenticate."""
    document: dict[str, Any] = app.openapi()
    document.setdefault("components", {})["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "GATEWAY_ADMIN_TOKEN or a named token"},
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": COOKIE.decode(),
            "description": "A browser's session; what changes anything needs x-csrf-token too",
        },
    }
    document["security"] = [{"bearer": []}, {"session": []}]
    return document
