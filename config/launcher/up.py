"""`./run`: everything up, where to look, and how to sign in."""

from __future__ import annotations

import os
import sys
import time
import webbrowser
from collections.abc import Mapping

from config.launcher.lockfile import Lock
from config.launcher.stack import Stack, run_guarded, shown


def up(environ: Mapping[str, str]) -> int:
    """Returns the exit code, after the last process has ended."""
    return run_guarded(environ, _body)


def _body(stack: Stack, lock: Lock) -> int:
    stack.start()
    lock.tell(url=f"{stack.plan.local_url}/")
    ready_s = time.monotonic() - stack.started_s
    print(f"\nReady in {ready_s:.1f} s.\n\n{_where(stack)}\n\nPress Ctrl-C to stop everything.", flush=True)
    if sys.stdout.isatty() and not os.environ.get("NO_BROWSER"):
        webbrowser.open(stack.url)
    stack.watch()
    return 0


def _where(stack: Stack) -> str:
    name, password = stack.first["username"], stack.first["password"]
    if password and stack.plan.env.demo:
        sign_in = f"{name} / {password}   (demo only)"
    elif password:
        sign_in = f"{name} / {password}   (shown this once: keep it)"
    else:
        sign_in = f"{name}, with the password of before (forgotten: ./run manage changepassword {name})"
    lines = {
        "Console": f"{stack.url}/",
        "Sign in": sign_in,
        "API docs": f"{stack.url}/api/docs/",
        "API token": shown(stack.token_file),
        "Logs": f"{shown(stack.logs)}/",
    }
    return "\n".join(f"  {label:<11} {text}" for label, text in lines.items())
