"""The machines of the simulated market, good ones and such as nobody should rent."""

from __future__ import annotations

from dataclasses import dataclass

DAY_S = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Machine:
    """capacity: boxes at once. Units are vast.ai's: gpu_ram in MB, inet in Mbps, costs in $ per GB, storage_cost in $ per
    GB-month, disk_space in GB."""

    machine_id: int
    gpu_name: str
    geolocation: str
    dph_base: float
    capacity: int = 2
    num_gpus: int = 1
    gpu_ram: int = 24_564
    host_id: int = 77
    storage_cost: float = 0.15
    inet_up_cost: float = 0.003
    inet_down_cost: float = 0.002
    inet_up: float = 800.0
    inet_down: float = 900.0
    reliability2: float = 0.995
    duration_s: float = 60.0 * DAY_S
    disk_space: float = 2000.0
    verification: str = "verified"
    external: bool = False
    cuda_max_good: float = 12.9


MACHINES = (
    Machine(machine_id=1001, gpu_name="RTX 4090", geolocation="Sweden, SE", dph_base=0.35, capacity=3),
    Machine(machine_id=1002, gpu_name="RTX 4090", geolocation="Texas, US", dph_base=0.31),
    Machine(machine_id=1003, gpu_name="RTX 4090", geolocation=", DE", dph_base=0.38, host_id=78),
    Machine(machine_id=1004, gpu_name="RTX 3090", geolocation="Poland, PL", dph_base=0.17, capacity=3),
    Machine(machine_id=1005, gpu_name="A100 SXM4", geolocation="Quebec, CA", dph_base=1.02, gpu_ram=81_920),
    Machine(
        machine_id=1006,
        gpu_name="H100 SXM",
        geolocation="Japan, JP",
        dph_base=2.4,
        gpu_ram=81_559,
        capacity=1,
    ),
    Machine(machine_id=1007, gpu_name="RTX 4090", geolocation="Sweden, SE", dph_base=0.72, num_gpus=2),
    # Cheap, and each with one thing that is wrong with it.
    Machine(machine_id=1101, gpu_name="RTX 4090", geolocation="Texas, US", dph_base=0.11, reliability2=0.81),
    Machine(
        machine_id=1102, gpu_name="RTX 4090", geolocation="Texas, US", dph_base=0.12, duration_s=6 * 3600
    ),
    Machine(
        machine_id=1103, gpu_name="RTX 4090", geolocation="Texas, US", dph_base=0.13, inet_down_cost=0.05
    ),
    Machine(
        machine_id=1104,
        gpu_name="RTX 4090",
        geolocation="Texas, US",
        dph_base=0.14,
        verification="unverified",
    ),
    Machine(machine_id=1105, gpu_name="RTX 4090", geolocation="Texas, US", dph_base=0.15, external=True),
    Machine(machine_id=1106, gpu_name="RTX 4090", geolocation="Texas, US", dph_base=0.16, disk_space=4.0),
    Machine(machine_id=1107, gpu_name="RTX 4090", geolocation="Texas, US", dph_base=0.17, cuda_max_good=11.8),
    Machine(machine_id=1108, gpu_name="RTX 4090", geolocation="Texas, US", dph_base=0.18, inet_down=20.0),
    Machine(machine_id=1109, gpu_name="RTX 4090", geolocation="Texas, US", dph_base=0.19, inet_up_cost=0.06),
)
GOOD = frozenset(machine.machine_id for machine in MACHINES if machine.machine_id < 1100)
