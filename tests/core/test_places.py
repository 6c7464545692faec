"""Which addresses may be asked at all."""

from __future__ import annotations

import ipaddress

import pytest

from core.places import NotAllowed, Place, Reach, is_near, is_public, target_of


def reach(*rules: str, private: tuple[str, ...] = ()) -> Reach:
    return Reach(
        places=tuple(Place.parse(rule) for rule in rules),
        private=tuple(ipaddress.ip_network(network) for network in private),
    )


@pytest.mark.parametrize(
    ("rule", "url"),
    [
        ("https://health.example.org", "https://health.example.org/health"),
        ("https://health.example.org", "https://HEALTH.example.org.:443/health"),
        ("https://*.example.org", "https://a.b.example.org/health"),
        ("https://*", "https://anything.example.org/health"),
        ("http://10.1.0.0/16:8081", "http://10.1.255.3:8081/health"),
        ("http://10.1.2.3:*", "http://10.1.2.3:999/health"),
        ("http://[fd00::/8]:8081", "http://[fd12::1]:8081/health"),
    ],
)
def test_what_a_rule_names_may_be_asked(rule: str, url: str) -> None:
    assert reach(rule).target(url).path == "/health"


@pytest.mark.parametrize(
    "url",
    [
        "http://health.example.org/health",  # another scheme
        "https://health.example.org:8443/health",  # another port
        "https://health.example.org.evil.test/health",
        "https://evilhealth.example.org/health",
        "https://example.org/health",
        "https://health.example.org@evil.test/health",
        "https://user:word@health.example.org/health",
        "ftp://health.example.org/health",
        "//health.example.org/health",
        "https:///health",
        "https://health.example.org:99999/health",
        "https://[::1/health",
        "https://health.example.org/he alth",
        "https://health.example.org/\r\nX: 1",
        "https://héalth.example.org/health",
        "",
    ],
)
def test_whatever_no_rule_names_may_not(url: str) -> None:
    with pytest.raises(NotAllowed):
        reach("https://health.example.org", "https://*.health.example.org").target(url)


def test_a_rule_about_names_below_one_is_not_about_numbers() -> None:
    with pytest.raises(NotAllowed):
        reach("http://*.1").target("http://10.0.0.1/")


@pytest.mark.parametrize(
    "rule",
    ["example.org", "ftp://example.org", "https://", "https://a b", "https://x:0", "https://x:99999",
     "https://10.0.0.0/33", "https://10.0.0.1/8", "https://[::1", "https://x/health", "https://a..b", "https://999.1"],
)  # fmt: skip
def test_a_rule_that_means_nothing_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match=r"is not|names"):
        Place.parse(rule)


@pytest.mark.parametrize(
    "number",
    ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "::1", "::", "fd00::1", "fe80::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1",
     "::ffff:169.254.169.254", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "64:ff9b:1:fffe::5db8:d70e", "::10.0.0.1",
     "::93.184.215.14", "3fff::1", "5f00::1", "2002:7f00:1::", "192.0.2.1", "198.18.0.1"],
)  # fmt: skip
def test_what_is_not_of_the_internet_is_not_public(number: str) -> None:
    assert not is_public(ipaddress.ip_address(number))


@pytest.mark.parametrize(
    "number", ["93.184.215.14", "2606:2800:21f::1", "::ffff:93.184.215.14", "64:ff9b::5db8:d70e"]
)
def test_what_is_of_the_internet_is_public(number: str) -> None:
    assert is_public(ipaddress.ip_address(number))


def test_a_name_may_be_private_only_where_its_network_is_configured() -> None:
    target = target_of("https://health.example.org/health")
    named = reach("https://health.example.org")
    assert named.refusal(target, "93.184.215.14") is None
    assert "not a public address" in str(named.refusal(target, "10.1.2.3"))
    assert reach("https://health.example.org", private=("10.1.0.0/16",)).refusal(target, "10.1.2.3") is None
    assert reach("https://health.example.org", private=("10.1.0.0/16",)).refusal(target, "10.2.0.1")


def test_a_number_that_a_rule_names_is_configured_for_itself_alone() -> None:
    here = reach("http://10.1.0.0/16:8081", "https://*")
    number = target_of("http://10.1.2.3:8081/health")
    assert here.refusal(number, "10.1.2.3") is None
    assert here.refusal(target_of("https://rebound.example.org/"), "10.1.2.3")


@pytest.mark.parametrize(
    ("url", "near"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://localhost", True),
        ("http://pool.localhost:8000", True),
        ("http://[::1]:8000", True),
        ("https://10.1.2.3", True),
        ("https://169.254.1.1", True),
        ("http://0.0.0.0:8000", True),
        ("http://pool:8000", True),
        ("https://rack.local", True),
        ("https://pool.example.com", False),
        ("http://93.184.215.14", False),
        ("https://[2606:2800:21f::1]", False),
    ],
)
def test_addresses_that_lead_nowhere_from_outside_are_known_by_their_text(url, near):
    assert is_near(url) is near
