"""`gateway migrate`: the ledger's tables, made by a role that may before gateways run by one that may not."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway.settings import mounted

app = typer.Typer()


@app.command()
def migrate(
    ledger: Annotated[
        str | None,
        typer.Option(envvar="GATEWAY_LEDGER_URL", help="The database; SQLite in the data directory."),
    ] = None,
    data_dir: Annotated[Path, typer.Option(envvar="GATEWAY_DATA_DIR", help="Where SQLite is kept.")] = Path(
        ".gateway"
    ),
) -> None:
    """Create what is missing in the ledger's database, as each gateway does at its start. Changes nothing
    that is there, and may run beside gateways."""
    from gateway.stores.ledger import SqlLedger
    from gateway.stores.ledger_database import LedgerError, LedgerUnavailable
    from gateway.stores.ledger_host import LedgerOnAnotherHost
    from gateway.stores.ledger_schema import SCHEMA_VERSION

    async def run() -> None:
        opened = SqlLedger(mounted("GATEWAY_LEDGER_URL", ledger) if ledger else None, data_dir=data_dir)
        await opened.start()
        await opened.close()

    try:
        asyncio.run(run())
    except (LedgerError, LedgerUnavailable, LedgerOnAnotherHost) as error:
        print(f"the ledger cannot be prepared: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"the ledger has everything of schema {SCHEMA_VERSION}")
