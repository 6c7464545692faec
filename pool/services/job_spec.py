"""What a person asks for, and everything in it that contradicts itself or is out of bounds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from agent import wire
from core.errors import Invalid
from pool.labels import LabelsInvalid, packed
from pool.retry import BACKOFF_AT_MOST_S, RETRIES_AT_MOST, Retry

TEXT_LIMIT_BYTES = 256 * 1024
"""Of a script, of all arguments together, and of all environment variables together."""
STRING_LIMIT_BYTES = 128 * 1024 - 1
"""Of one argument, and of one variable with its name and the `=`: Linux starts no program with a longer one."""
INLINE_LIMIT_BYTES = 1024 * 1024
"""Of all files that come with the request, together."""
FILES_AT_MOST = 100
GLOBS_AT_MOST = 32
AFTER_AT_MOST = 100
COUNT_AT_MOST = 10_000

CHECKPOINT_MIN_S, CHECKPOINT_MAX_S = 6.0, 7 * 86_400.0
CHECKPOINT_USUAL_S = 600.0

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class FileSpec:
    """A file that the job finds in its folder: these bytes, or an artifact of an earlier job. mode: permission bits."""

    path: str
    mode: int = 0o644
    data: bytes | None = None
    source_job: str = ""
    source_path: str = ""


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What to run, and what it needs. Exactly one of command (an argument list, no shell) and script.

    timeout_s counts from the start of the command in each attempt. gpu_mem_bytes is per GPU. expected_hours: it is only started where
    so much is left. checkpoint_every_s: how often its working directory is kept, for its next attempt to go on from; None:
    never. instance_ref: run it on this instance only. labels: all of them must be its worker's. max_attempts:
    how many attempts may end with their worker. workdir: where it starts, relative to its folder; files and artifacts
    (globs) are relative to that. after: ids of jobs and arrays; after_policy: what they must have done, `succeeded` or
    `ended`. count: None for one job, else an array of so many.
    """

    name: str = ""
    command: Sequence[str] = ()
    script: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = ""
    files: Sequence[FileSpec] = ()
    artifacts: Sequence[str] = ()
    timeout_s: float | None = None
    grace_s: float = 15.0
    gpu_mem_bytes: int = 0
    provider: str = ""
    expected_hours: float | None = None
    checkpoint_every_s: float | None = None
    instance_ref: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    max_attempts: int = 5
    retry: Retry | None = None
    after: Sequence[str] = ()
    after_policy: str = "succeeded"
    count: int | None = None

    def title(self) -> str:
        """What it is called: its name, or the beginning of what it runs."""
        if self.name:
            return self.name
        line = " ".join(self.command) or next(line for line in self.script.splitlines() if line.strip())
        return line.strip()[:120]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with a request, or worth knowing about it. field: where, as the API calls it."""

    field: str
    code: str
    message: str
    hint: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def refuse(problems: Sequence[Problem]) -> None:
    """Invalid with all of them in `errors`, where there are any."""
    if problems:
        raise Invalid(
            "; ".join(problem.message for problem in problems),
            hint=next((problem.hint for problem in problems if problem.hint), ""),
            errors=[problem.as_json() for problem in problems],
        )


def problems_of(spec: JobSpec) -> list[Problem]:
    """What is wrong with the request by itself, whatever the pool is like."""
    return [
        *_work(spec),
        *_texts(spec),
        *_numbers(spec),
        *_checkpoint(spec),
        *_retry(spec),
        *_files(spec),
        *_paths(spec),
        *_order(spec),
    ]


def _work(spec: JobSpec) -> Iterator[Problem]:
    if bool(spec.command) == bool(spec.script.strip()):
        yield Problem(
            field="command",
            code="command_or_script",
            message="give a command or a script, one of the two",
            hint='for example {"command": ["python", "x.py"]}',
        )
    elif not all(isinstance(word, str) for word in spec.command) or (spec.command and not spec.command[0]):
        yield _bad("command", "command must be a list of texts, the program first")
    wrong = next((name for name in spec.env if not _VARIABLE.fullmatch(name)), None)
    if wrong is not None:
        yield _bad(
            "env",
            f"env name {wrong[:60]!r} is not a variable's name",
            "letters, digits and _, no digit first",
        )
    try:
        packed(spec.labels)
    except LabelsInvalid as error:
        yield _bad("labels", str(error))


def _texts(spec: JobSpec) -> Iterator[Problem]:
    for what, texts in (
        ("script", [spec.script]),
        ("command", spec.command),
        ("env", [*spec.env, *spec.env.values()]),
    ):
        if any("\x00" in text for text in texts):
            yield _bad(what, f"{what} holds a NUL character")
        size = sum(len(text.encode("utf-8", "replace")) for text in texts)
        if size > TEXT_LIMIT_BYTES:
            yield Problem(
                field=what,
                code="too_large",
                message=f"{what} has {size} bytes, at most {TEXT_LIMIT_BYTES} are taken",
                hint="put large input into a file and have the job fetch it",
            )

    yield from _strings(spec)


def _strings(spec: JobSpec) -> Iterator[Problem]:
    named = [("command", f"argument {number}", word) for number, word in enumerate(spec.command)]
    named += [("env", f"env {name[:60]!r}", f"{name}={value}") for name, value in spec.env.items()]
    for where, what, text in named:
        size = len(text.encode("utf-8", "replace"))
        if size > STRING_LIMIT_BYTES:
            yield Problem(
                field=where,
                code="too_large",
                message=f"{what} has {size} bytes: no program can be started with more than {STRING_LIMIT_BYTES} in one",
                hint="give it as a file in `files`, and have the job read that",
            )


def _numbers(spec: JobSpec) -> Iterator[Problem]:
    for name in ("timeout_s", "grace_s", "expected_hours"):
        value = getattr(spec, name)
        if value is not None and not math.isfinite(value):
            yield _bad(name, f"{name} must be a number")
            return
    if spec.timeout_s is not None and spec.timeout_s <= 0:
        yield _bad("timeout_s", "timeout_s must be more than 0", "leave it out for no time limit")
    if not 0 <= spec.grace_s <= 3600:
        yield _bad("grace_s", "grace_s must be between 0 and 3600")
    if spec.expected_hours is not None and spec.expected_hours <= 0:
        yield _bad(
            "expected_hours", "expected_hours must be more than 0", "leave it out where you do not know"
        )
    if not 0 <= spec.gpu_mem_bytes < 2**63:
        yield _bad("gpu_mem_bytes", "gpu_mem_bytes must be a number of bytes from 0")
    if not -1000 <= spec.priority <= 1000:
        yield _bad("priority", "priority must be between -1000 and 1000", "0 is usual, higher runs first")
    if not 1 <= spec.max_attempts <= 100:
        yield _bad("max_attempts", "max_attempts must be between 1 and 100")
    if spec.count is not None and not 1 <= spec.count <= COUNT_AT_MOST:
        yield _bad(
            "count", f"count must be between 1 and {COUNT_AT_MOST}", "split a larger array into several"
        )


def _checkpoint(spec: JobSpec) -> Iterator[Problem]:
    every_s = spec.checkpoint_every_s
    if every_s is None:
        return
    if not CHECKPOINT_MIN_S <= every_s <= CHECKPOINT_MAX_S:
        yield _bad(
            "checkpoint",
            f"checkpoint.every_minutes must be between {CHECKPOINT_MIN_S / 60:g} and {CHECKPOINT_MAX_S / 60:g}",
            "10 is usual; a job can also ask for one at any moment",
        )
    if spec.instance_ref:
        yield _bad(
            "checkpoint",
            "a job on an instance keeps no checkpoints of its own: it works in the instance's workspace",
            "leave checkpoint out: the workspace is kept whenever the instance goes to sleep",
        )


def _retry(spec: JobSpec) -> Iterator[Problem]:
    retry = spec.retry
    if retry is None:
        return
    codes = retry.exit_codes
    if codes is not None and (not codes or len(codes) > 255 or not all(1 <= code <= 255 for code in codes)):
        yield _bad("retry", "retry.exit_codes must hold exit codes from 1 to 255", 'or be "any"')
    if not 1 <= retry.max_retries <= RETRIES_AT_MOST:
        yield _bad("retry", f"retry.max_retries must be between 1 and {RETRIES_AT_MOST}")
    for name in ("backoff_s", "max_backoff_s"):
        if not 0 <= getattr(retry, name) <= BACKOFF_AT_MOST_S:
            yield _bad("retry", f"retry.{name} must be between 0 and {BACKOFF_AT_MOST_S:.0f}")
    if not 1 <= retry.backoff_factor <= 100:
        yield _bad("retry", "retry.backoff_factor must be between 1 and 100")


def _files(spec: JobSpec) -> Iterator[Problem]:
    if len(spec.files) > FILES_AT_MOST:
        yield _bad(
            "files", f"{len(spec.files)} files are too many: at most {FILES_AT_MOST}", "send an archive"
        )
        return
    total = sum(len(file.data) for file in spec.files if file.data is not None)
    if total > INLINE_LIMIT_BYTES:
        yield Problem(
            field="files",
            code="too_large",
            message=f"the files that come with the request have {total} bytes, at most {INLINE_LIMIT_BYTES} are taken",
            hint="have an earlier job leave it as an artifact and name that in `from`, or let the job fetch it itself",
        )
    seen: set[str] = set()
    for file in spec.files:
        if (file.data is None) == (not file.source_job):
            yield _bad("files", f"file {file.path[:60]!r} needs one of text, base64 and from")
        if not 0 <= file.mode <= 0o777:
            yield _bad(
                "files", f"file {file.path[:60]!r}: mode must be between 000 and 777", 'for example "755"'
            )
        if file.path in seen:
            yield _bad("files", f"file {file.path[:60]!r} is named twice")
        seen.add(file.path)
    for path in seen:
        parents = path.split("/")[:-1]
        inside = next((p for n in range(1, len(parents) + 1) if (p := "/".join(parents[:n])) in seen), None)
        if inside is not None:
            yield _bad("files", f"file {path[:60]!r} would lie in {inside[:60]!r}, which is a file as well")


def _paths(spec: JobSpec) -> Iterator[Problem]:
    if len(spec.artifacts) > GLOBS_AT_MOST:
        yield _bad("artifacts", f"{len(spec.artifacts)} globs are too many: at most {GLOBS_AT_MOST}")
    named = [("files", file.path) for file in spec.files] + [("artifacts", glob) for glob in spec.artifacts]
    if spec.workdir:
        named.append(("workdir", spec.workdir))
    for where, path in named:
        try:
            wire.check_path(path)
        except wire.WireError as error:
            yield Problem(
                field=where, code="wrong_path", message=f"{where}: {error}", hint='for example "out/model.pt"'
            )


def _order(spec: JobSpec) -> Iterator[Problem]:
    if len(spec.after) > AFTER_AT_MOST:
        yield _bad(
            "after",
            f"{len(spec.after)} are too many to come after: at most {AFTER_AT_MOST}",
            "name an array as a whole",
        )
    if spec.after_policy not in ("succeeded", "ended"):
        yield _bad("after_policy", "after_policy must be succeeded or ended")


def _bad(where: str, message: str, hint: str = "") -> Problem:
    return Problem(field=where, code="invalid", message=message, hint=hint)
