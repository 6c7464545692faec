"""Faults of the local host on demand: what goes wrong at real providers, when a test or a demonstration asks for it.

python -m hibernation.providers.local_faults DIR add KIND [--count N] [--label L] [--machine M] [--seconds S]
python -m hibernation.providers.local_faults DIR list | clear
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from core.errors import DomainError, Invalid
from hibernation.providers.base import ProviderBusy
from hibernation.providers.local_files import json_read, json_write
from hibernation.providers.local_wire import NoAnswer, NotSent, call

FAULTS_FILE = "faults.json"


class FaultKind(StrEnum):
    """The values are what is typed; `MEANING` says what each does."""

    CREATE_OFFER_GONE = "create_offer_gone"
    CREATE_BUSY = "create_busy"
    CREATE_REFUSED = "create_refused"
    CREATE_UNKNOWN = "create_unknown"
    CREATE_LOST = "create_lost"
    BOOT_NEVER = "boot_never"
    BOOT_SLOW = "boot_slow"
    BOX_DIES = "box_dies"
    BOX_HIDDEN = "box_hidden"
    LISTING_INCOMPLETE = "listing_incomplete"
    LISTING_BUSY = "listing_busy"
    DESTROY_BUSY = "destroy_busy"
    DESTROY_IGNORED = "destroy_ignored"
    MACHINE_OFFLINE = "machine_offline"


K = FaultKind

MEANING = {
    K.CREATE_OFFER_GONE: "somebody else was faster",
    K.CREATE_BUSY: "asked to come back after `seconds`; nothing is rented",
    K.CREATE_REFUSED: "the account lacks credit",
    K.CREATE_UNKNOWN: "rents, then breaks off without an answer; the box shows after `seconds`",
    K.CREATE_LOST: "breaks off without an answer, and rents nothing",
    K.BOOT_NEVER: "the box is rented and billed, and never starts",
    K.BOOT_SLOW: "the box takes `seconds` longer to start",
    K.BOX_DIES: "a box that has run for `seconds` is gone, with all that was on it",
    K.BOX_HIDDEN: "a listing that claims to be complete lacks the box, which lives",
    K.LISTING_INCOMPLETE: "a listing comes one row short of the total that it names",
    K.LISTING_BUSY: "a listing is not answered; come back after `seconds`",
    K.DESTROY_BUSY: "a destroy is not taken; come back after `seconds`",
    K.DESTROY_IGNORED: "a destroy is answered as done, and nothing happens",
    K.MACHINE_OFFLINE: "the machine is without power for `seconds` (0: until cleared); its boxes start again after",
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One order to go wrong. count: how many times more. label: of the box, with * and ? as in file names; empty: any.

    machine: of the offer or the box; empty: any. since: when it was ordered, in seconds since 1970.
    Raises Invalid where it cannot be meant.
    """

    kind: FaultKind
    count: int = 1
    label: str = ""
    machine: str = ""
    seconds: float = 0.0
    since: float = 0.0

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.seconds <= 86_400:
            raise Invalid("count is a whole number from 1, seconds a number from 0 to 86400")

    def hits(self, kind: FaultKind, *, label: str, machine: str) -> bool:
        return (
            self.kind is kind
            and (not self.label or fnmatchcase(label, self.label))
            and (not self.machine or self.machine == machine)
        )


def fault_from_json(found: Mapping[str, Any]) -> Fault:
    """Raises Invalid."""
    try:
        kind = FaultKind(found.get("kind", ""))
    except ValueError as error:
        raise Invalid(f"{found.get('kind')!r} is no fault", hint=f"one of {', '.join(FaultKind)}") from error
    try:
        return Fault(**{**found, "kind": kind})
    except TypeError as error:
        raise Invalid(f"a fault cannot be read: {error}") from error


class FaultBook:
    """The faults that stand, on disk. Only the host writes it; a fault that is used up is struck out."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FAULTS_FILE
        try:
            found = json_read(self._path) or []
        except ValueError as error:
            raise Invalid(f"{self._path} is not JSON: {error}", hint="remove it") from error
        self.standing = [fault_from_json(item) for item in found]

    def add(self, fault: Fault) -> None:
        self._write([*self.standing, fault])

    def clear(self) -> None:
        self._write([])

    def take(self, kind: FaultKind, *, label: str = "", machine: str = "") -> Fault | None:
        """Use up one time of the first fault that hits, if one does."""
        for index, fault in enumerate(self.standing):
            if fault.hits(kind, label=label, machine=machine):
                left = [replace(fault, count=fault.count - 1)] if fault.count > 1 else []
                self._write([*self.standing[:index], *left, *self.standing[index + 1 :]])
                return fault
        return None

    def find(self, kind: FaultKind, *, label: str = "", machine: str = "") -> Fault | None:
        """The fault that `take` would use up."""
        return next((f for f in self.standing if f.hits(kind, label=label, machine=machine)), None)

    def offline(self, machine: str, *, now: float) -> bool:
        """Is this machine without power? A fault whose time is over is struck out."""
        over = [f for f in self.standing if f.kind is K.MACHINE_OFFLINE and 0 < f.seconds <= now - f.since]
        if over:
            self._write([fault for fault in self.standing if fault not in over])
        return any(fault.hits(K.MACHINE_OFFLINE, label="", machine=machine) for fault in self.standing)

    def _write(self, standing: list[Fault]) -> None:
        self.standing = standing
        json_write(self._path, [asdict(fault) for fault in standing], durable=False)


# -- from outside -------------------------------------------------------------------------------------------------


def fault_add(
    folder: Path, kind: FaultKind, *, count: int = 1, label: str = "", machine: str = "", seconds: float = 0.0
) -> None:
    """Order a fault from the running host of this folder. Raises Invalid, or ProviderBusy where no host runs."""
    fault = Fault(kind=kind, count=count, label=label, machine=machine, seconds=seconds)
    _ask(folder, "fault_add", asdict(fault))


def faults_standing(folder: Path) -> list[Fault]:
    """The faults that are not used up yet."""
    return [fault_from_json(item) for item in _ask(folder, "fault_list", {})]


def faults_clear(folder: Path) -> None:
    """Strike out every fault; machines that were offline are back. Boxes that never boot stay as they are."""
    _ask(folder, "fault_clear", {})


def _ask(folder: Path, op: str, arguments: Mapping[str, Any]) -> Any:
    try:
        return call(folder, op, arguments)
    except (NotSent, NoAnswer) as error:
        raise ProviderBusy(
            f"no local host answers in {folder} ({error})", hint="start it with ./run"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    kinds = "\n".join(f"  {kind:<20}{meaning}" for kind, meaning in MEANING.items())
    parser = argparse.ArgumentParser(
        prog="python -m hibernation.providers.local_faults",
        description="Make the local host go wrong.",
        epilog=f"kinds:\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", type=Path, help="the local host's folder")
    words = parser.add_subparsers(dest="word", required=True)
    add = words.add_parser("add", help="order a fault")
    add.add_argument("kind", choices=list(FaultKind), metavar="KIND")
    add.add_argument("--count", type=int, default=1, help="how many times (default 1)")
    add.add_argument("--label", default="", help="only the box with this label; * and ? as in file names")
    add.add_argument("--machine", default="", help="only on this machine")
    add.add_argument("--seconds", type=float, default=0.0, help="see the kind's meaning")
    words.add_parser("list", help="the faults that stand")
    words.add_parser("clear", help="no more faults")
    given = parser.parse_args(arguments)
    try:
        if given.word == "add":
            options = {name: getattr(given, name) for name in ("count", "label", "machine", "seconds")}
            fault_add(given.dir, FaultKind(given.kind), **options)
        elif given.word == "clear":
            faults_clear(given.dir)
        for fault in faults_standing(given.dir):
            sys.stdout.write(f"{fault.kind:<20}{MEANING[fault.kind]}: {fault.count} more\n")
    except DomainError as error:
        sys.stderr.write(f"{error.message}\n{error.hint}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
