"""The demo's frame: a fresh installation of its own, the story, and an honest exit code."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from config.launcher.demo.api import Api, Refusal
from config.launcher.demo.markets import MARKETS, Market
from config.launcher.demo.story import StoryFailed, tell
from config.launcher.demo.telling import Teller
from config.launcher.lockfile import Lock
from config.launcher.stack import Stack, run_guarded

WRONG_USAGE = 2
LOG_TAIL_LINES = 25


def demo(environ: Mapping[str, str], arguments: Sequence[str]) -> int:
    """Tell the story on a data folder that is thrown away afterwards; kept, and named, where something went wrong."""
    parser = argparse.ArgumentParser(
        prog="./run demo", description="The whole story on real parts, in under two minutes."
    )
    parser.add_argument("--provider", choices=sorted(MARKETS), default="local", help="whose boxes are rented")
    parser.add_argument("--keep", action="store_true", help="keep the demo's data folder")
    try:
        options = parser.parse_args(list(arguments))
    except SystemExit as error:
        return WRONG_USAGE if error.code else 0
    folder = Path(tempfile.mkdtemp(prefix="dormouse-demo-"))
    market = MARKETS[options.provider]()
    code = run_guarded(
        {**_environment(environ, folder), **market.environ}, partial(_body, market=market, keep=options.keep)
    )
    if code == 0 and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"The demo's data, logs included, stay in {folder}.", file=sys.stderr, flush=True)
    return code


def _environment(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """An installation of its own: nothing of the person's settings but the port, and no database or bucket of theirs."""
    own = ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE")
    kept = {
        name: value
        for name, value in environ.items()
        if name not in own
        and not name.startswith("SNAPSHOT_")
        and (not name.startswith("DORMOUSE_") or name == "DORMOUSE_PORT")
    }
    # A lease this short suits chains whose steps take seconds: a worker that dies costs the story as little as possible.
    return kept | {
        "DORMOUSE_DATA_DIR": str(folder),
        "DORMOUSE_CHAIN_LEASE_S": "20",
        "DORMOUSE_LOCAL_AGENTS": "0",
    }


def _body(stack: Stack, lock: Lock, *, market: Market, keep: bool) -> int:
    stack.start(local_workers=False)
    market.start(stack)
    print(f"\nReady in {time.monotonic() - stack.started_s:.1f} s.", flush=True)
    lock.tell(url=f"{stack.plan.local_url}/")
    teller = Teller()
    try:
        tell(stack, Api(stack.plan.local_url, token=stack.token_file.read_text().strip()), teller, market)
    except (StoryFailed, Refusal) as error:
        teller.failed(str(error))
        _show_logs(stack, market)
        return 1
    stack.data_kept = keep
    return 0


def _show_logs(stack: Stack, market: Market) -> None:
    """The end of each log that may explain a failure."""
    boxes = sorted(market.folder(stack).glob("boxes/*/**/agent.log"))
    for path in [*sorted(stack.logs.glob("*.log")), *boxes]:
        lines = path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        print(f"\n--- {path.name}\n" + "\n".join(lines), file=sys.stderr, flush=True)
