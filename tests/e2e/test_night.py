"""A night and a morning of an instance: idle, saved, gone; woken, every byte in place."""

import pytest

from tests.e2e.rented import Rented, nothing_was_risked, policy


def test_idle_instance_sleeps_by_itself_and_wakes_with_every_byte_in_place(rent):
    sleeps_and_wakes(rent("night"))


@pytest.mark.slow
def test_on_postgres_too(installation_on_postgres):
    account = installation_on_postgres.client().post("/api/accounts", kind="local", label="local")["id"]
    rented = Rented.rent(installation_on_postgres, account=account, name="night")
    sleeps_and_wakes(rented.until("running"))


def sleeps_and_wakes(rented):
    before = rented.fill(seed=1)
    asleep = policy(enabled=True)
    rented.client.ok("PUT", f"/api/instances/{rented.id}/config", **asleep)
    box = rented.installation.box_folder(rented.box()["provider_ref"])
    rented.until("hibernated", within_s=90)
    assert not box.exists()
    # Idle it would soon sleep again, before it was looked at.
    rented.client.ok("PUT", f"/api/instances/{rented.id}/config", **policy())
    assert rented.wake().status == 202
    rented.until("running", within_s=90)
    assert rented.differences(before) == []
    nothing_was_risked(rented)
    (generation,) = rented.snapshots()
    names = sum(entry.kind == "file" for entry in before.entries.values())
    assert generation["files"] == names - 1  # one of them is a second name
    assert rented.host_said() == {"rented": 2, "destroyed": 1, "gone": 1}
