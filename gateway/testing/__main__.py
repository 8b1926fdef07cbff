"""`python -m gateway.testing --port N`: the simulated provider as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import sys

import uvloop

from gateway.testing.journal import Journal
from gateway.testing.server import ProviderServer

_FULL_JOURNAL = 100_000
_GC_THRESHOLD = 20_000


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m gateway.testing", description="The simulated LLM provider."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (default) takes a free one")
    parser.add_argument(
        "--default", default="echo", help="scenario of models it does not know; 'none' for 404"
    )
    parser.add_argument(
        "--counting",
        choices=("exact", "bytes"),
        default="exact",
        help="o200k, or 4 bytes a token (benchmarks)",
    )
    parser.add_argument(
        "--journal", type=int, default=_FULL_JOURNAL, metavar="N", help="attempts to keep; 0 for sums alone"
    )
    parser.add_argument("--api-key", action="append", help="accept only this key; may be repeated")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> None:
    server = ProviderServer(
        default=None if arguments.default == "none" else arguments.default,
        counting=arguments.counting,
        journal=Journal(keep=arguments.journal),
        api_keys=arguments.api_key,
    )
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_stop.set)
    async with await server.start(arguments.host, arguments.port):
        # What is loaded by now stays: without this, full collections walk it and show up as slow requests.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD, 20, 100)
        # Other processes wait for this line: flushed, and first.
        sys.stdout.write(f"simulated provider on {server.base_url}\n")
        sys.stdout.flush()
        await asked_to_stop.wait()


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    uvloop.run(_serve(_arguments()))


if __name__ == "__main__":
    main()
