"""The local host as a machine: what it starts, what it survives, and that it lets nothing live on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from hibernation.providers.base import (
    BoxFacts,
    CreateUnknown,
    OfferGone,
    OfferQuery,
    Phase,
    ProviderBusy,
    ProviderRefused,
)
from hibernation.providers.local import LocalProvider
from hibernation.providers.local_catalogue import DEFAULT_CATALOGUE
from hibernation.providers.local_process import identity, marked
from hibernation.providers.local_wire import host_facts
from tests.hibernation.providers.hosts import (
    CHECKOUT,
    DISK_BYTES,
    STAND_IN,
    LocalHost,
    box_spec,
    eventually,
    lives,
)

Make = Callable[..., LocalHost]
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and parent-death signals")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


# -- what a box is --------------------------------------------------------------------------------


def test_a_box_is_a_folder_of_its_own_and_a_process_that_knows_where_to_join(host: LocalHost) -> None:
    ref = host.create("dm-1", join_token="once", workspace="/workspace", environment={"HF_HUB_OFFLINE": "1"})
    environment, box = host.given(ref)["environment"], host.box(ref)
    assert environment["DORMOUSE_URL"] == "http://127.0.0.1:1"
    assert environment["DORMOUSE_JOIN_TOKEN"] == "once"
    assert environment["DORMOUSE_WORKSPACE"] == str(box / "workspace")
    assert environment["DORMOUSE_AGENT_DIR"] == str(box / "agent-state")
    assert environment["HOME"] == str(box / "home")
    assert environment["HF_HUB_OFFLINE"] == "1"
    gpu = json.loads((box / "agent-state" / "simulated-gpu.json").read_text())
    facts = host.provider.read(ref)
    assert facts is not None and gpu["name"] == facts.gpu_name and gpu["mem_total_bytes"] > 2**30


def test_a_box_sees_nothing_of_the_control_plane_s_environment(make_host: Make) -> None:
    secrets = {"DATABASE_URL": "postgres://u:p@h/d", "REDIS_URL": "redis://h", "DORMOUSE_SECRET_KEY": "hush"}
    host = make_host(command=STAND_IN, env=secrets).start()
    environment = host.given(host.create("dm-1"))["environment"]
    assert secrets.keys().isdisjoint(environment)


@pytest.mark.skipif(os.name != "posix", reason="modes")
def test_what_is_on_disk_is_for_this_user_alone(host: LocalHost) -> None:
    ref = host.create("dm-1", join_token="once")
    for path in (host.folder, host.box(ref), host.box(ref) / "box.json"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_crashed_agent_starts_again_and_what_it_had_started_goes_on(host: LocalHost) -> None:
    ref = host.create("dm-1")
    before = host.given(ref)
    os.kill(before["pid"], signal.SIGKILL)
    eventually(lambda: (host.box(ref) / "workspace" / "starts").read_text() == "xx")
    assert host.phase(ref) is Phase.RUNNING
    assert set(lives(before["identities"])) == {before["hidden"], before["marked"]}


@pytest.mark.parametrize(
    ("code", "failed", "words"), [(0, False, "as asked"), (3, True, "refused"), (4, True, "enrol")]
)
def test_an_agent_that_ends_on_purpose_stops_its_box_with_the_reason(
    host: LocalHost, code: int, failed: bool, words: str
) -> None:
    ref = host.create("dm-1")
    given = host.given(ref)
    (host.box(ref) / "agent-state" / "exit").write_text(str(code))
    facts: BoxFacts = eventually(lambda: (f := host.provider.read(ref)) and f.phase is Phase.STOPPED and f)
    assert (facts.failed, words in facts.message) == (failed, True)
    assert lives(given["identities"]) == []
    host.provider.destroy(ref)
    host.until_gone(ref)


def test_an_agent_that_cannot_be_started_fails_its_box(make_host: Make, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o700)
    host = make_host(command=str(program)).start()
    ref = host.create("dm-1")
    assert eventually(lambda: (f := host.provider.read(ref)) and f.failed and f).phase is Phase.STOPPED


# -- what destroy does ----------------------------------------------------------------------------


@linux
def test_a_destroyed_box_leaves_no_process_and_no_byte(host: LocalHost) -> None:
    ref = host.create("dm-1")
    given, box = host.given(ref), host.box(ref)
    locked = box / "workspace" / "locked" / "deep"
    locked.mkdir(parents=True)
    (locked / "file").write_text("x")
    (locked / "out").symlink_to(CHECKOUT)
    locked.chmod(0o500)
    locked.parent.chmod(0o500)
    assert len(lives(given["identities"])) == 3
    host.provider.destroy(ref)
    host.until_gone(ref)
    assert lives(given["identities"]) == []
    assert os.listdir(host.folder / "boxes") == []
    assert (CHECKOUT / "pyproject.toml").exists()


@pytest.mark.slow
@linux
def test_an_agent_deaf_to_sigterm_is_killed_after_its_grace(make_host: Make) -> None:
    host = make_host(command=STAND_IN, grace_s=0.3).start()
    ref = host.create("dm-1")
    os.kill(host.given(ref)["pid"], signal.SIGKILL)
    (host.box(ref) / "agent-state" / "stubborn").touch()
    eventually(lambda: (host.box(ref) / "workspace" / "starts").exists())
    (host.box(ref) / "agent-state" / "given.json").unlink()
    given = host.given(ref)
    host.provider.destroy(ref)
    host.until_gone(ref)
    assert lives(given["identities"]) == []


@pytest.mark.slow
@linux
def test_a_box_that_does_not_end_at_all_is_killed(make_host: Make) -> None:
    host = make_host(command=STAND_IN, grace_s=0.1).start()
    ref = host.create("dm-1")
    given = host.given(ref)
    os.kill(parent_of(given["pid"]), signal.SIGSTOP)
    host.provider.destroy(ref)
    host.until_gone(ref)
    assert lives(given["identities"]) == []


@pytest.mark.slow
def test_a_destroy_that_was_answered_is_done_even_if_the_host_is_killed(make_host: Make) -> None:
    host = make_host(command=STAND_IN, boot_s=0.2, grace_s=0.5).start()
    ref, stays = host.create("dm-1"), host.create("dm-2")
    (host.box(ref) / "agent-state" / "stubborn").touch()  # so that it takes its whole grace to go
    host.given(ref)
    host.provider.destroy(ref)
    host.kill()
    host.start()
    host.until_gone(ref)
    assert {box.ref for box in host.provider.listing()} == {stays}


def test_a_destroy_while_it_loads_takes_it_away(make_host: Make) -> None:
    host = make_host(boot_s=60).start()
    ref = host.create("dm-1")
    assert host.phase(ref) is Phase.LOADING
    host.provider.destroy(ref)
    host.until_gone(ref)


# -- what it survives -----------------------------------------------------------------------------


@linux
def test_a_killed_host_takes_its_boxes_processes_along(host: LocalHost) -> None:
    given = [host.given(host.create(f"dm-{n}")) for n in range(2)]
    host.kill()
    for one in given:
        eventually(lambda one=one: lives(one["identities"]) == [])


@linux
def test_a_killed_host_comes_back_with_its_boxes_and_starts_them_again(host: LocalHost) -> None:
    refs = {host.create(f"dm-{n}") for n in range(2)}
    before = {box.ref: (box.label, box.price_usd_per_h, box.created_at) for box in host.provider.listing()}
    for ref in refs:
        eventually(lambda ref=ref: (host.box(ref) / "workspace" / "starts").exists())
        (host.box(ref) / "workspace" / "kept").write_text(ref)
    host.kill()
    host.start()
    after = {box.ref: (box.label, box.price_usd_per_h, box.created_at) for box in host.provider.listing()}
    assert after == before and set(after) == refs
    for ref in refs:
        eventually(lambda ref=ref: (host.box(ref) / "workspace" / "starts").read_text() == "xx")
        assert (host.box(ref) / "workspace" / "kept").read_text() == ref


@pytest.mark.slow
@linux
def test_processes_that_outlived_their_killed_host_are_ended_before_it_serves_again(host: LocalHost) -> None:
    ref = host.create("dm-1")
    given = host.given(ref)
    first = parent_of(given["pid"])
    os.kill(first, signal.SIGSTOP)  # it cannot notice that its host is gone
    os.kill(given["pid"], signal.SIGSTOP)
    known = {**given["identities"], first: identity(first)}
    host.kill()
    assert set(lives(known)) == set(known)
    host.start()
    assert lives(known) == []
    eventually(lambda: host.phase(ref) is Phase.RUNNING)


@linux
def test_a_box_whose_first_process_is_killed_starts_again_alone(host: LocalHost) -> None:
    ref = host.create("dm-1")
    given = host.given(ref)
    first = parent_of(given["pid"])
    os.kill(first, signal.SIGKILL)
    eventually(lambda: (host.box(ref) / "workspace" / "starts").read_text() == "xx")
    eventually(lambda: lives(given["identities"]) == [])


def test_a_removal_that_was_cut_off_is_taken_up_again(make_host: Make) -> None:
    host = make_host(boot_s=60).start()
    ref, other = host.create("dm-1"), host.create("dm-2")
    host.kill()
    path = host.box(ref) / "box.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "destroying": True}))
    (host.box(ref) / "home").rmdir()
    half_made = host.folder / "boxes" / "box_x.new"
    half_made.mkdir()
    (half_made / "box.json").write_text("{")
    emptied = host.folder / "boxes" / "box_y"
    emptied.mkdir()
    host.start()
    host.until_gone(ref)
    assert {path.name for path in (host.folder / "boxes").iterdir()} == {other}


def test_a_host_that_is_told_to_end_leaves_boxes_and_no_process(host: LocalHost) -> None:
    ref = host.create("dm-1")
    given = host.given(ref)
    assert host.stop() == 0
    assert lives(given["identities"]) == [] and marked(f"{host.folder}:") == []
    assert host_facts(host.folder) == {}
    host.start()
    assert {box.ref for box in host.provider.listing()} == {ref}


def test_a_second_host_in_the_folder_is_refused(host: LocalHost) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "hibernation.providers.local_host", str(host.folder)],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert second.returncode == 1 and "another local host" in second.stderr
    assert host.provider.listing() == []


def test_a_folder_with_a_very_long_path_works(make_host: Make, tmp_path: Path) -> None:
    host = (
        make_host(tmp_path / ("d" * 100) / "host").start()
        if (tmp_path / ("d" * 100)).mkdir() is None
        else None
    )
    assert host is not None
    host.create("dm-1")
    where = Path(host_facts(host.folder)["socket"])
    assert where.parent != host.folder
    host.kill()
    host.start()
    assert not where.exists()
    where = Path(host_facts(host.folder)["socket"])
    host.stop()
    assert not where.parent.exists()


# -- what callers can do to each other -----------------------------------------------------------

_RENT_ALL = """
import sys
from pathlib import Path
from hibernation.providers.base import OfferGone, OfferQuery
from hibernation.providers.local import LocalProvider
from tests.hibernation.providers.hosts import DISK_BYTES, box_spec
provider = LocalProvider(Path(sys.argv[1]))
sys.stdin.readline()
offers = provider.offers(OfferQuery(disk_bytes=DISK_BYTES))
for offer in offers * 2:
    try:
        print(provider.create(offer.id, box_spec(f"dm-{sys.argv[2]}")), offer.id)
    except OfferGone:
        pass
"""


@pytest.mark.slow
def test_eight_processes_that_rent_at_once_never_get_more_than_there_is(make_host: Make) -> None:
    host = make_host(boxes=6, boot_s=60).start()
    renters = [
        subprocess.Popen(
            [sys.executable, "-c", _RENT_ALL, str(host.folder), str(n)],
            cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for n in range(8)
    ]  # fmt: skip
    for renter in renters:
        assert renter.stdin is not None
        renter.stdin.write("go\n")
        renter.stdin.flush()
    rented = [line.split() for renter in renters for line in renter.communicate(timeout=60)[0].splitlines()]
    assert all(renter.returncode == 0 for renter in renters)
    boxes = host.provider.listing()
    assert len(boxes) == len(rented) == 6
    assert {box.ref for box in boxes} == {ref for ref, _ in rented}
    assert len({offer for _, offer in rented}) == 6, "an offer was rented twice"
    capacity = {machine.machine_id: machine.capacity for machine in DEFAULT_CATALOGUE}
    assert all(
        count <= capacity[machine] for machine, count in Counter(box.machine_id for box in boxes).items()
    )
    assert host.provider.offers(OfferQuery(disk_bytes=DISK_BYTES)) == []


def test_a_machine_takes_as_many_boxes_as_it_has_places(make_host: Make) -> None:
    host = make_host(boxes=32, boot_s=60).start()
    query = OfferQuery(gpu_type="T4", region="local-eu", disk_bytes=DISK_BYTES)
    while offers := host.provider.offers(query):
        host.provider.create(offers[0].id, box_spec("dm"))
    assert len(host.provider.listing()) == next(
        m.capacity for m in DEFAULT_CATALOGUE if m.machine_id == "m-eu-t4"
    )


def test_a_disk_that_the_machine_does_not_have_is_refused(host: LocalHost) -> None:
    offer = host.provider.offers(OfferQuery(disk_bytes=DISK_BYTES))[0]
    with pytest.raises(ProviderRefused, match="disk"):
        host.provider.create(offer.id, box_spec("dm", disk_bytes=10**16))
    assert host.provider.offers(OfferQuery(disk_bytes=10**16)) == []
    assert host.provider.listing() == []


def test_a_request_that_was_cut_off_was_never_asked(host: LocalHost) -> None:
    offer = host.provider.offers(OfferQuery(disk_bytes=DISK_BYTES))[0]
    box = {"label": "dm-1", "disk_bytes": 1, "environment": {}}
    arguments = {"offer_id": offer.id, "box": box, "tenant": ""}
    request = json.dumps({"op": "create", "arguments": arguments, "gives_up_at": 1e18}).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(host_facts(host.folder)["socket"])
        connection.sendall(request)
    assert host.provider.listing() == []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(host_facts(host.folder)["socket"])
        connection.sendall(request + b"\n")
    # The caller is gone before the answer: it does not know, the listing does.
    eventually(lambda: host.provider.find("dm-1"))


@pytest.mark.parametrize(
    "line", [b"\n", b"{}\n", b'{"op": "rm"}\n', b"\xff\xfe\n", b'{"op": [], "arguments": 1}\n', b"x" * 10**6]
)
def test_nonsense_is_refused_and_the_host_serves_on(host: LocalHost, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(host_facts(host.folder)["socket"])
        connection.settimeout(5)
        try:
            connection.sendall(line)
            answer = connection.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
    assert answer == b"" or json.loads(answer)["error"]["code"] == "provider_refused"
    assert host.provider.listing() == []


def test_a_create_whose_caller_gave_up_never_rents_later(host: LocalHost) -> None:
    offer = host.provider.offers(OfferQuery(disk_bytes=DISK_BYTES))[0]
    hasty = LocalProvider(host.folder, timeout_s=0.2)
    assert host.process is not None
    host.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(CreateUnknown):
            hasty.create(offer.id, box_spec("dm-late"))
        with pytest.raises(ProviderBusy):
            hasty.listing()
    finally:
        host.process.send_signal(signal.SIGCONT)
    # This listing was asked for after the create, create_settles_s after it began: its word is final.
    assert host.provider.listing() == []
    assert host.provider.create(offer.id, box_spec("dm-late"))


def test_an_offer_does_not_outlive_its_rental(host: LocalHost) -> None:
    offer = host.provider.offers(OfferQuery(disk_bytes=DISK_BYTES))[0]
    ref = host.provider.create(offer.id, box_spec("dm-1"))
    host.provider.destroy(ref)
    host.until_gone(ref)
    with pytest.raises(OfferGone):
        host.provider.create(offer.id, box_spec("dm-1"))


def test_a_host_that_does_not_run_is_named_with_how_to_start_it(make_host: Make) -> None:
    host = make_host()
    with pytest.raises(ProviderBusy, match="not running") as never:
        host.provider.listing()
    assert "./run" in never.value.hint and str(host.folder) in never.value.hint
    host.start()
    host.kill()
    with pytest.raises(ProviderBusy, match="last seen 20"):
        host.provider.listing()
