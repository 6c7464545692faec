"""What `./run WORD` does. The bash file has made the environment; this runs inside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from config.paths import CHECKOUT

HELP = """\
./run                           start everything on this machine, with three simulated GPU workers
./run demo [--provider NAME]    tell the whole story in under two minutes, then stop (local, vast-simulator)
./run test [pytest arguments]   linter, types, import rules, migrations, schema, tests
./run manage COMMAND …          one of Django's commands (./run manage help)
./run agent --join URL TOKEN    run this machine's agent in the foreground
./run lock                      rewrite requirements*.txt from requirements/*.in (needs uv)
./run help                      this text

Settings are environment variables; docs/operations.md lists them. The most used:
  DORMOUSE_DATA_DIR  where everything is kept (default .data)     DORMOUSE_PORT  default 8000
  DATABASE_URL       PostgreSQL instead of SQLite                 REDIS_URL      instead of the built-in Valkey
  NO_BROWSER=1       open no browser                              PYTHON         the interpreter to use
"""

WRONG_USAGE = 2


def main(words: Sequence[str]) -> int:
    word, arguments = (words[0], list(words[1:])) if words else ("up", [])
    os.chdir(CHECKOUT)
    if word == "up" and not arguments:
        from config.launcher.up import up

        return up(os.environ)
    if word == "demo":
        from config.launcher.demo import demo

        return demo(os.environ, arguments)
    if word == "test":
        from config.launcher.suite import suite

        return suite(os.environ, arguments)
    if word == "lock" and not arguments:
        from config.launcher.locks import lock

        return lock()
    if word == "manage":
        _become(sys.executable, "manage.py", *arguments)
    if word == "agent":
        _become(sys.executable, "-m", "agent", "run", *arguments)
    if word in ("help", "-h", "--help") and not arguments:
        print(HELP, end="")
        return 0
    print(f"./run does not know {' '.join(words)!r}.\n\n{HELP}", end="", file=sys.stderr)
    return WRONG_USAGE


def _become(*command: str) -> None:
    """Replace this process: signals and the exit code are then the command's own."""
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
