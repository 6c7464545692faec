"""Wrong settings as Django system checks, and the refusal to start on them."""

from __future__ import annotations

import sys
from typing import Any

from django.conf import settings
from django.core import checks


@checks.register("dormouse")
def environment(**_: Any) -> list[checks.CheckMessage]:
    """What `config.env` could not use. Needs no service, so it runs before every command."""
    return [checks.Error(problem.text, id=problem.id) for problem in settings.ENV.problems]


def refuse_wrong_settings(**_: Any) -> None:
    """End a server process whose environment is wrong, each problem one sentence on standard error."""
    if not settings.ENV.problems:
        return
    for problem in settings.ENV.problems:
        sys.stderr.write(f"{problem}\n")
    # gunicorn takes exit code 3 of a worker as "it will never boot" and gives up at once instead of trying for ever.
    raise SystemExit(3)
