"""An agent that died between planning its root and committing it: the same snapshot cannot be taken again."""

import pytest
from django.contrib.auth import get_user_model

from agent import wire
from snapshots.services import taking


@pytest.fixture
def snapshot(db):
    owner = get_user_model().objects.create_user("alice")
    return taking.snapshot_begin(
        owner=owner, workspace_ref="i_1", epoch=1, worker_ref="w_1", worker_epoch=1, key="c_1:0"
    )


def wish(key, length=10):
    return wire.PutWish(key=key, length=length, sha256="0" * 64)


def test_snapshot_whose_root_was_planned_is_not_begun_again(snapshot):
    folder = snapshot.root_key.partition("/m/")[0]
    taking.snapshot_start(snapshot)
    taking.snapshot_plan(snapshot, put=[wish(f"{folder}/p/{'a' * 32}")], get=[])
    taking.snapshot_start(snapshot)  # packs of an earlier run are no obstacle
    taking.snapshot_plan(snapshot, put=[wish(snapshot.root_key)], get=[])
    with pytest.raises(taking.RootPlanned) as refused:
        taking.snapshot_start(snapshot)
    assert (refused.value.status, refused.value.code) == (409, wire.ROOT_PLANNED)


def test_root_itself_may_be_planned_again_by_the_run_that_planned_it(snapshot):
    for _ in range(2):  # the first answer was lost
        put, _ = taking.snapshot_plan(snapshot, put=[wish(snapshot.root_key)], get=[])
        assert len(put) == 1
