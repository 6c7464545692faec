from __future__ import annotations

import pytest

from gateway.answers import Refused
from gateway.headers import Pairs, Target, read_target, to_client, to_web

PATH = Target("/", "")


def sent(
    *pairs: tuple[str, str], trusted_proxies: int = 0, peer: str | None = "9.9.9.9", target: Target = PATH
) -> Pairs:
    return list(to_web(pairs, peer=peer, trusted_proxies=trusted_proxies, target=target).items())


def names(pairs: Pairs) -> set[str]:
    return {name.lower() for name, _ in pairs}


@pytest.mark.parametrize(
    ("raw", "target"),
    [
        ("/a%2Fb/../c//d;x?y=%20+&z=%zz", Target("/a%2Fb/../c//d;x", "y=%20+&z=%zz")),
        ("//evil.example/x", Target("//evil.example/x", "")),
        ("/a?b?c", Target("/a", "b?c")),
        ("/é", Target("/é", "")),
        ("http://h:1/a?b", Target("/a", "b", "h:1")),
        ("HTTPS://user:pw@h", Target("/", "", "h")),
        ("http://h?b", Target("/", "b", "h")),
    ],
)
def test_target_keeps_its_spelling(raw: str, target: Target) -> None:
    assert read_target(raw) == target


@pytest.mark.parametrize("raw", ["*", "h:443", "", "a/b", "http:///a", "http://[/a", "/\udcff", "?a"])
def test_target_that_is_no_path_is_refused(raw: str) -> None:
    with pytest.raises(Refused) as caught:
        read_target(raw)
    assert caught.value.status == 400


def test_hop_by_hop_headers_stay_behind_in_both_directions() -> None:
    pairs = [
        (name, "x")
        for name in ("Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Connection")
    ]
    pairs += [("Connection", "close, X-Mine"), ("X-Mine", "1"), ("X-Other", "2"), ("Expect", "100-continue")]
    assert names(sent(*pairs)) == {"x-other", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}
    assert names(to_client(pairs).items()) == {"x-other", "expect"}


def test_host_survives_a_client_that_calls_it_hop_by_hop() -> None:
    assert ("Host", "h") in sent(("Host", "h"), ("Connection", "Host, X-Forwarded-For"))


@pytest.mark.parametrize("name", ["X_Forwarded_For", "SCRIPT_NAME", "Path_Info", "REMOTE_USER"])
def test_header_with_an_underscore_never_reaches_wsgi(name: str) -> None:
    assert name.lower() not in names(sent((name, "x")))


@pytest.mark.parametrize(
    "name",
    [
        "Forwarded",
        "X-Real-IP",
        "X-Forwarded-Ssl",
        "X-Forwarded-Protocol",
        "X-Forwarded-Port",
        "X-Scheme",
        "Proxy",
    ],
)
def test_what_only_a_proxy_may_say_is_not_taken_from_a_client(name: str) -> None:
    assert name.lower() not in names(sent((name, "on"), trusted_proxies=1))


@pytest.mark.parametrize(
    ("trusted_proxies", "received", "believed"),
    [
        (0, [], "9.9.9.9"),
        (0, ["1.1.1.1"], "9.9.9.9"),
        (1, ["1.1.1.1"], "1.1.1.1"),
        (1, ["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
        (1, ["6.6.6.6", "1.1.1.1"], "1.1.1.1"),
        (2, ["6.6.6.6, 1.1.1.1, 2.2.2.2"], "1.1.1.1"),
        (2, ["1.1.1.1"], "1.1.1.1"),
        (1, ["2001:db8::1"], "2001:db8::1"),
        (1, [], "9.9.9.9"),
        (1, ["<script>"], "9.9.9.9"),
        (1, ["1.1.1.1, "], "9.9.9.9"),
    ],
)
def test_client_cannot_choose_its_address(trusted_proxies: int, received: list[str], believed: str) -> None:
    pairs = dict(sent(*(("X-Forwarded-For", value) for value in received), trusted_proxies=trusted_proxies))
    assert pairs["X-Forwarded-For"] == believed


@pytest.mark.parametrize(
    ("trusted_proxies", "said", "believed"),
    [(0, "https", "http"), (1, "https", "https"), (1, "https, http", "http"), (1, "gopher", "http")],
)
def test_only_a_trusted_proxy_says_that_the_request_came_by_https(
    trusted_proxies: int, said: str, believed: str
) -> None:
    assert (
        dict(sent(("X-Forwarded-Proto", said), trusted_proxies=trusted_proxies))["X-Forwarded-Proto"]
        == believed
    )


@pytest.mark.parametrize(("trusted_proxies", "believed"), [(0, "here"), (1, "public")])
def test_forwarded_host(trusted_proxies: int, believed: str) -> None:
    pairs = dict(sent(("Host", "here"), ("X-Forwarded-Host", "public"), trusted_proxies=trusted_proxies))
    assert (pairs["Host"], pairs["X-Forwarded-Host"]) == ("here", believed)


def test_host_of_an_absolute_target_counts_more_than_the_header() -> None:
    pairs = sent(("Host", "spoofed"), target=Target("/", "", "real"))
    assert [value for name, value in pairs if name == "Host"] == ["real"]


def test_repeated_headers_stay_repeated_and_in_order() -> None:
    cookies = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    assert list(to_client(cookies).items()) == cookies


def test_length_beside_an_encoding_is_not_believed() -> None:
    assert names(to_client([("Transfer-Encoding", "chunked"), ("Content-Length", "5")]).items()) == set()
