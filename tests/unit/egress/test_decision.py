"""Which names and addresses a sandbox may reach: hostile spellings in, one spelling or a refusal out."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import parse_destination
from sandbox.egress.addresses import refusal
from sandbox.egress.decision import (
    RefusedError,
    Rules,
    Target,
    parse_authority,
    parse_host,
    parse_port,
    parse_url,
    same_authority,
)

RULES = Rules(
    tuple(map(parse_destination, ("api.example.com:443", "*.files.example.org:443", "8.8.4.4:443"))),
    "policies/pack.yaml:3",
)


@pytest.mark.parametrize("text", ["api.example.com:443", "API.Example.COM:443", "api.example.com.:443"])
def test_one_name_in_any_spelling_is_allowed(text: str) -> None:
    assert "api.example.com:443" in RULES.decide(parse_authority(text))


@pytest.mark.parametrize(
    "text",
    [
        "api.example.com:80",
        "api.example.com:4430",
        "example.com:443",
        "xapi.example.com:443",
        "api.example.com.evil.org:443",
        "files.example.org:443",
        "a.b.files.example.org:443",
        "8.8.8.8:443",
        "8.8.4.4:80",
        "[2001:4860:4860::8888]:443",
    ],
)
def test_what_is_not_named_is_refused_with_the_line_to_write(text: str) -> None:
    with pytest.raises(RefusedError, match=r"not in network\.allow.*policies/pack\.yaml:3.*add '"):
        RULES.decide(parse_authority(text))


def test_a_wildcard_is_one_label_and_an_address_is_itself() -> None:
    assert RULES.decide(Target("a.files.example.org", 443))
    assert RULES.decide(parse_authority("8.8.4.4:443"))


@pytest.mark.parametrize(
    "text",
    [
        "127.1", "0x7f000001", "0x7f.0.0.1", "2130706433", "0177.0.0.1", "127.0.0.1.", "0.0.0.0.0", "1.2.3.4.5",
        "[::1", "::1", "[::0:1]", "[::FFFF:127.0.0.1]", "[::ffff:7f00:1]x", "[fe80::1%eth0]", "127.0.0.1%00",
        "example.0x7f", "a.b.1", "[127.0.0.1]", "0x", "\uff11\uff12\uff17.0.0.1", "ⓔxample.com", "exa mple.com", "a..b",
        ".a", "",
        "-a.com", "a-.com", "a" * 64 + ".com", "a." * 130 + "com", "a\x00.com", "a.com\r\nHost: b", "a/b", "a\\b",
        "a?b", "a#b", "a@b", "a%2eb", "*.com", "a,b", "a;b", "a.com..", "\u202eexample.com", "exämple.com",
    ],
)  # fmt: skip
def test_odd_spellings_are_no_host(text: str) -> None:
    with pytest.raises(RefusedError):
        parse_host(text)


@pytest.mark.parametrize(
    "text",
    ["", ":443", "a.com", "a.com:", "a.com:0", "a.com:65536", "a.com:0443", "a.com:+443", "a.com: 443",
     "a.com:\uff14\uff14\uff13",
     "u@a.com:443", "u:p@a.com:443", "a.com:443:443", "a.com:443/", "a.com:0x1bb", "a.com:443\n", "[::1]", "a.com:-1",
     "https://a.com:443"],
)  # fmt: skip
def test_an_authority_is_a_host_and_a_port_and_nothing_else(text: str) -> None:
    with pytest.raises(RefusedError):
        parse_authority(text)


@pytest.mark.parametrize(
    ("text", "target", "path"),
    [
        ("http://a.com/", "a.com:80", "/"),
        ("HTTP://A.com:8080/x?y=http://b.com", "a.com:8080", "/x?y=http://b.com"),
        ("http://a.com", "a.com:80", "/"),
        ("http://a.com?q", "a.com:80", "/?q"),
        ("http://a.com/@b.com", "a.com:80", "/@b.com"),
    ],
)
def test_the_host_of_a_url_ends_where_its_path_begins(text: str, target: str, path: str) -> None:
    found, rest = parse_url(text)
    assert (str(found), rest) == (target, path)


@pytest.mark.parametrize(
    "text",
    ["https://a.com/", "ftp://a.com/", "file:///etc/passwd", "//a.com/", "/x", "*", "http://u@a.com/", "http:///x",
     "http://a.com#f", "http://a.com:80:80/", "http://a.com\\@b.com/", "http:/a.com/", "gopher://a.com:70/_x",
     "http://[::1%25lo]/", "http://a.com:99999/", "javascript:alert(1)"],
)  # fmt: skip
def test_other_urls_are_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        parse_url(text)


def test_a_host_header_names_exactly_the_target() -> None:
    target = Target("a.com", 443)
    assert same_authority("A.com", target, default_port=443)
    assert same_authority("a.com:443", target, default_port=443)
    for text in ("b.com", "a.com:80", "a.com, b.com", "x@a.com", "", "a.com:443:443", "a.com b.com"):
        assert not same_authority(text, target, default_port=443)


@given(st.text(max_size=60))
def test_whatever_is_sent_a_host_has_one_spelling_or_is_refused(text: str) -> None:
    try:
        host = parse_host(text)
    except RefusedError:
        return
    assert parse_host(host) == host
    assert host.isascii()
    assert host == host.lower()
    assert not set(host) & set("@/\\?#% \t\r\n[]")


@given(st.text(alphabet="0123456789abcdefx.:[]@/%-", max_size=40))
def test_what_the_library_reads_as_an_address_is_never_taken_for_a_name(text: str) -> None:
    try:
        target = parse_authority(text)
    except RefusedError:
        return
    try:
        ipaddress.ip_address(target.host)
    except ValueError:
        assert not target.is_address
    else:
        assert target.is_address


@given(st.integers(), st.integers(min_value=0, max_value=8))
def test_a_port_is_written_in_one_way(number: int, zeros: int) -> None:
    text = "0" * zeros + str(number)
    if zeros == 0 and 1 <= number <= 65535:
        assert parse_port(text) == number
    else:
        with pytest.raises(RefusedError):
            parse_port(text)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.8.8.8", "169.254.169.254",
        "169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1",
        "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1",
        "255.255.255.255", "168.63.129.16",
        "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:8.8.8.8", "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:808:808::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1", "2001:10::1", "2001:20::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1",
        "fe80::a9fe:a9fe", "fec0::1", "ff02::1", "100::1", "4000::1", "2a00:1450:4001:81b:0:5efe:7f00:1",
        "2606:4700::200:5efe:a00:1", "2606:4700::1%eth0", "no address", "", "8.8.8", "0x8080808",
    ],
)  # fmt: skip
def test_nobody_is_connected_to_what_is_not_a_public_host(address: str) -> None:
    assert refusal(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450::1"]
)
def test_public_hosts_may_be_connected_to(address: str) -> None:
    assert refusal(address) is None


@given(st.ip_addresses())
def test_every_address_that_may_be_connected_to_is_global(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if refusal(str(address)) is None:
        assert address.is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_gets_through_in_disguise(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for text in (
        f"::ffff:{address}",
        f"::{address}",
        str(ipaddress.IPv6Address(0x0064FF9B << 96 | number)),
        str(ipaddress.IPv6Address(0x2002 << 112 | number << 80 | 1)),
        str(ipaddress.IPv6Address(0x20010000 << 96 | number ^ 0xFFFFFFFF)),
        str(ipaddress.IPv6Address(0x2A001450 << 96 | 0x00005EFE << 32 | number)),
    ):
        assert refusal(text), text
