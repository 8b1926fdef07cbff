"""The garbage collector is off while a process is being made, and on from then."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref

import uvicorn

from gateway import memory
from gateway.serving import DrainingServer
from gateway.settings import from_environment


def test_the_command_leaves_the_collector_on_and_has_nothing_to_collect() -> None:
    said = "import gc, gateway.__main__; print(gc.isenabled(), gc.get_freeze_count() > 10_000)"
    found = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "True"]


def test_a_server_that_has_started_collects_again() -> None:
    async def app(_scope: object, _receive: object, _send: object) -> None:
        pass

    async def start() -> bool:
        config = uvicorn.Config(app, port=0, log_config=None, lifespan="off")
        config.load()
        server = DrainingServer(config, from_environment({}), lambda: None)
        server.lifespan = config.lifespan_class(config)
        gc.disable()
        try:
            await server.startup()
            return gc.isenabled()
        finally:
            gc.enable()
            for each in server.servers:
                each.close()

    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    try:
        assert asyncio.run(start())
    finally:
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)


def test_what_holds_itself_is_found_by_tidying() -> None:
    class Thing:
        pass

    thing = Thing()
    thing.__dict__["me"] = thing
    gone = weakref.ref(thing)
    del thing
    assert gone() is not None
    memory.tidy()
    assert gone() is None
