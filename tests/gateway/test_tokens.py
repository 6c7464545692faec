from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest

from gateway.answers import Refused
from gateway.tokens import CLOCK_LEEWAY_S, Claims, Tokens
from tests.gateway.harness import KEY, KID, OLD_KEY, OLD_KID, token

TOKENS = Tokens({KID: KEY, OLD_KID: OLD_KEY})


def refusal(text: str | None, now: float | None = None) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        TOKENS.read(text, now=time.time() if now is None else now)
    return caught.value.status, caught.value.code


def test_good_token_names_worker_and_epoch() -> None:
    assert TOKENS.read(f"Bearer {token('w_a', 3)}", now=time.time()) == Claims("w_a", 3)


def test_token_of_the_previous_key_is_good_while_that_key_is_listed() -> None:
    text = f"bearer {token('w_a', key=OLD_KEY, kid=OLD_KID)}"
    assert TOKENS.read(text, now=time.time()).worker_id == "w_a"
    with pytest.raises(Refused):
        Tokens({KID: KEY}).read(text, now=time.time())


def test_token_expires_at_exp_give_or_take_the_leeway() -> None:
    text = f"Bearer {token('w_a', iat=1_000, exp=2_000)}"
    assert TOKENS.read(text, now=2_000 + CLOCK_LEEWAY_S - 1).epoch == 1
    assert refusal(text, now=2_000 + CLOCK_LEEWAY_S) == (401, "token_expired")
    assert refusal(text, now=1_000 - CLOCK_LEEWAY_S - 1) == (401, "token_invalid")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic dzpw",
        "Bearer x",
        "Bearer a.b.c",
        "Bearer " + "x" * 5000,
        pytest.param("Bearer a\udcff.b.c", id="bytes that are no UTF-8"),
        pytest.param(f"Bearer {base64.urlsafe_b64encode(b'[' * 2900).decode()}.e30.x", id="nested"),
    ],
)
def test_what_is_no_bearer_token_is_refused(header: str | None) -> None:
    assert refusal(header) == (401, "token_invalid")


@pytest.mark.parametrize(
    "changed",
    [
        {"key": b"x" * 32},
        {"kid": "k9"},
        {"kid": OLD_KID},
        {"algorithm": "HS512", "key": KEY * 2},
        {"algorithm": "HS384", "key": KEY * 2},
        {"aud": "somebody-else"},
        {"aud": ["dormouse-agent", "somebody-else"]},
        {"aud": None},
        {"exp": None},
        {"iat": None},
        {"sub": None},
        {"epoch": None},
        {"exp": "soon"},
        {"exp": True},
        {"iat": "then"},
        {"nbf": 2**40},
        {"exp": float("inf"), "iat": float("inf")},
        {"epoch": "1"},
        {"epoch": True},
        {"epoch": -1},
        {"epoch": 1.0},
    ],
    ids=str,
)
def test_token_with_anything_wrong_is_refused(changed: dict[str, Any]) -> None:
    assert refusal(f"Bearer {token('w_a', **changed)}")[0] == 401


def test_empty_worker_is_refused() -> None:
    assert refusal(f"Bearer {token('')}") == (401, "token_invalid")


def test_unsigned_token_is_refused_whatever_it_says() -> None:
    claims = jwt.decode(token("w_a"), options={"verify_signature": False})
    for algorithm in ("none", "None", "NONE", "HS256"):
        parts = [{"alg": algorithm, "typ": "JWT", "kid": KID}, claims]
        text = ".".join(
            base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts
        )
        assert refusal(f"Bearer {text}.") == (401, "token_invalid")


@pytest.mark.parametrize("kid", [None, 5, ["k2"], {"k2": 1}])
def test_key_id_that_is_no_text_is_refused_and_does_not_crash(kid: object) -> None:
    head, body, _ = token("w_a").split(".")
    forged = (
        base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "typ": "JWT", "kid": kid}).encode())
        .decode()
        .rstrip("=")
    )
    assert refusal(f"Bearer {forged}.{body}.{head}") == (401, "token_invalid")


def test_remembered_token_still_expires_and_one_changed_letter_is_another_token() -> None:
    tokens = Tokens({KID: KEY})
    text = token("w_a", iat=1_000, exp=2_000)
    for now in (1_500, 1_600):
        assert tokens.read(f"Bearer {text}", now=now) == Claims("w_a", 1)
    with pytest.raises(Refused) as caught:
        tokens.read(f"Bearer {text}", now=3_000)
    assert caught.value.code == "token_expired"
    changed = text[:-5] + ("A" if text[-5] != "A" else "B") + text[-4:]
    with pytest.raises(Refused) as caught:
        tokens.read(f"Bearer {changed}", now=1_500)
    assert caught.value.code == "token_invalid"


def test_tokens_are_not_remembered_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.tokens.REMEMBERED_TOKENS", 10)
    tokens = Tokens({KID: KEY})
    for n in range(35):
        tokens.read(f"Bearer {token(f'w_{n}')}", now=time.time())
    assert len(tokens._verified) <= 10
