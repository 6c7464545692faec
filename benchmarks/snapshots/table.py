"""The results for people."""

from __future__ import annotations

from benchmarks.snapshots.measures import MEASURES, TO_DISK, TO_MEMORY, Results
from benchmarks.snapshots.targets import LOCAL_MEMORY_BYTES, TARGETS, ratio

LINKS_GBIT = (0.1, 0.5, 1.0, 2.5, 10.0)
CLAIMS = ((6e9, "6 GB", "20 s, back in 10.1 s"), (70e9, "70 GB", "300 s"))


def show(results: Results, tools: list[str], *, ours: str, read_bytes: int) -> str:
    return "\n".join(
        [
            *_measured(results, tools),
            "",
            *_against_targets(results, ours),
            "",
            *_by_link(results, ours, read_bytes),
            "",
            *(f"{name}: {'; '.join(shown)}" for name, shown in results.differences.items()),
        ]
    )


def _measured(results: Results, tools: list[str]) -> list[str]:
    lines = [
        "| measure | tool | wall s | CPU s | peak MB | stored MB | others' cores | rounds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for measure in MEASURES:
        for tool in tools:
            found = results.of(measure, tool)
            if found is not None:
                stored = "" if measure in (TO_MEMORY, TO_DISK) else f"{found.stored_bytes / 1e6:.1f}"
                lines.append(
                    f"| {measure} | {tool} | {found.wall_s:.2f} | {found.cpu_s:.2f} | {found.rss_bytes / 1e6:.0f} "
                    f"| {stored} | {found.others_cores:.1f} | {found.rounds} |"
                )
    return lines


def _against_targets(results: Results, ours: str) -> list[str]:
    lines = ["| target | measured | asked | stretch | |", "|---|---|---|---|---|"]
    for target in TARGETS:
        found = ratio(target, results, ours=ours)
        if found is None:
            continue
        what = "wall" if target.of == "wall_s" else "stored"
        stretch = "" if target.stretch is None else f"{target.stretch:.2f}"
        verdict = "reached" if found <= target.at_most else "MISSED"
        lines.append(
            f"| {target.measure}: {what} / {target.against} | {found:.2f} | <= {target.at_most:.2f} | {stretch} | {verdict} |"
        )
    peak = max((found.rss_bytes for m in MEASURES if (found := results.of(m, ours))), default=0)
    verdict = "reached" if peak <= LOCAL_MEMORY_BYTES else "MISSED"
    lines.append(
        f"| peak memory | {peak / 2**20:.0f} MiB | <= {LOCAL_MEMORY_BYTES / 2**20:.0f} MiB | | {verdict} |"
    )
    return lines


def _by_link(results: Results, ours: str, read_bytes: int) -> list[str]:
    """Seconds for a whole workspace: the slower of the engine, at its measured rate, and the link."""
    first, back = results.of(MEASURES[0], ours), results.of(TO_MEMORY, ours)
    if first is None or not first.stored_bytes:
        return []
    kept, rate = first.stored_bytes / read_bytes, read_bytes / first.wall_s
    back_rate = read_bytes / back.wall_s if back else 0.0
    lines = [
        f"Computed from {rate / 1e6:.0f} MB/s taken, {back_rate / 1e6:.0f} MB/s restored, {kept:.0%} kept:",
        "| workspace | " + " | ".join(f"{gbit:g} Gbit/s" for gbit in LINKS_GBIT) + " | asked |",
        "|---" * (len(LINKS_GBIT) + 2) + "|",
    ]
    for size, name, claim in CLAIMS:
        cells = []
        for gbit in LINKS_GBIT:
            link_s = size * kept * 8 / (gbit * 1e9)
            up_s = max(link_s, size / rate)
            cells.append(f"{up_s:.0f} s" + (f" / {max(link_s, size / back_rate):.0f} s" if back_rate else ""))
        lines.append(f"| {name}, up / back | " + " | ".join(cells) + f" | {claim} |")
    return lines
