"""GPUs through NVIDIA's management library, which comes with the driver."""

from __future__ import annotations

from typing import Any

from agent.wire import Gpu


class NvmlProbe:
    """Reads through pynvml. Not there, or no driver: None."""

    name = "nvml"

    def __init__(self) -> None:
        self._nvml: Any = None

    def read(self) -> tuple[Gpu, ...] | None:
        if self._nvml is None and not self._open():
            return None
        nvml = self._nvml
        try:
            count = nvml.nvmlDeviceGetCount()
            return tuple(self._gpu(index) for index in range(count)) or None
        except nvml.NVMLError:
            # A driver that was reloaded needs a new beginning.
            self._nvml = None
            return None

    def _open(self) -> bool:
        try:
            import pynvml
        except ImportError:
            return False
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return False
        self._nvml = pynvml
        return True

    def _gpu(self, index: int) -> Gpu:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name = self._ask(nvml.nvmlDeviceGetName, handle)
        util = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        temp_c = self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        return Gpu(
            index=index,
            name=name.decode() if isinstance(name, bytes) else str(name or ""),
            util=None if util is None else float(util.gpu),
            mem_used_bytes=None if memory is None else int(memory.used),
            mem_total_bytes=None if memory is None else int(memory.total),
            temp_c=None if temp_c is None else float(temp_c),
        )

    def _ask(self, question: Any, *arguments: Any) -> Any:
        """None where this GPU does not support the question (MIG slices do not tell their utilisation)."""
        try:
            return question(*arguments)
        except (
            self._nvml.NVMLError_NotSupported,
            self._nvml.NVMLError_NoPermission,
            self._nvml.NVMLError_Unknown,
        ):
            return None
