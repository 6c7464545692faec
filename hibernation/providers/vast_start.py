"""What a vast.ai box is started with: the environment, and the script that fetches the agent and keeps it running. Pure."""

from __future__ import annotations

import shlex
from typing import Any

from agent import wire
from core.errors import Invalid
from hibernation.providers.base import BoxSpec
from hibernation.providers.registry import AgentWheel
from hibernation.providers.vast_rows import disk_gb

ONSTART_LIMIT = 4096
"""Characters of args and onstart together; more is refused by vast.ai."""

ENV_ENTRY_LIMIT = 256
ENV_LIMIT = 32_768

WORKSPACE = "/workspace"
RUNTYPE = "ssh_proxy"
"""The runtypes of SSH run the onstart script; through the proxy no port of the host is needed."""

_SCRIPT = r"""#!/bin/sh
# Dormouse: installs this box's agent, checked by its hash, and keeps it running. Runs at every start of the container.
d=${DORMOUSE_HOME:-/opt/dormouse}
wheel=@WHEEL@
v=$d/venv-@ID@
umask 077
mkdir -p "$d" "$DORMOUSE_WORKSPACE" || exit 1
export DORMOUSE_AGENT_DIR="${DORMOUSE_AGENT_DIR:-$d/state}"

find_python() { # sets $py: 3.11 or later, with venv
  for py in python3.13 python3.12 python3.11 python3 python /opt/conda/bin/python /venv/main/bin/python; do
    if "$py" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then return 0; fi
  done
  echo "dormouse: this image has no Python 3.11 to 3.13"
  return 1
}

quickly() { # with the image's own pip, where it is new enough for that
  "$py" -m venv --system-site-packages --without-pip "$v" &&
    "$py" -m pip --python "$v/bin/python" install -q --no-input "$wheel"
}

thoroughly() {
  rm -rf "$v"
  "$py" -m venv --system-site-packages "$v" && "$v/bin/python" -m pip install -q --no-input "$wheel"
}

install_agent() { # beside what the image has, never over it
  find_python || return 1
  rm -rf "$v"
  quickly || thoroughly || return 1
  touch "$v/installed"
}

(
  pause=2
  until [ -e "$v/installed" ] || install_agent; do
    echo "dormouse: the agent is not installed yet, again in $pause s"
    sleep "$pause"
    [ "$pause" -ge 60 ] || pause=$((pause * 2))
  done
  while :; do
    "$v/bin/dormouse-agent" run --provider vast
    code=$?
    case $code in 0 | 2 | 3 | 4) echo "dormouse: the agent ended with $code"; exit ;; esac
    echo "dormouse: the agent ended with $code; it starts again"
    sleep 5
  done
) >>"$d/agent.log" 2>&1 </dev/null &
"""


def onstart(spec: BoxSpec, wheel: AgentWheel) -> str:
    """The script. Raises Invalid where it would be longer than vast.ai takes."""
    address = f"{spec.url.rstrip('/')}{wire.WHEEL_INDEX}{wheel.name}#sha256={wheel.sha256}"
    script = _SCRIPT.replace("@WHEEL@", shlex.quote(address)).replace("@ID@", wheel.sha256[:12])
    if len(script) > ONSTART_LIMIT:
        raise Invalid(
            f"the script that starts a box is {len(script)} characters long, vast.ai takes {ONSTART_LIMIT}",
            hint="give the control plane a shorter DORMOUSE_PUBLIC_URL",
        )
    return script


def environment(spec: BoxSpec, *, api_url: str = "") -> dict[str, str]:
    """api_url: where the box reaches vast.ai, if not at its own address. Raises Invalid where vast.ai would cut it off."""
    found = {
        **spec.agent_environment(),
        "DORMOUSE_PROVIDER": "vast",
        "DORMOUSE_WORKSPACE": spec.workspace or WORKSPACE,
    }
    if api_url:
        found["DORMOUSE_VAST_URL"] = api_url
    for name, value in found.items():
        if len(name) + 1 + len(value) > ENV_ENTRY_LIMIT:
            raise Invalid(
                f"the variable {name} is longer than the {ENV_ENTRY_LIMIT} characters that vast.ai takes"
            )
    if sum(len(name) + 1 + len(value) for name, value in found.items()) > ENV_LIMIT:
        raise Invalid(
            f"the variables of the box are longer than the {ENV_LIMIT} characters that vast.ai takes"
        )
    return found


def create_body(spec: BoxSpec, wheel: AgentWheel, *, image: str, api_url: str = "") -> dict[str, Any]:
    """The body of the request that rents."""
    return {
        "client_id": "me",
        "image": image,
        "env": environment(spec, api_url=api_url),
        "disk": disk_gb(spec.disk_bytes),
        "label": spec.label,
        "onstart": onstart(spec, wheel),
        "runtype": RUNTYPE,
        # Without this a machine that cannot run it now yields a stopped box whose disk is billed.
        "cancel_unavail": True,
        "target_state": "running",
    }
