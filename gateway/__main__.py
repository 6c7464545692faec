"""python -m gateway: the public port of Dormouse. Settings come from the environment (`gateway/settings.py`)."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys

from gateway.app import Gateway
from gateway.settings import Settings, SettingsError, read

log = logging.getLogger("gateway")

WRONG_SETTINGS = 2
FILES_BESIDE_CONNECTIONS = 600
"""Descriptors that are not clients': to Django, to Redis, the log, the interpreter's own."""


def main() -> int:
    try:
        settings = read(os.environ)
    except SettingsError as error:
        sys.stderr.writelines(f"gateway: {sentence}\n" for sentence in error.sentences)
        return WRONG_SETTINGS
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    raise_file_limit(settings)
    return asyncio.run(serve(settings))


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
            f"gateway: DORMOUSE_LISTEN {where} cannot be had: {error.strerror}; choose another\n"
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


def raise_file_limit(settings: Settings) -> None:
    """Allow as many open files as the system lets us, and say so where that is fewer than connections are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.limits.connections + settings.limits.web_connections + FILES_BESIDE_CONNECTIONS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning(
            "%d connections are wanted, but %d open files are all that this process may have",
            settings.limits.connections,
            allowed,
        )


if __name__ == "__main__":
    sys.exit(main())
