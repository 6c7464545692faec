"""SIGKILL at every step of both chains, before, during and after its effect: every chain ends, every effect happens once.

`pytest -s` prints the table. Many instances sleep and wake at the same time, each with one point armed for each chain;
whoever dies takes a Celery worker with it, and the other instances' steps that ran there.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.cases import Case, Missed, Table, pairs

AT_ONCE = 8


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_step_killed_before_during_and_after_its_effect(mortal):
    account = mortal.client().post("/api/accounts", kind="local", label="matrix")["id"]
    table = Table()

    def one(number, asleep_at, awake_at, tries=3):
        name = f"m{number}-{tries}"
        case = Case(mortal, account=account, name=name, seed=number, table=table)
        try:
            case.run(asleep_at, awake_at)
        except AssertionError as error:
            return f"{name} killed at {asleep_at} and {awake_at}: {error}"
        except Missed as missed:
            if tries == 1:
                return f"{name}: {missed}"
        else:
            return ""
        finally:
            case.give_up()
        return one(number, asleep_at, awake_at, tries - 1)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        ran = [pool.submit(one, number, *pair) for number, pair in enumerate(pairs())]
        failed = [text for text in (done.result() for done in ran) if text]
    if table.lines:
        table.show()
    assert not failed, "\n\n".join(failed)
