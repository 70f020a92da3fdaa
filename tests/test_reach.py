"""What meters may reach: how addresses are judged, and what a registration may give."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.meterspec import References
from edge.reach import ANYWHERE, METADATA, Reach, parse_network
from tests.registrations import faults_of, parse
from tests.service import Service

SITE = Reach.of(["192.168.1.0/24", "10.0.0.7", "fd00:1::/32", "fe80::/10"])
NOWHERE_NEAR = "is in none of the networks that meters may be in"
CREDENTIALS = "hands out a cloud machine's credentials"


# --- Addresses ---


@pytest.mark.parametrize(
    "address",
    [
        "192.168.1.0",
        "192.168.1.255",
        "10.0.0.7",
        "::ffff:192.168.1.5",
        "::FFFF:c0a8:0105",
        "64:ff9b::192.168.1.5",
        "fd00:1::5",
        "fe80::1%eth0",
    ],
)
def test_what_is_in_one_of_the_networks_is_allowed(address: str) -> None:
    assert SITE.refusal(address) is None


@pytest.mark.parametrize(
    "address",
    [
        "192.168.2.0",
        "10.0.0.8",
        "127.0.0.1",
        "0.0.0.0",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.8",
        "::192.168.1.5",
        "64:ff9b::10.0.0.8",
        "fd00:2::1",
        "2001:db8::1%eth0",
    ],
)
def test_what_is_in_none_of_them_is_refused(address: str) -> None:
    refusal = SITE.refusal(address)
    assert refusal is not None
    assert refusal.startswith(NOWHERE_NEAR)
    assert "security.allowed_networks" in refusal
    assert ANYWHERE.refusal(address) is None


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.170.2",
        "fd00:ec2::254",
        "FD00:0EC2:0::0254",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "64:ff9b::a9fe:a9fe",
        "fd00:ec2::254%eth0",
        "fe80::a9fe:a9fe%eth0",
    ],
)
def test_where_clouds_hand_out_credentials_is_allowed_to_nobody(address: str) -> None:
    everywhere = Reach.of(["0.0.0.0/0", "::/0"])
    for reach in (ANYWHERE, everywhere, Reach.of(["169.254.0.0/16", "fd00::/8"])):
        refusal = reach.refusal(address)
        assert refusal is not None
        assert refusal.startswith(CREDENTIALS)


def test_each_address_of_credentials_is_one_address() -> None:
    assert [network.num_addresses for network in METADATA] == [1] * len(METADATA)


@pytest.mark.parametrize("address", ["169.254.169.253", "169.254.1.1", "fd00:ec2::255"])
def test_beside_them_there_may_be_meters(address: str) -> None:
    assert ANYWHERE.refusal(address) is None


@pytest.mark.parametrize(
    "name", ["meter.local", "localhost", "0xa9fea9fe", "2852039166", "169.254.43518", "", "x" * 300]
)
def test_a_name_is_no_address(name: str) -> None:
    assert SITE.refusal(name) is None


@given(st.ip_addresses(v=4), st.integers(0, 32), st.ip_addresses(v=4))
def test_an_address_is_allowed_just_where_its_leading_bits_are_those(
    address: ipaddress.IPv4Address, length: int, other: ipaddress.IPv4Address
) -> None:
    network = ipaddress.ip_network((other, length), strict=False)
    reach = Reach.of([str(network)])
    metadata = str(address) in {"169.254.169.254", "169.254.170.2", "169.254.170.23"}
    same = int(address) >> (32 - length) == int(other) >> (32 - length)
    assert (reach.refusal(str(address)) is None) == (same and not metadata)
    assert reach.refusal(f"::ffff:{address}") == reach.refusal(str(address))


# --- Networks ---


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.168.1.0/24", "192.168.1.0/24"),
        ("192.168.1.5", "192.168.1.5/32"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("FD00::/8", "fd00::/8"),
        ("::1", "::1/128"),
    ],
)
def test_a_network_in_text(text: str, network: str) -> None:
    assert str(parse_network(text)) == network


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("192.168.1.5/24", "write 192.168.1.0/24, or leave the length out"),
        ("fd00::1/8", "write fd00::/8, or leave the length out"),
        ("::ffff:192.168.1.0/120", "is one of IPv4; write 192.168.1.0/24"),
        ("fe80::1%eth0", "leave %… out"),
        ("fe80::%eth0/10", "leave %… out"),
        ("meter.local", "write it like 192.168.1.0/24"),
        ("192.168.1.0/33", "write it like"),
        ("192.168.1.0/-1", "write it like"),
        ("192.168.001.0/24", "write it like"),
        ("3232235776", "write it like"),
        ("192.168.1.*", "write it like"),
        ("192.168.1.0/24/24", "write it like"),
        (" 192.168.1.0/24", "write it like"),
        ("", "write it like"),
    ],
)
def test_text_that_is_no_network_is_told_how_to_be_one(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_network(text)
    with pytest.raises(ValueError, match=re.escape(says)):
        Reach.of(["10.0.0.0/8", text])


@given(st.text(max_size=20) | st.from_regex(r"[0-9a-f:.]{1,12}(/[0-9.]{1,3})?", fullmatch=True))
def test_any_text_is_a_network_or_is_told_why_not(text: str) -> None:
    sentence, network = "", None
    try:
        network = parse_network(text)
    except ValueError as exc:
        sentence = str(exc)
    assert sentence.isprintable()
    assert network is None or parse_network(str(network)) == network


# --- Registrations ---


def registration(protocol: str, **communication: Any) -> dict[str, Any]:
    return {
        "name": "Main",
        "protocol": protocol,
        "meterType": "grid",
        "communication": communication,
    }


def modbus(host: str, **communication: Any) -> dict[str, Any]:
    return registration("modbus", host=host, registers={"power": 0}, **communication)


def http(host: str) -> dict[str, Any]:
    return registration("http", url=f"http://{host}/api")


def limited(reach: Reach | None) -> References:
    return References(reach=reach)


@pytest.mark.parametrize("transport", ["tcp", "rtu-over-tcp"])
def test_a_modbus_meter_elsewhere_is_not_registered(transport: str) -> None:
    faults = faults_of(modbus("192.168.2.5", transport=transport), limited(SITE))
    assert list(faults) == ["communication.host"]
    assert faults["communication.host"].startswith(f"192.168.2.5 {NOWHERE_NEAR};")
    parse(modbus("192.168.1.5", transport=transport), limited(SITE))


def test_an_http_meter_elsewhere_is_not_registered() -> None:
    faults = faults_of(http("192.168.2.5:8080"), limited(SITE))
    assert list(faults) == ["communication.url"]
    assert faults["communication.url"].startswith(f"192.168.2.5 {NOWHERE_NEAR};")
    parse(http("192.168.1.5:8080"), limited(SITE))


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "::ffff:169.254.169.254", "0:0::ffff:a9fe:a9fe", "fd00:ec2::254"]
)
def test_nor_one_where_credentials_are_handed_out(address: str) -> None:
    ((path, message),) = faults_of(modbus(address), limited(ANYWHERE)).items()
    assert path == "communication.host"
    assert CREDENTIALS in message
    bracketed = f"[{address}]" if ":" in address else address
    ((path, message),) = faults_of(http(bracketed), limited(ANYWHERE)).items()
    assert path == "communication.url"
    assert CREDENTIALS in message


@pytest.mark.parametrize(
    "spelling",
    [
        "2852039166",
        "0251.0376.0251.0376",
        "169.254.43518",
        "169.16689662",
        "169.254.169.254.",
        "%31%36%39.254.169.254",
    ],
)
def test_other_spellings_of_an_address_are_no_host(spelling: str) -> None:
    assert list(faults_of(modbus(spelling), limited(ANYWHERE))) == ["communication.host"]
    assert list(faults_of(http(spelling), limited(ANYWHERE))) == ["communication.url"]


@pytest.mark.parametrize("host", ["meter.local", "0xa9fea9fe", "169.254.169.254.nip.io"])
def test_a_name_is_judged_when_it_is_connected_to(host: str) -> None:
    parse(modbus(host), limited(SITE))
    parse(http(host), limited(SITE))


def test_a_serial_meter_and_one_behind_a_broker_are_not_limited() -> None:
    serial = registration(
        "modbus", transport="rtu", serialPort="/dev/ttyUSB0", registers={"power": 0}
    )
    parse(serial, limited(SITE))
    parse(registration("mqtt", topicPower="a"), limited(SITE))


def test_where_nothing_limits_it_a_registration_may_give_any_address() -> None:
    """As one that was stored before it was limited: who connects refuses it."""
    parse(modbus("169.254.169.254"), limited(None))
    parse(http("169.254.169.254"), limited(None))


# --- The service ---


def limit(service: Service, network: str) -> None:
    service.config_file.write_text(f'[security]\nallowed_networks = ["{network}"]\n')


def test_a_meter_that_is_not_allowed_any_more_stops_no_start(tmp_path: Path) -> None:
    address = "127.0.0.1"
    with Service(tmp_path) as service:
        meter_id = service.register(modbus(address))["id"]
    limit(service, "10.0.0.0/8")
    with service:
        path = f"/api/energy-meters/{meter_id}"
        service.wait_until(lambda: service.data(path)["status"] == "error", "the meter's error")
        assert service.data(path)["lastError"].startswith(f"{address} {NOWHERE_NEAR}")
        status, answer = service.request("POST", "/api/energy-meters/test", modbus(address))
        assert (status, answer["code"]) == (400, "VALIDATION_ERROR")
        assert [detail["field"] for detail in answer["details"]] == ["communication.host"]
        status, answer = service.request("PUT", path, {"communication": {"host": "10.0.0.9"}})
        assert status == 200, answer
