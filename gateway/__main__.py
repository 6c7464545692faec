"""python -m gateway: the public port of Dormouse. Settings come from the environment (`gateway/settings.py`)."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
from dataclasses import replace

from gateway.app import Gateway
from gateway.logs import log_to_stderr
from gateway.settings import Settings, SettingsError, read

log = logging.getLogger("gateway")

WRONG_SETTINGS = 2
OTHER_FILES = 64
"""Descriptors that are neither clients' nor Django's nor Redis': the log, the listener, the interpreter's own."""


def main() -> int:
    try:
        settings = read(os.environ)
    except SettingsError as error:
        sys.stderr.writelines(f"gateway: {sentence}\n" for sentence in error.sentences)
        return WRONG_SETTINGS
    log_to_stderr(settings.log_format)
    return asyncio.run(serve(room_for(settings)))


async def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit status."""
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    gateway = Gateway(settings)
    try:
        host, port = await gateway.start()
    except OSError as error:
        where = f"{settings.listen_host}:{settings.listen_port}"
        sys.stderr.write(
            f"gateway: DORMOUSE_LISTEN {where} cannot be had: {os.strerror(error.errno or 0)}; choose another\n"
        )
        await gateway.stop()
        return WRONG_SETTINGS
    log.info(
        "listening on http://%s:%d, web at %s", f"[{host}]" if ":" in host else host, port, settings.upstream
    )
    await end.wait()
    log.info("ending: running requests have %g s", settings.limits.drain_s)
    await gateway.stop()
    return 0


def room_for(settings: Settings) -> Settings:
    """Allow as many open files as the system lets us. The same settings, with fewer connections where it must be."""
    limits = settings.limits
    beside = limits.web_connections + limits.redis_connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = limits.connections + beside
    if hard != resource.RLIM_INFINITY:
        allowed = min(allowed, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    room = max(1, allowed - beside)
    if room >= limits.connections:
        return settings
    log.info("room for %d connections, not %d: the limit of open files is %d", room, limits.connections, hard)
    return replace(settings, limits=replace(limits, connections=room))


if __name__ == "__main__":
    sys.exit(main())
