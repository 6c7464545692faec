"""The processes of one local box, from the host's side: start them, see that they ended, end every one of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from hibernation.providers.local_box import FACTS_FILE
from hibernation.providers.local_process import BOX_MARK, descendants, family, signal_all
from hibernation.providers.local_rentals import AGENT_STATE, HOME, WORKSPACE, Rental

CHECKOUT = Path(__file__).resolve().parents[2]
AGENT_COMMAND = (sys.executable, "-m", "agent", "run", "--provider", "local", "--probe", "simulated")
LOG_FILE = "agent.log"
LOG_LIMIT_BYTES = 16 * 1024 * 1024

_PASSED_ON = (
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "AGENT_LOG",
    "AGENT_BACKOFF_CAP_S",
)
"""Of the host's environment. Nothing else: a box must not see the control plane's keys and addresses."""

_KILL_AFTER_GRACE_S = 2.0


class Keeper:
    """One box's processes. Times are seconds of the caller's clock. mark: see `local_process.BOX_MARK`."""

    def __init__(self, box_folder: Path, *, mark: str, command: Sequence[str], grace_s: float) -> None:
        self.box_folder = box_folder
        self.mark = mark
        self.command = command
        self.grace_s = grace_s
        self._init: subprocess.Popen[bytes] | None = None
        self._asked_to_end_at: float | None = None

    @property
    def is_idle(self) -> bool:
        """Nothing of this box runs that this keeper started and has not seen the end of."""
        return self._init is None

    @property
    def pid(self) -> int | None:
        """Of the box's first process, while there is one."""
        return self._init.pid if self._init else None

    @property
    def was_asked_to_end(self) -> bool:
        return self._asked_to_end_at is not None

    def start(self, rental: Rental) -> None:
        """Start the box's first process. OSError where the machine will not have it."""
        with (self.box_folder / LOG_FILE).open("ab") as log_file:
            self._init = subprocess.Popen(
                [
                    *(sys.executable, "-m", "hibernation.providers.local_box"),
                    *("--host", str(os.getpid()), "--grace-s", str(self.grace_s)),
                    *("--facts", str(self.box_folder / FACTS_FILE), "--", *self.command),
                ],
                cwd=CHECKOUT,
                env=self._environment(rental),
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                start_new_session=True,
            )
        self._asked_to_end_at = None

    def ended(self) -> int | None:
        """The exit code, once, when the box's first process has ended; by then nothing else of the box is left."""
        if self._init is None or self._init.poll() is None:
            return None
        code = self._init.returncode
        left = family(self.mark)
        if left:
            signal_all(left, signal.SIGKILL)
            return None  # they are dying; the next look finds none
        self._init = None
        return code

    def end(self, *, now: float, at_once: bool = False) -> None:
        """Ask the box to end, or after its grace (or at once) kill all of it. To be called until `ended` says so."""
        if self._init is None or self._init.poll() is not None:
            return
        if self._asked_to_end_at is None:
            self._asked_to_end_at = now
            self._init.terminate()
        if at_once or now - self._asked_to_end_at > self.grace_s + _KILL_AFTER_GRACE_S:
            signal_all([*descendants(self._init.pid), *family(self.mark), self._init.pid], signal.SIGKILL)

    def trim_log(self) -> None:
        """Keep the agent's log from filling the disk: the part before goes to `agent.log.1`."""
        path = self.box_folder / LOG_FILE
        with contextlib.suppress(FileNotFoundError):  # a box that was destroyed is removed in another thread
            if path.stat().st_size > LOG_LIMIT_BYTES:
                shutil.copyfile(path, path.with_name(f"{LOG_FILE}.1"))
                os.truncate(path, 0)  # its writers append

    def _environment(self, rental: Rental) -> dict[str, str]:
        here = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        return {
            **here,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            **rental.environment,
            "HOME": str(self.box_folder / HOME),
            "DORMOUSE_WORKSPACE": str(self.box_folder / WORKSPACE),
            "DORMOUSE_AGENT_DIR": str(self.box_folder / AGENT_STATE),
            "DORMOUSE_SESSION_STARTED": datetime.fromtimestamp(rental.created_at, UTC).isoformat(),
            BOX_MARK: self.mark,
        }


def mark_of(folder: Path, ref: str = "") -> str:
    """The mark of one box of the host in this folder, or without a ref, what the marks of all its boxes begin with."""
    return f"{folder}:{ref}"
