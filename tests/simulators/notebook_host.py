"""What Colab and Kaggle do with a notebook: run it in a kernel, on a machine of its own, while somebody watches.

The machine is a virtual environment that finds this one's packages, with pip but without the agent, a home folder, and
the provider's own modules as doubles. Whatever the notebook installs lands in that environment alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ensurepip
import json
import os
import shutil
import signal
import site
import sysconfig
import tempfile
import threading
import venv
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

HERE = Path(__file__).parent
MODULES = {"colab": HERE / "colab", "kaggle": HERE / "kaggle_session"}
OURS = ("DORMOUSE_", "AGENT_", "PIP_", "JUPYTER_", "PYTEST_", "DJANGO_")


class NotebookMachine:
    """One machine of a provider's; a second notebook on it finds what the first one left."""

    def __init__(self, provider: str, *, env: Mapping[str, str]) -> None:
        # Short, because the kernel's sockets lie here and a socket's path may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="nb-"))
        self.home = self.folder / "home"
        self.double = self.folder / "double"
        for folder in (self.home, self.double):
            folder.mkdir()
        self.secrets({})
        self.python = _environment(self.folder / "venv")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        own = {
            "HOME": str(self.home),
            "PYTHONPATH": str(MODULES[provider]),
            "IPYTHONDIR": str(self.home / "ipython"),
            "PIP_NO_INDEX": "1",  # everything but the agent is there already, and nothing is fetched from elsewhere
            f"{provider.upper()}_DOUBLE": str(self.double),
        }
        self.env = {**kept, **own, **env}
        self._runs: list[NotebookRun] = []

    def secrets(self, found: object) -> None:
        """What the provider's store of secrets holds."""
        (self.double / "secrets.json").write_text(json.dumps(found))

    @property
    def given_back(self) -> int:
        """How often the notebook has given the machine back."""
        path = self.double / "unassigned"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def run(self, notebook: Mapping[str, Any]) -> NotebookRun:
        """Run all cells, in the background. The session begins with the first notebook: this machine is older."""
        self.env.setdefault("DORMOUSE_SESSION_STARTED", datetime.now(UTC).isoformat())
        self._runs.append(NotebookRun(self, notebook))
        return self._runs[-1]

    def remove(self) -> None:
        """Nothing of it is left, and nothing that it has started."""
        for run in self._runs:
            if not run.over:
                run.kill()
                run.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)


class NotebookRun:
    """A notebook that is being executed, cell by cell. What it prints is seen as it comes."""

    def __init__(self, machine: NotebookMachine, notebook: Mapping[str, Any]) -> None:
        self.cells = nbformat.reads(json.dumps(notebook), as_version=4)
        self._machine = machine
        self._kernel = _kernel(machine)
        self._loop = asyncio.new_event_loop()
        self._over = threading.Event()
        self.failed = False
        self._thread = threading.Thread(target=self._run, name="notebook", daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    @property
    def said(self) -> str:
        """Everything that the cells show so far, errors as Jupyter shows them."""
        outputs = [output for cell in list(self.cells.cells) for output in cell.get("outputs", [])]
        return "".join(_shown(output) for output in outputs)

    @property
    def sentences(self) -> list[str]:
        """The errors: what stands in place of a traceback, and nothing but one line each."""
        outputs = [output for cell in self.cells.cells for output in cell.get("outputs", [])]
        return ["\n".join(output.traceback) for output in outputs if output.output_type == "error"]

    def interrupt(self) -> None:
        """As the person's stop button."""
        asyncio.run_coroutine_threadsafe(self._kernel.interrupt_kernel(), self._loop).result(10)

    def kill(self) -> None:
        """As a provider that takes its machine back: the notebook and all that it started, without a word."""
        killed = self._kernel.signal_kernel(signal.SIGKILL)
        with contextlib.suppress(RuntimeError):  # it is gone already
            asyncio.run_coroutine_threadsafe(killed, self._loop).result(20)

    def wait(self, within_s: float = 60) -> NotebookRun:
        assert self._over.wait(within_s), (
            f"the notebook still runs after {within_s:g} s:\n{self.said[-3000:]}"
        )
        return self

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._execute())
            # An interrupt or a kill that came from another thread is answered before the loop is closed.
            if pending := asyncio.all_tasks(self._loop):
                self._loop.run_until_complete(asyncio.wait(pending, timeout=10))
        finally:
            self._loop.close()
            self._over.set()

    async def _execute(self) -> None:
        resources = {"metadata": {"path": str(self._machine.home)}}
        client = NotebookClient(self.cells, km=self._kernel, timeout=None, resources=resources)
        try:
            await client.async_execute()
        except (CellExecutionError, DeadKernelError):
            self.failed = True
        finally:
            if client.kc is not None:
                client.kc.stop_channels()
            await self._kernel.shutdown_kernel(now=True)


def _kernel(machine: NotebookMachine) -> AsyncKernelManager:
    specs = machine.folder / "kernels"
    spec = {
        "argv": [str(machine.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "notebook",
        "language": "python",
        "env": {},
    }
    (specs / "notebook").mkdir(parents=True, exist_ok=True)
    (specs / "notebook" / "kernel.json").write_text(json.dumps(spec))
    manager = KernelSpecManager(kernel_dirs=[str(specs)], ensure_native_kernel=False)
    sockets = tempfile.mkdtemp(prefix="k-", dir=machine.folder)
    kernel = AsyncKernelManager(
        kernel_name="notebook",
        transport="ipc",
        ip=f"{sockets}/s",
        connection_file=f"{sockets}/connection.json",
        kernel_spec_manager=manager,
    )
    start = kernel.start_kernel

    async def start_there(**options: Any) -> Any:
        return await start(**{**options, "env": dict(machine.env)})

    kernel.start_kernel = start_there
    return kernel


def pip_wheels() -> list[Path]:
    """The pip that comes with Python, or with the distribution's; none where python3-venv is not installed."""
    folders = [sysconfig.get_config_var("WHEEL_PKG_DIR"), Path(ensurepip.__file__).parent / "_bundled"]
    return [wheel for folder in folders if folder for wheel in sorted(Path(folder).glob("pip-*.whl"))]


def _environment(folder: Path) -> Path:
    """A virtual environment: our packages behind its own, and a pip; its interpreter."""
    venv.create(folder, with_pip=False, symlinks=True)
    [packages] = folder.glob("lib/python*/site-packages")
    behind = [sysconfig.get_path("purelib"), *site.getsitepackages(), *map(str, pip_wheels()[-1:])]
    (packages / "behind.pth").write_text("\n".join(dict.fromkeys(behind)) + "\n")
    return folder / "bin" / "python"


def _shown(output: Any) -> str:
    if output.output_type == "stream":
        return str(output.text)
    if output.output_type == "error":
        return "\n".join(output.traceback) + "\n"
    return ""
