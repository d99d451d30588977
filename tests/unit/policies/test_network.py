"""What an allowlist can name, in which spelling, and what it allows."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import FieldError
from policies.network import Destination, parse_destination, plain_host, uncovered, why_not_public


@pytest.mark.parametrize(
    "text",
    ["api.example.com:443", "*.example.org:8443", "1.1.1.1:53", "[2606:4700::1111]:443", "xn--bcher-kva.example:443"],
)  # fmt: skip
def test_a_destination_in_its_plain_form_is_kept_as_written(text: str) -> None:
    assert str(parse_destination(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("api.example.com", "has no port; write 'api.example.com:443'"),
        ("2606:4700::1111", "has no port; write '[2606:4700::1111]:443'"),
        ("https://api.example.com:443", "without 'https://' and path"),
        ("user@api.example.com:443", "is not a destination"),
        ("api.example.com:443/v1", "is not a destination"),
        ("api.example.com:0", "has no port from 1 to 65535"),
        ("api.example.com:65536", "has no port from 1 to 65535"),
        ("api.example.com:0443", "has no port from 1 to 65535"),
        ("api.example.com:*", "has no port from 1 to 65535"),
        ("API.example.com:443", "is not in its plain form; write 'api.example.com:443'"),
        ("api.example.com.:443", "is not in its plain form; write 'api.example.com:443'"),
        ("b\u00fccher.example:443", "is not in ASCII"),
        ("\u0430pi.example.com:443", "is not in ASCII"),
        ("*.com:443", "is one label only"),
        ("*:443", "stands for the whole first label only"),
        ("*.*.example.org:443", "stands for the whole first label only"),
        ("a*.example.org:443", "stands for the whole first label only"),
        ("*.1.1.1.1:443", "a wildcard stands before a name"),
        ("localhost:443", "is one label only"),
        ("db:5432", "is one label only"),
        ("metadata.google.internal:80", "a name of a private network"),
        ("printer.local:631", "a name of a private network"),
        ("1.0.0.127.in-addr.arpa:53", "a name of a private network"),
        ("127.0.0.1:80", "is this machine"),
        ("0.0.0.0:80", "is this machine"),
        ("127.1:80", "odd spelling of an address"),
        ("2130706433:80", "odd spelling of an address"),
        ("0x7f000001:80", "odd spelling of an address"),
        ("0177.0.0.1:80", "odd spelling of an address"),
        ("api.example.0x1:80", "odd spelling of an address"),
        ("10.1.2.3:80", "an address of a private network"),
        ("100.64.0.1:80", "inside a provider's network"),
        ("169.254.169.254:80", "where metadata services are"),
        ("168.63.129.16:80", "a metadata service"),
        ("224.0.0.1:80", "a multicast address"),
        ("255.255.255.255:80", "an address of a private network"),
        ("[::1]:80", "is this machine"),
        ("[::]:80", "is this machine"),
        ("[fe80::1]:80", "link-local"),
        ("[fd00::1]:80", "an address of a private network"),
        ("[::ffff:1.1.1.1]:80", "in disguise"),
        ("[::ffff:127.0.0.1]:80", "in disguise"),
        ("[64:ff9b::7f00:1]:80", "in disguise"),
        ("[2002:7f00:1::]:80", "in disguise"),
        ("[2606:4700:0::1111]:80", "is not in its plain form; write '[2606:4700::1111]:80'"),
        ("[1.1.1.1]:80", "is not a host"),
        ("a..example.com:443", "is not a host name"),
        ("-a.example.com:443", "is not a host name"),
        ("a_b.example.com:443", "is not a host name"),
        ("ab--c.example.com:443", "names that begin with 'xn--'"),
        (f"{'a' * 64}.example.com:443", "is not a host name"),
        ("api.example.com :443", "is not a host name"),
        ("api.example.com\n:443", "is not a host name"),
        ("api.example.com:443\n", "has no port from"),
        ("", "is not a destination"),
        ("a" * 400, "is not a destination"),
        (443, "is not a destination"),
    ],
)  # fmt: skip
def test_what_an_allowlist_cannot_hold_is_refused_with_what_to_write(text: object, said: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse_destination(text)
    assert said in str(caught.value)


def test_a_name_allows_itself_at_its_port_and_nothing_else() -> None:
    rule = parse_destination("api.example.com:443")
    assert rule.allows("api.example.com", 443)
    for host, port in (("api.example.com", 80), ("example.com", 443), ("x.api.example.com", 443), ("", 443)):
        assert not rule.allows(host, port)


def test_a_wildcard_is_one_label() -> None:
    rule = parse_destination("*.example.org:443")
    assert rule.allows("a.example.org", 443)
    for host in ("example.org", "a.b.example.org", ".example.org", "aexample.org", "a.example.org.evil.com"):
        assert not rule.allows(host, 443)


def test_a_ceiling_covers_what_lies_in_it() -> None:
    ceiling = ("*.example.org:443", "api.example.com:443")
    assert uncovered(("a.example.org:443", "*.example.org:443", "api.example.com:443"), ceiling) == ()
    wanted = ("example.org:443", "a.b.example.org:443", "api.example.com:80", "*.example.com:443")
    assert uncovered(wanted, ceiling) == wanted
    assert uncovered(wanted, ("any",)) == ()
    assert uncovered(wanted, ()) == wanted


@given(st.text(max_size=80))
def test_a_host_is_plain_or_refused_and_plain_once_is_plain_for_good(text: str) -> None:
    try:
        plain = plain_host(text)
    except FieldError:
        return
    bracketed = f"[{plain}]" if ":" in plain else plain
    assert plain_host(bracketed) == plain
    assert plain.isascii()
    assert plain == plain.lower()


@given(st.ip_addresses())
def test_no_private_address_is_called_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if why_not_public(address) is None:
        assert address.is_global
        assert not any((address.is_private, address.is_multicast, address.is_loopback, address.is_link_local))
        if isinstance(address, ipaddress.IPv6Address):
            assert address.ipv4_mapped is None
            assert address.sixtofour is None
            assert address.teredo is None


LABELS = st.text("ab", min_size=1, max_size=2)
ENTRIES = st.builds(
    Destination,
    st.lists(LABELS, min_size=2, max_size=3).map(".".join),
    st.sampled_from([80, 443]),
    st.booleans(),
)


@given(ENTRIES, ENTRIES, st.lists(LABELS, min_size=2, max_size=4).map(".".join), st.sampled_from([80, 443]))
def test_what_covers_an_entry_allows_all_that_the_entry_allows(
    cap: Destination, entry: Destination, host: str, port: int
) -> None:
    if cap.covers(entry) and entry.allows(host, port):
        assert cap.allows(host, port)
