"""One take or restore by this engine: python -m benchmarks.snapshots.dormouse_run take|restore TREE HOME."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from snapshots.engine.manifest import load_manifest
from snapshots.engine.remote.direct import StoreRemote
from snapshots.engine.restore import restore
from snapshots.engine.store.folder import FolderStore
from snapshots.engine.take import take

OWNER, KEY = "u_benchmark", bytes(range(32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=["take", "restore"])
    parser.add_argument("tree", type=Path)
    parser.add_argument("home", type=Path)
    parser.add_argument("--encrypt", action="store_true")
    options = parser.parse_args()
    remote = StoreRemote(FolderStore(options.home / "repo"))
    act = _take if options.verb == "take" else _restore
    print(json.dumps(act(options, remote)))


def _take(options: argparse.Namespace, remote: StoreRemote) -> dict[str, object]:
    latest = options.home / "latest"
    number = int(latest.read_text()) if latest.exists() else 0
    parent = None
    if number:
        parent = load_manifest(remote, root_key=_root_key(number), owner_key=KEY)
    taken = take(
        options.tree,
        remote=remote,
        owner_key=KEY,
        owner_id=OWNER,
        snapshot_id=f"s_{number + 1}",
        parent=parent,
        stat_index=options.home / "stat-index",
        encrypt=options.encrypt,
    )
    latest.write_text(str(number + 1))
    return {"stored_bytes": taken.stored_bytes, "entries": taken.entries, "seconds": taken.seconds}


def _restore(options: argparse.Namespace, remote: StoreRemote) -> dict[str, object]:
    number = int((options.home / "latest").read_text())
    restored = restore(
        options.tree,
        remote=remote,
        owner_key=KEY,
        root_key=_root_key(number),
        stat_index=options.home / "stat-index",
    )
    return {
        "fetched_bytes": restored.fetched_bytes,
        "entries": restored.entries,
        "seconds": restored.seconds,
    }


def _root_key(number: int) -> str:
    return f"o/{OWNER}/m/s_{number}"


if __name__ == "__main__":
    main()
