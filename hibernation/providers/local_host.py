"""The local provider's own side: a daemon that owns a folder of boxes and runs a real agent in each.

    python -m hibernation.providers.local_host DIR [--boxes N]

Callers reach it through a socket (`local_wire`, `local_server`); what is rented is on disk (`local_rentals`), and this
process makes the running processes follow it. Killed and started again it ends what is left of the old processes and
starts its boxes anew, as a machine does after a power cut. On SIGTERM it ends the processes and keeps the boxes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from core.errors import DomainError, Invalid
from hibernation.providers.local_box import FINAL_EXITS
from hibernation.providers.local_catalogue import catalogue_read
from hibernation.providers.local_faults import FaultBook, K
from hibernation.providers.local_files import json_write, tree_remove
from hibernation.providers.local_keeper import AGENT_COMMAND, Keeper, mark_of
from hibernation.providers.local_process import adopt_orphans, children, family, identity, signal_all
from hibernation.providers.local_rentals import BOX_FILE, Rental, Rentals
from hibernation.providers.local_server import REQUEST_LIMIT_BYTES, Server
from hibernation.providers.local_wire import HEARTBEAT_S, HOST_FILE, host_facts

log = logging.getLogger("local_host")

LOCK_FILE = "host.lock"
SOCKET_FILE = "host.sock"
SOCKET_PATH_LIMIT_BYTES = 100
BACKLOG = 1024

LOOK_S = 1.0
"""How often it looks round when nothing is in motion; a request or the end of a process wakes it at once."""
LOOK_IN_MOTION_S = 0.05
AGAIN_S = 1.0
_WHY_ENDED = {0: "ended as asked", 2: "could not be started", 3: "was refused for good", 4: "could not enrol"}


class Host:
    """command: the agent's. grace_s: how long a box may take to end by itself."""

    def __init__(self, folder: Path, rentals: Rentals, *, command: Sequence[str], grace_s: float) -> None:
        self.folder = folder
        self.rentals = rentals
        self.command = command
        self.grace_s = grace_s
        self._keepers: dict[str, Keeper] = {}
        self._not_before: dict[str, float] = {}
        self._dying: set[str] = set()
        self._removals: dict[str, asyncio.Task[None]] = {}
        self._look = asyncio.Event()
        self._orphans_due = False
        self._stopping = False
        self._heartbeat_due = 0.0

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; then every process of every box is gone."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGCHLD, self._look.set)
        for rental in self.rentals.by_ref.values():
            rental.running_since = None
        await self._end_strays()
        _socket_remove(self.folder)
        socket = _socket_path(self.folder)
        server = await asyncio.start_unix_server(
            Server(self.rentals, changed=self._look.set).connected,
            path=str(socket),
            limit=REQUEST_LIMIT_BYTES,
            backlog=BACKLOG,
        )
        log.info("serving %s with %d boxes", self.folder, len(self.rentals.by_ref))
        while not self._stopping:
            self._heartbeat(socket)
            await self._turn()
        server.close()
        await self._end_all()
        _socket_remove(self.folder)
        (self.folder / HOST_FILE).unlink(missing_ok=True)
        log.info("ended; %d boxes stay", len(self.rentals.by_ref))

    def _stop(self) -> None:
        self._stopping = True
        self._look.set()

    async def _turn(self) -> None:
        self._look.clear()
        if self._orphans_due:
            self._end_orphans()
        in_motion = [self._tend(rental) for rental in list(self.rentals.by_ref.values())]
        try:
            async with asyncio.timeout(LOOK_IN_MOTION_S if any(in_motion) else LOOK_S):
                await self._look.wait()
        except TimeoutError:
            return

    # -- one box --------------------------------------------------------------------------------------

    def _tend(self, rental: Rental) -> bool:
        """Bring the box's processes nearer to what is written of it. True while something is still in motion."""
        keeper = self._keeper(rental)
        code = keeper.ended()
        if code is not None:
            self._note_end(rental, code, asked=keeper.was_asked_to_end)
        self._die_if_ordered(rental)
        offline = self.rentals.is_offline(rental)
        if rental.destroying or rental.ended or offline:
            keeper.end(now=time.monotonic(), at_once=offline or rental.ref in self._dying)
            if rental.destroying and keeper.is_idle and self._may(rental):
                self._remove(rental)
            return rental.destroying or not keeper.is_idle
        if rental.boots_at is None:
            return False
        if keeper.is_idle and self.rentals.clock() >= rental.boots_at and self._may(rental):
            self._start(rental, keeper)
        return keeper.is_idle or keeper.was_asked_to_end

    def _start(self, rental: Rental, keeper: Keeper) -> None:
        try:
            keeper.start(rental)
        except OSError as error:
            log.warning("box=%s not started: %s", rental.ref, error)
            self._not_before[rental.ref] = time.monotonic() + AGAIN_S
            return
        rental.running_since = self.rentals.clock()
        self.rentals.write(rental)
        log.info("box=%s started", rental.ref)

    def _note_end(self, rental: Rental, code: int, *, asked: bool) -> None:
        log.info("box=%s its processes ended with %d", rental.ref, code)
        rental.running_since = None
        self._orphans_due = self._orphans_due or code < 0
        if asked:
            return
        if code in FINAL_EXITS:
            rental.ended = f"its agent {_WHY_ENDED[code]} (exit code {code}): see its log"
            rental.failed = code != 0
            self.rentals.write(rental)
        else:
            self._not_before[rental.ref] = time.monotonic() + AGAIN_S

    def _die_if_ordered(self, rental: Rental) -> None:
        if rental.destroying or rental.running_since is None:
            return
        match = {"label": rental.label, "machine": rental.machine_id}
        fault = self.rentals.faults.find(K.BOX_DIES, **match)
        if fault and self.rentals.clock() - rental.running_since >= fault.seconds:
            self.rentals.faults.take(K.BOX_DIES, **match)
            log.info("box=%s dies, as ordered", rental.ref)
            self._dying.add(rental.ref)
            self.rentals.condemn(rental)

    def _remove(self, rental: Rental) -> None:
        if rental.ref not in self._removals:
            self._removals[rental.ref] = asyncio.create_task(self._removed(rental))

    async def _removed(self, rental: Rental) -> None:
        try:
            await asyncio.to_thread(tree_remove, self.rentals.box_folder(rental.ref), last=BOX_FILE)
        except OSError as error:
            log.warning("box=%s cannot be removed, trying again: %s", rental.ref, error)
            self._not_before[rental.ref] = time.monotonic() + AGAIN_S
        else:
            self.rentals.forget(rental)
            self._keepers.pop(rental.ref, None)
            self._not_before.pop(rental.ref, None)
            self._dying.discard(rental.ref)
        finally:
            self._removals.pop(rental.ref, None)
            self._look.set()

    def _keeper(self, rental: Rental) -> Keeper:
        if rental.ref not in self._keepers:
            self._keepers[rental.ref] = Keeper(
                self.rentals.box_folder(rental.ref),
                mark=mark_of(self.folder, rental.ref),
                command=self.command,
                grace_s=self.grace_s,
            )
        return self._keepers[rental.ref]

    def _may(self, rental: Rental) -> bool:
        return time.monotonic() >= self._not_before.get(rental.ref, 0.0)

    # -- all boxes ------------------------------------------------------------------------------------

    async def _end_strays(self) -> None:
        """End what an earlier host of this folder left running: its boxes start anew, as after a power cut."""
        left = family(mark_of(self.folder))
        if left:
            log.info("%d processes of an earlier host are left: ending them", len(left))
        # The first processes of boxes have noticed that their host is gone, and end their boxes by themselves.
        deadline = time.monotonic() + self.grace_s + LOOK_S
        while left:
            signal_all(left, signal.SIGKILL if time.monotonic() > deadline else signal.SIGTERM)
            await asyncio.sleep(LOOK_IN_MOTION_S)
            left = family(mark_of(self.folder))

    def _end_orphans(self) -> None:
        """What the killed first process of a box had below it has become this process's: end and bury it."""
        firsts = {keeper.pid for keeper in self._keepers.values()}
        orphans = [pid for pid in children(os.getpid()) if pid not in firsts]
        signal_all(orphans, signal.SIGKILL)
        for pid in orphans:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._orphans_due = bool(orphans)

    async def _end_all(self) -> None:
        await asyncio.gather(*self._removals.values())
        running = {ref: keeper for ref, keeper in self._keepers.items() if not keeper.is_idle}
        while running:
            for ref, keeper in list(running.items()):
                keeper.end(now=time.monotonic())
                keeper.ended()
                if keeper.is_idle:
                    del running[ref]
            await asyncio.sleep(LOOK_IN_MOTION_S)

    def _heartbeat(self, socket: Path) -> None:
        if time.monotonic() < self._heartbeat_due:
            return
        self._heartbeat_due = time.monotonic() + HEARTBEAT_S
        facts = {
            "pid": os.getpid(),
            "identity": identity(os.getpid()),
            "socket": str(socket),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        json_write(self.folder / HOST_FILE, facts, durable=False)
        for keeper in self._keepers.values():
            keeper.trim_log()


def _socket_path(folder: Path) -> Path:
    """In the host's folder, or where that path is too long for a socket, in a new folder of this user's alone."""
    plain = folder / SOCKET_FILE
    if len(os.fsencode(plain)) <= SOCKET_PATH_LIMIT_BYTES:
        return plain
    return Path(tempfile.mkdtemp(prefix="dormouse-")) / SOCKET_FILE


def _socket_remove(folder: Path) -> None:
    """Remove the socket of the host that was last here, and the folder that was made for it."""
    found = host_facts(folder).get("socket")
    if not found:
        return
    socket = Path(found)
    socket.unlink(missing_ok=True)
    if socket.parent != folder:
        with contextlib.suppress(OSError):
            socket.parent.rmdir()


def _own(folder: Path) -> int:
    """Make the folder, and hold its lock for as long as this process lives. The descriptor of the lock.

    Raises Invalid where the folder is somebody else's or another host works in it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise Invalid(f"{folder} belongs to another user", hint="give the local host a folder of its own")
    folder.chmod(0o700)
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise Invalid(
            f"another local host (process {holder}) works in {folder}", hint="end it, or use another folder"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _command(text: str) -> tuple[str, ...]:
    """Raises Invalid where there is no such program."""
    words = tuple(shlex.split(text)) if text else AGENT_COMMAND
    if not words or shutil.which(words[0]) is None:
        raise Invalid(
            f"the agent's command {text!r} starts no program", hint="give its path in --agent-command"
        )
    return words


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m hibernation.providers.local_host", description=__doc__)
    parser.add_argument("dir", type=Path, metavar="DIR", help="its folder; made where it is missing")
    parser.add_argument("--boxes", type=int, default=8, help="boxes at once on this machine (default 8)")
    parser.add_argument(
        "--boot-s", type=float, default=0.2, help="from rental to start, seconds (default 0.2)"
    )
    parser.add_argument("--grace-s", type=float, default=5.0, help="for a box to end by itself (default 5)")
    parser.add_argument("--agent-command", default="", help=f"default: {shlex.join(AGENT_COMMAND[1:])}")
    given = parser.parse_args(arguments)
    if given.boxes < 1 or given.boot_s < 0 or given.grace_s < 0:
        parser.error("--boxes is at least 1, --boot-s and --grace-s at least 0")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    folder = given.dir.absolute()
    try:
        command = _command(given.agent_command)
        _own(folder)
        faults = FaultBook(folder)
        rentals = Rentals(
            folder,
            machines=catalogue_read(folder),
            faults=faults,
            boxes_limit=given.boxes,
            boot_s=given.boot_s,
            clock=time.time,
        )
    except (DomainError, OSError) as error:
        hint = error.hint if isinstance(error, DomainError) else ""
        sys.stderr.write(f"local host: {error}{f': {hint}' if hint else ''}\n")
        return 1
    adopt_orphans()
    host = Host(folder, rentals, command=command, grace_s=given.grace_s)
    asyncio.run(host.run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
