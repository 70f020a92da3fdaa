"""The checks of keys, each by itself; what they say of a document stands in test_structure."""

from __future__ import annotations

import pytest

from edge.checks import Rule, between, host, is_address, one_of, rule, text


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (one_of(1, 2, "tcp"), "tcp"),
        (between(1, 5), 1),
        (between(1, 5), 5),
        (text(4), "abcd"),
        (text(4), "é ü"),
    ],
)
def test_a_check_lets_through_what_it_wants(check: Rule, value: object) -> None:
    check(value)


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (one_of("tcp", "rtu"), "TPC", "must be tcp | rtu, not 'TPC'; did you mean 'tcp'?"),
        (one_of(1, 2), 3, "must be 1 | 2, not 3"),
        (between(1, 50_000, "W"), 0, "must be 1 to 50,000 W, not 0"),
        (between(1, 5), 5.1, "must be 1 to 5, not 5.1"),
        (text(4), "abcde", "must be at most 4 characters, not 5"),
    ],
)
def test_a_check_says_what_it_wants_and_what_it_got(
    check: Rule, value: object, message: str
) -> None:
    with pytest.raises(ValueError, match="must be") as refused:
        check(value)
    assert str(refused.value) == message


def test_a_rule_can_be_read() -> None:
    @rule(multipleOf=2)
    def even(value: int) -> None:
        if value % 2:
            raise ValueError("must be even")

    assert dict(even.schema) == {"multipleOf": 2}
    with pytest.raises(ValueError, match="must be even"):
        even(3)


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("192.168.1.2", True), ("::1", True), ("fe80::1%eth0", True),
        ("meter", False), ("meter.local", False), ("_wago-1", False), ("3com", False),
    ],
)  # fmt: skip
def test_a_host_is_a_name_or_an_address(value: str, address: bool) -> None:
    host(value)
    assert is_address(value) is address


@pytest.mark.parametrize("value", ["", "10.1", "h:1", "http://h", "a b", "-h", "[::1]", "ä", "1."])
def test_what_is_no_host(value: str) -> None:
    with pytest.raises(ValueError, match="must be a bare host name or IP address like"):
        host(value)


def test_what_may_be_a_password_before_a_host_is_not_shown() -> None:
    with pytest.raises(ValueError, match="the port goes into 'port'") as refused:
        host("me:s3cret@h")
    assert "s3cret" not in str(refused.value)
