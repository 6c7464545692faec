"""`python -m agent run`, and the console script `dormouse-agent`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from agent import __version__
from agent.errors import ENDED_AS_ASKED, AgentError, Interrupted
from agent.redact import configure_logging, redact
from agent.settings import Options, child_environment, parse, shed_foreign_settings

log = logging.getLogger("agent")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to end. The exit code says how it ended (see --help)."""
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments, os.environ)
        configure_logging(options.log_level)
        return _run(options)
    except AgentError as error:
        print(f"dormouse-agent: {redact(str(error))}", file=sys.stderr)
        return error.exit_code
    except (Interrupted, KeyboardInterrupt):
        return ENDED_AS_ASKED


def _run(options: Options) -> int:
    # Imported here so that --help and wrong usage answer at once.
    from agent.agent import Agent

    environ = child_environment(os.environ)
    shed_foreign_settings()
    log.info("agent version=%s state_dir=%s workspace=%s", __version__, options.state_dir, options.workspace)
    return Agent(options, environ=environ).run()


if __name__ == "__main__":
    sys.exit(main())
