"""Reads environment variables into typed values and keeps one sentence for each that cannot be used.

Nothing here raises on a wrong value: the default takes its place, so that a process gets far enough to say
all its problems at once (`config.checks`), and then refuses to start.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A setting that cannot be used. text: one sentence that says what, why and what to do."""

    id: str
    setting: str
    text: str

    def __str__(self) -> str:
        return f"({self.id}) {self.text}"


class Reader:
    """The variables of one process. `problems` grows while they are read."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[Problem] = []

    def problem(self, id: str, setting: str, text: str) -> None:
        self.problems.append(Problem(id=f"dormouse.{id}", setting=setting, text=f"{setting} {text}."))

    def text(self, name: str, default: str = "") -> str:
        """An empty variable is the same as none: that is how a shell and a systemd file switch one off."""
        return self.environ.get(name, "").strip() or default

    def flag(self, name: str, *, id: str) -> bool:
        value = self.text(name, "0").lower()
        if value in ("1", "true", "yes", "on"):
            return True
        if value not in ("0", "false", "no", "off"):
            self.problem(id, name, f"is {value!r}, which is neither yes nor no: set it to 1 or 0")
        return False

    def choice(self, name: str, default: str, among: Collection[str], *, id: str) -> str:
        value = self.text(name, default)
        if value in among:
            return value
        self.problem(id, name, f"is {value!r}, which is not known here: set it to {' or '.join(among)}")
        return default

    def number(self, name: str, default: float, *, low: float, high: float, unit: str, id: str) -> float:
        """A finite number from low to high."""
        value = self.text(name)
        try:
            number = float(value) if value else default
        except ValueError:
            number = float("nan")
        if low <= number <= high:
            return number
        self.problem(
            id, name, f"is {value!r}, but needed is {unit} from {low:g} to {high:g}: correct or unset it"
        )
        return default

    def whole(self, name: str, default: int, *, low: int, high: int, unit: str, id: str) -> int:
        """A whole number from low to high."""
        value = self.text(name)
        if not value or (value.isascii() and value.isdigit() and low <= int(value) <= high):
            return int(value or default)
        self.problem(
            id, name, f"is {value!r}, but needed is {unit} from {low} to {high}: correct or unset it"
        )
        return default

    def url(self, name: str, default: str, *, schemes: Collection[str], id: str) -> SplitResult:
        """An address with one of the schemes; its text is never repeated, because it may hold a password."""
        try:
            parts = urlsplit(self.text(name, default))
            parts.port  # noqa: B018  a port outside 0-65535 raises only when it is asked for
        except ValueError as error:
            self.problem(id, name, f"is no address ({error}): write it as {_example(schemes)}")
            return urlsplit(default)
        if parts.scheme not in schemes:
            self.problem(
                id, name, f"starts with {parts.scheme + ':' if parts.scheme else 'no scheme'!r}, "
                f"but is needed in the form {_example(schemes)}",
            )  # fmt: skip
            return urlsplit(default)
        return parts

    def items(self, name: str) -> list[str]:
        """The value's parts between commas, without those that are empty."""
        return [item.strip() for item in self.text(name).split(",") if item.strip()]


def _example(schemes: Collection[str]) -> str:
    return " or ".join(f"{scheme}://…" for scheme in schemes)
