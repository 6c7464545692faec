"""GPUs are read, or unknown; never idle by mistake, and never in the way of anything else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.probes import FirstThatWorks, WithDeadline, highest_util, probe_for
from agent.probes.nvml import NvmlProbe
from agent.probes.simulated import SimulatedProbe
from agent.probes.smi import SmiProbe, parse
from agent.wire import Gpu

TWO_GPUS = "0, Tesla T4, 37, 1024, 15360, 41\n1, NVIDIA A100-SXM4-40GB, [N/A], 0, [Not Supported], 30\n"


@pytest.fixture
def fake_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a program of that text on PATH as nvidia-smi."""

    def make(text: str) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return make


class NvmlError(Exception):
    pass


class NotSupported(NvmlError):
    pass


@pytest.fixture
def fake_nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """pynvml as far as the probe uses it, in the place of the real one."""
    nvml: Any = types.ModuleType("pynvml")
    nvml.NVMLError, nvml.NVMLError_NotSupported = NvmlError, NotSupported
    nvml.NVMLError_NoPermission = nvml.NVMLError_Unknown = NotSupported
    nvml.NVML_TEMPERATURE_GPU = 0
    nvml.nvmlInit = lambda: None
    nvml.nvmlDeviceGetCount = lambda: 2
    nvml.nvmlDeviceGetHandleByIndex = lambda index: index
    nvml.nvmlDeviceGetName = lambda handle: b"Tesla T4" if handle == 0 else "A100"
    nvml.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(used=5, total=10)
    nvml.nvmlDeviceGetTemperature = lambda handle, kind: 41

    def utilization(handle: int) -> Any:
        if handle == 1:
            raise NotSupported
        return types.SimpleNamespace(gpu=37)

    nvml.nvmlDeviceGetUtilizationRates = utilization
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    yield nvml


def test_nvml_reads_every_gpu_and_what_one_does_not_tell_is_unknown(fake_nvml: Any) -> None:
    gpus = NvmlProbe().read()
    assert gpus is not None
    assert gpus[0] == Gpu(index=0, name="Tesla T4", util=37, mem_used_bytes=5, mem_total_bytes=10, temp_c=41)
    assert gpus[1].name == "A100" and gpus[1].util is None
    assert highest_util(gpus) is None, "the GPU that does not tell may be the one at work"


def test_nvml_that_breaks_is_unknown_and_is_opened_again(fake_nvml: Any) -> None:
    probe = NvmlProbe()
    assert probe.read()
    count = fake_nvml.nvmlDeviceGetCount

    def broken() -> int:
        raise NvmlError("driver reloaded")

    fake_nvml.nvmlDeviceGetCount = broken
    assert probe.read() is None
    fake_nvml.nvmlDeviceGetCount = count
    assert probe.read()


def test_nvml_absent_or_without_a_driver_is_unknown_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    assert NvmlProbe().read() is None  # the real library, on a machine without a driver
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert NvmlProbe().read() is None
    assert WithDeadline(NvmlProbe()).read() == () and highest_util(()) is None


def test_smi_reads_its_table(fake_smi: Any) -> None:
    fake_smi(f"#!/bin/sh\ncat <<'E'\n{TWO_GPUS}E\n")
    gpus = SmiProbe().read()
    assert gpus is not None
    assert gpus[0] == Gpu(
        index=0, name="Tesla T4", util=37, mem_used_bytes=1 << 30, mem_total_bytes=15 << 30, temp_c=41
    )
    assert gpus[1].util is None and gpus[1].mem_total_bytes is None and gpus[1].mem_used_bytes == 0


@pytest.mark.parametrize(
    "text",
    ["#!/bin/sh\nexit 9\n", "#!/bin/sh\necho No devices were found\n", "#!/bin/sh\n", "not a program at all"],
)
def test_smi_that_fails_or_babbles_is_unknown(fake_smi: Any, text: str) -> None:
    fake_smi(text)
    assert SmiProbe().read() is None


def test_smi_that_hangs_is_unknown_in_time(fake_smi: Any) -> None:
    fake_smi("#!/bin/sh\nexec sleep 600\n")
    started = time.monotonic()
    assert SmiProbe(answer_within_s=0.2).read() is None
    assert time.monotonic() - started < 2


def test_smi_names_may_hold_commas_inside_quotes() -> None:
    gpus = parse('0, "A, B", 1, 2, 3, 4\n')
    assert gpus is not None and gpus[0].name == "A, B"


def test_auto_takes_the_first_that_works_and_comes_back_to_a_better_one(
    fake_smi: Any, fake_nvml: Any
) -> None:
    fake_smi("#!/bin/sh\necho 0, from smi, 1, 2, 3, 4\n")
    probe = FirstThatWorks(NvmlProbe(), SmiProbe())
    fake_nvml.nvmlInit = lambda: (_ for _ in ()).throw(NvmlError("no driver"))
    gpus = probe.read()
    assert gpus is not None and gpus[0].name == "from smi"
    fake_nvml.nvmlInit = lambda: None
    gpus = probe.read()
    assert gpus is not None and gpus[0].name == "Tesla T4"


def test_a_driver_that_hangs_costs_one_thread_and_readings_go_on() -> None:
    release = threading.Event()
    calls = []

    class Hanging:
        name = "hanging"

        def read(self) -> tuple[Gpu, ...]:
            calls.append(1)
            if len(calls) == 1:
                release.wait(30)
            return (Gpu(index=0, util=7.0),)

    probe = WithDeadline(Hanging(), deadline_s=0.05)
    threads = threading.active_count()
    for _ in range(3):
        started = time.monotonic()
        assert probe.read() == ()
        assert time.monotonic() - started < 1
    assert calls == [1] and threading.active_count() == threads
    release.set()
    deadline = time.monotonic() + 5
    while probe.read() == () and time.monotonic() < deadline:
        pass
    assert highest_util(probe.read()) == 7.0


def test_a_probe_that_raises_is_unknown_and_is_asked_again() -> None:
    class Failing:
        name = "failing"

        def read(self) -> tuple[Gpu, ...]:
            raise RuntimeError("not foreseen")

    probe = WithDeadline(Failing())
    assert probe.read() == () and probe.read() == ()


@pytest.mark.parametrize(
    ("control", "working", "util"),
    [
        (None, False, 0.0),
        (None, True, 95.0),
        ("{}", True, 95.0),
        ('{"util": 3}', False, 3.0),
        ('{"util": 3}', True, 3.0),
        ('{"util": 3, "busy_util": 60}', True, 60.0),
        ('{"util": 3, "busy_util": 60}', False, 3.0),
        ('{"util": null}', False, None),
        ('{"util": "much"}', False, None),
        ('{"util": 1e9}', False, 100.0),
        ('{"util": NaN}', False, None),
    ],
)
def test_simulated_gpu_follows_the_job_and_its_control_file(
    tmp_path: Path, control: str | None, working: bool, util: float | None
) -> None:
    if control is not None:
        (tmp_path / "simulated-gpu.json").write_text(control)
    gpus = SimulatedProbe(tmp_path, is_working=lambda: working).read()
    assert gpus is not None and gpus[0].util == util and gpus[0].mem_total_bytes == 16 << 30


def test_simulated_gpu_with_a_damaged_control_file_is_unknown(tmp_path: Path) -> None:
    for text in ("{half", "[]"):
        (tmp_path / "simulated-gpu.json").write_text(text)
        assert SimulatedProbe(tmp_path, is_working=lambda: True).read() is None


def test_each_word_has_its_probe(tmp_path: Path) -> None:
    for word in ("auto", "nvml", "nvidia-smi", "none"):
        assert probe_for(word, state_dir=tmp_path, is_working=lambda: False).read() == ()
    assert probe_for("simulated", state_dir=tmp_path, is_working=lambda: False).read()[0].util == 0


def test_the_real_library_answers_where_there_is_a_gpu() -> None:
    """On a machine with a driver, both ways see the same GPUs."""
    probe = subprocess.run(["sh", "-c", "command -v nvidia-smi"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("no NVIDIA driver on this machine")
    by_nvml, by_smi = NvmlProbe().read(), SmiProbe().read()
    assert by_nvml and by_smi and [g.name for g in by_nvml] == [g.name for g in by_smi]
    assert by_nvml[0].mem_total_bytes and highest_util(by_nvml) is not None
