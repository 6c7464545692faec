"""The notebooks as the control plane serves them."""

from __future__ import annotations

import ast
import json

import pytest
from django.contrib.auth.models import User

from agent import wire
from pool.models import Account, EnrollmentToken, Worker
from pool.notebooks import NAMES, notebook
from pool.services.accounts import account_create
from pool.services.terms import terms_acknowledge
from pool.terms import TERMS

pytestmark = pytest.mark.django_db


@pytest.fixture
def alice() -> User:
    return User.objects.create_user("alice")


@pytest.fixture
def account(alice: User) -> Account:
    made = account_create(owner=alice, kind="colab", label="c")
    terms_acknowledge(account=made, version=TERMS["colab"].version, by="alice")
    return made


def values(found: dict) -> dict[str, str]:
    """The assignments of the first code cell, as Python reads them."""
    tree = ast.parse("".join(found["cells"][1]["source"]))
    return {node.targets[0].id: ast.literal_eval(node.value) for node in tree.body}


@pytest.mark.parametrize("name", NAMES)
def test_everybody_gets_it_with_the_address_and_without_a_token(client, valkey, name):
    answer = client.get(f"/agent/notebooks/{name}.ipynb")
    assert answer["Content-Type"] == "application/x-ipynb+json"
    assert answer["Content-Disposition"] == f'attachment; filename="dormouse-{name}.ipynb"'
    empty = {"JOIN_TOKEN": "", "ACCOUNT_LABEL": "", "WORKER_NAME": ""}
    assert values(answer.json()) == {"SERVER_URL": "http://127.0.0.1:8000", **empty}
    assert not EnrollmentToken.objects.exists()


def test_its_owner_gets_it_with_a_token_of_one_use(api_client, alice, account):
    answer = api_client(alice).post(
        "/agent/notebooks/colab.ipynb", {"account": account.pk, "worker_name": "müde 1"}
    )
    assert (answer.status_code, answer["Cache-Control"]) == (200, "no-store")
    found = values(json.loads(answer.content))
    assert found["WORKER_NAME"] == "müde 1"
    enrol = {"token": found["JOIN_TOKEN"], "name": found["WORKER_NAME"]}
    assert api_client().post(wire.ENROLL, enrol).status_code == 200
    assert api_client().post(wire.ENROLL, enrol).status_code == 403
    assert Worker.objects.get().account == account
    assert EnrollmentToken.objects.get().created_by == "alice"


def test_nobody_else_gets_a_token(api_client, client, alice, account):
    place, body = "/agent/notebooks/colab.ipynb", {"account": account.pk}
    bob = User.objects.create_user("bob")
    assert api_client().post(place, body).status_code == 401
    assert api_client(bob).post(place, body).status_code == 404
    assert api_client(alice, "read").post(place, body).status_code == 403
    client.force_login(alice)
    assert client.post(place, body, content_type="application/json").status_code == 200
    strict = type(client)(enforce_csrf_checks=True)
    strict.force_login(alice)
    assert strict.post(place, body, content_type="application/json").status_code == 403
    assert api_client(User.objects.create_superuser("ops")).post(place, body).status_code == 200


def test_what_does_not_fit_is_refused_in_words(api_client, alice, account):
    ours = api_client(alice)
    assert ours.get("/agent/notebooks/jupyter.ipynb").json()["message"] == "there is no notebook jupyter"
    wrong = ours.post("/agent/notebooks/kaggle.ipynb", {"account": account.pk})
    assert (wrong.status_code, wrong.json()["message"]) == (400, "colab c is no kaggle account")
    assert ours.post("/agent/notebooks/colab.ipynb", {}).status_code == 400
    account.acknowledgements.all().delete()
    refused = ours.post("/agent/notebooks/colab.ipynb", {"account": account.pk})
    assert (refused.status_code, refused.json()["code"]) == (403, "terms_not_acknowledged")
    assert not EnrollmentToken.objects.exists()


HOSTILE = ['"; import os #', "\\", "\n", "'''", '"""', "{0}", "\u2028", "é🐭", "\t\r"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_value_is_a_text_in_the_notebook_and_nothing_more(text):
    assert values(notebook("kaggle", WORKER_NAME=text))["WORKER_NAME"] == text
