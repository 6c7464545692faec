"""Offers and instances as vast.ai writes them, oddities included."""

from __future__ import annotations

from typing import Any

from tests.simulators.vast.catalogue import Machine
from tests.simulators.vast.contracts import MONTH_H, Contract

NULLABLE = (
    "actual_status", "status_msg", "label", "ports", "gpu_util", "gpu_temp", "uptime_mins", "country_code", "template_id",
    "template_hash_id", "template_name", "start_date", "end_date", "cur_state", "next_state", "intended_status",
    "public_ipaddr", "geolocation", "machine_id", "host_id", "gpu_name", "num_gpus", "dph_total", "dph_base", "extra_env",
    "reliability2", "disk_space", "ssh_host", "ssh_port",
)  # fmt: skip
"""The documentation says so of the first eleven; the rest has been seen, or would break a reader that trusts."""


def offer_row(offer_id: int, machine: Machine, *, disk_gb: float) -> dict[str, Any]:
    storage = machine.storage_cost * disk_gb / MONTH_H
    total = round(machine.dph_base + storage, 10)
    price = {"gpuCostPerHour": machine.dph_base, "diskHour": storage, "totalHour": total, "discountTotalHour": 0.0,
             "discountedTotalPerHour": total}  # fmt: skip
    return {
        "id": offer_id, "ask_contract_id": offer_id, "bundle_id": machine.machine_id * 10, "machine_id": machine.machine_id,
        "host_id": machine.host_id, "num_gpus": machine.num_gpus, "gpu_name": machine.gpu_name, "gpu_ram": machine.gpu_ram,
        "gpu_total_ram": machine.gpu_ram * machine.num_gpus, "gpu_frac": 1.0, "gpu_arch": "nvidia", "compute_cap": 890,
        "cuda_max_good": machine.cuda_max_good, "driver_version": "570.86.15", "driver_vers": 570086015,
        "cpu_name": "AMD EPYC 7543", "cpu_cores": 64, "cpu_cores_effective": 16.0, "cpu_ram": 257_000, "cpu_ghz": 3.1,
        "cpu_arch": "amd64", "disk_space": machine.disk_space, "disk_bw": 3200.0, "disk_name": "nvme",
        "inet_up": machine.inet_up, "inet_down": machine.inet_down, "inet_up_cost": machine.inet_up_cost,
        "inet_down_cost": machine.inet_down_cost, "internet_up_cost_per_tb": machine.inet_up_cost * 1000,
        "internet_down_cost_per_tb": machine.inet_down_cost * 1000, "direct_port_count": 100, "static_ip": True,
        "public_ipaddr": "203.0.113.7", "geolocation": machine.geolocation, "geolocode": 1,
        "reliability": machine.reliability2, "reliability2": machine.reliability2, "expected_reliability": 0.98,
        "verification": machine.verification, "vericode": 1, "rentable": True, "rented": False,
        "external": machine.external, "hosting_type": 1, "is_bid": False, "min_bid": round(machine.dph_base * 0.6, 4),
        "dph_base": machine.dph_base, "dph_total": total, "dph_total_adj": total, "discounted_dph_total": total,
        "storage_cost": machine.storage_cost, "storage_total_cost": storage, "dlperf": 90.0,
        "dlperf_per_dphtotal": round(90.0 / total, 3), "flops_per_dphtotal": 100.0, "total_flops": 82.0, "score": 200.0,
        "duration": machine.duration_s, "start_date": 1_780_000_000.0, "end_date": 1_790_000_000.0,
        "time_remaining": "", "mobo_name": "X", "pci_gen": 4.0, "pcie_bw": 24.0, "os_version": "22.04",
        "gpu_display_active": False, "vms_enabled": False, "avail_vol_ask_id": None, "avail_vol_dph": None,
        "avail_vol_size": None, "credit_discount_max": 0.4, "resource_type": "gpu", "cluster_id": None, "gpu_lanes": 16,
        "gpu_mem_bw": 900.0, "gpu_max_power": 450.0, "has_avx": 1, "webpage": None, "search": price,
    }  # fmt: skip


def instance_row(contract: Contract, *, now: float, nulls: bool = False) -> dict[str, Any]:
    machine, status = contract.machine, contract.shown_status(now)
    runs = status == "running"
    ports = (
        {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(20_000 + contract.id % 10_000)}]} if runs else None
    )
    following = contract.intended if contract.intended == "running" or not contract.plan else "stopped"
    present = contract.intended if contract.actual is None else ("running" if runs else contract.intended)
    row = {
        "id": contract.id, "actual_status": status, "intended_status": contract.intended, "cur_state": present,
        "next_state": following, "status_msg": contract.status_msg, "label": contract.label,
        "machine_id": machine.machine_id, "host_id": machine.host_id, "bundle_id": machine.machine_id * 10,
        "image_uuid": contract.image, "image_runtype": contract.runtype, "image_args": [],
        "extra_env": [[name, value] for name, value in contract.env.items()], "onstart": contract.onstart,
        "jupyter_token": "j", "ssh_host": "ssh5.vast.ai", "ssh_idx": "5", "ssh_port": 10_000 + contract.id % 10_000,
        "machine_dir_ssh_port": 20_000, "public_ipaddr": "203.0.113.7\n", "local_ipaddrs": "10.0.0.2 172.17.0.1 \n",
        "ports": ports, "direct_port_start": -1, "direct_port_end": -1, "direct_port_count": 100, "static_ip": True,
        "start_date": contract.start_date, "end_date": contract.created_at + machine.duration_s,
        "duration": machine.duration_s, "uptime_mins": None, "gpu_name": machine.gpu_name, "num_gpus": machine.num_gpus,
        "gpu_ram": machine.gpu_ram, "gpu_totalram": machine.gpu_ram * machine.num_gpus,
        "gpu_util": 0.0 if runs else None, "gpu_temp": 41.0 if runs else None, "cpu_util": 0.03, "mem_usage": 1.2,
        "mem_limit": 32.0, "vmem_usage": 0.4, "cpu_cores_effective": 16.0, "cpu_ram": 257_000, "cpu_cores": 64,
        "disk_space": contract.disk_gb, "disk_usage": -1, "disk_util": -1, "dph_base": machine.dph_base,
        "dph_total": contract.dph_total, "storage_cost": machine.storage_cost,
        "storage_total_cost": contract.storage_usd_per_h, "is_bid": False, "min_bid": round(machine.dph_base * 0.6, 4),
        "search": {}, "instance": {}, "reliability2": machine.reliability2, "geolocation": machine.geolocation,
        "country_code": None, "verification": machine.verification, "template_id": None, "template_hash_id": None,
        "template_name": None, "credit_balance": None, "client_run_time": 1.1, "host_run_time": 2_592_000.0,
        "inet_up": machine.inet_up, "inet_down": machine.inet_down, "inet_up_cost": machine.inet_up_cost,
        "inet_down_cost": machine.inet_down_cost, "driver_version": "570.86", "volume_info": None,
    }  # fmt: skip
    return row | dict.fromkeys(NULLABLE) if nulls else row
