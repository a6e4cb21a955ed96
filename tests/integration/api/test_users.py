"""People forgotten over HTTP."""

from __future__ import annotations

import pytest
from tests.integration.kept import PERSON, all_rows, found_of_person, live_an_order

from orderflow.operations.audit import list_actions

PATH = f"/admin/api/users/{PERSON['user']}/forget"


@pytest.fixture
def forget(api):
    async def forget(path=PATH, *, admin=True, **body):
        return await api.client.post(path, headers=api.bearer("admin-1", admin=admin), json=body)

    return forget


async def test_an_admin_forgets_a_person(api, forget, resources, sql):
    await live_an_order(resources, sql)
    before = await all_rows(sql)
    would = await forget(dryRun=True)
    assert (would.status_code, would.json()["rows"]["orders"]) == (200, 1)
    assert await all_rows(sql) == before
    done = await forget(reason="a letter")
    assert {**done.json(), "pseudonym": ""} == {**would.json(), "pseudonym": ""}
    assert found_of_person(await all_rows(sql)) == set()
    assert (await forget()).json() == {"pseudonym": None, "rows": {}, "jobs": 0}
    [action] = await list_actions(db=resources.db, action="forget")
    assert (action.user, action.via, action.reason) == ("admin-1", "api", "a letter")
    assert (await api.get("/orders")).json()["orders"] == []


async def test_open_orders_and_other_users_are_refused(api, forget):
    placed = await api.checkout(user="user-1")
    answer = await forget("/admin/api/users/user-1/forget")
    assert (answer.status_code, api.problem(answer)) == (409, "user-has-open-orders")
    assert placed.json()["orderId"] in answer.json()["detail"]
    assert "user-1" not in answer.json()["detail"]
    assert (await forget(admin=False)).status_code == 403
