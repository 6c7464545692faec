"""Run the simulator until SIGTERM or SIGINT; then nothing of its boxes runs any more."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
import time
from pathlib import Path

from hibernation.providers.local_files import json_write
from hibernation.providers.local_process import adopt_orphans
from tests.simulators.vast.boxes import HOW, Boxes
from tests.simulators.vast.catalogue import MACHINES
from tests.simulators.vast.market import Market
from tests.simulators.vast.server import Server, serve

READY_FILE = "simulator.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulators.vast", description=__doc__)
    parser.add_argument("dir", type=Path, metavar="DIR", help="its folder; made where it is missing")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0, the default, takes a free one")
    parser.add_argument(
        "--boot-s", type=float, default=0.4, help="from rental to running, seconds (default 0.4)"
    )
    parser.add_argument(
        "--boxes", choices=HOW, default="onstart", help="what runs in a box (default onstart)"
    )
    parser.add_argument(
        "--pace", type=float, default=1.0, help="share of vast.ai's rate limits (default 1, 0: none)"
    )
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    folder = given.dir.absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    adopt_orphans()
    asyncio.run(_run(folder, given))
    return 0


async def _run(folder: Path, given: argparse.Namespace) -> None:
    market = Market(folder, MACHINES, boot_s=given.boot_s, clock=time.time)
    boxes = Boxes(market, how=given.boxes)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def ready(port: int) -> None:
        json_write(folder / READY_FILE, {"url": f"http://127.0.0.1:{port}"}, durable=False)
        print(json.dumps({"url": f"http://127.0.0.1:{port}"}), flush=True)

    server = Server(market, pace=given.pace)
    await serve(market, server, port=given.port, follow=boxes.follow, stop=stop, ready=ready)
    while not boxes.end_all():
        await asyncio.sleep(0.02)
    (folder / READY_FILE).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
