"""Every template of the device library against its proofs in `tests/wire/<template>/<case>.toml`.

A case holds what a registration gives beside the template, what is exchanged with the device, and
the reading that must come of it, computed by hand or taken from the maker's published example:

    [[exchange]]  request, reply: unit id and PDU in hexadecimal
    [[registers]] address, words: what a device holds whose registers are found by discovery
    [[message]]   topic, payload, retain: in the order they arrive
    [[response]]  target, body
    [expected]    quantity = value in its unit; nothing else may be read
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edge.clock import Clock
from edge.communication import (
    HttpCommunication,
    HttpEndpoint,
    ModbusCommunication,
    ModbusEndpoint,
    ReadRequest,
    Register,
)
from edge.drivers.http import HttpDriver
from edge.drivers.modbus import ModbusDriver
from edge.drivers.modbus.reader import ModbusReader
from edge.drivers.mqtt.news import Message, MeterNews
from edge.library import Library
from edge.meterspec import References, parse_meter
from edge.model import Meter
from tests.http_peer import Authority, http_peer
from tests.peers import LibmodbusServer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WIRE = Path(__file__).resolve().parent / "wire"
LIBRARY = Library()
CASES = sorted(path for path in WIRE.glob("*/*.toml"))
NAMES = [f"{path.parent.name}/{path.stem}" for path in CASES]
WITH_EXAMPLES = [name for name in LIBRARY if LIBRARY[name].examples]
MODBUS = [
    name
    for name in LIBRARY
    if LIBRARY[name].protocol == "modbus" and "sunspec" not in LIBRARY[name].communication
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def load(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def the_meter(template: str, beside: dict[str, Any]) -> Meter:
    document = {
        "name": template,
        "protocol": LIBRARY[template].protocol,
        "meterType": "zone",
        "communication": {"template": template, **beside},
    }
    return parse_meter(document, "meter_1", 0, References(LIBRARY))


def words_of(request: str, reply: str) -> tuple[tuple[int, int, int, int], list[int]]:
    """(unit id, function, address, count) and the words of the answer."""
    asked, answered = bytes.fromhex(request), bytes.fromhex(reply)
    assert answered[:2] == asked[:2]
    assert answered[2] == len(answered) - 3
    words = [int.from_bytes(answered[at : at + 2], "big") for at in range(3, len(answered), 2)]
    address, count = int.from_bytes(asked[2:4], "big"), int.from_bytes(asked[4:6], "big")
    return (asked[0], asked[1], address, count), words


def fewest_requests(registers: tuple[Register, ...], largest: int, hole: int) -> int:
    """The least number of blocks, by trying every way to cut the sorted registers."""
    total = 0
    for function in {register.function for register in registers}:
        mine = sorted((r.start, r.stop) for r in registers if r.function == function)
        best = [0] + [len(mine)] * len(mine)
        for end in range(1, len(mine) + 1):
            for start in range(end):
                stops = [stop for _, stop in mine[start:end]]
                joined = all(
                    mine[n][0] - max(stops[: n - start]) <= hole for n in range(start + 1, end)
                )
                if joined and max(stops) - mine[start][0] <= largest:
                    best[end] = min(best[end], best[start] + 1)
        total += best[-1]
    return total


@pytest.mark.parametrize("path", CASES, ids=NAMES)
def test_a_proof(path: Path, authority: Authority) -> None:
    case = load(path)
    assert case["source"]
    meter = the_meter(path.parent.name, case.get("communication", {}))
    if "registers" in case:
        values = read_discovered(meter, case)
    elif meter.protocol == "http":
        values = read_http(meter, case, authority)
    else:
        values = (read_modbus if meter.protocol == "modbus" else read_mqtt)(meter, case)
    assert values.keys() == case["expected"].keys()
    assert values == pytest.approx(case["expected"], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_an_example_reads_as_the_proof_does(name: str, authority: Authority) -> None:
    """So that whoever sees the example, in a simulator, sees what the model is known to say."""
    case = load(WIRE / name / "typical.toml")
    meter = the_meter(name, case["communication"])
    given = dict(case["communication"])
    for parameter, about in LIBRARY[name].parameters.items():
        given.setdefault(parameter, about.default)
    said = [
        (re.sub(r"\{(\w+)\}", lambda match: given[match[1]], each.address), each.payload)
        for each in LIBRARY[name].examples
    ]
    case["message"] = [{"topic": address, "payload": payload} for address, payload in said]
    case["response"] = [{"target": address, "body": payload} for address, payload in said]
    values = (
        read_http(meter, case, authority) if meter.protocol == "http" else read_mqtt(meter, case)
    )
    assert values == pytest.approx(case["expected"], rel=1e-9, abs=1e-12)


def read_modbus(meter: Meter, case: dict[str, Any]) -> dict[str, float]:
    communication = meter.communication
    assert isinstance(communication, ModbusCommunication)
    reader = ModbusReader(communication, communication.registers, {})
    exchanges = [words_of(each["request"], each["reply"]) for each in case["exchange"]]
    asked = [(r.unit_id, r.function, r.address, r.count) for r in reader.requests]
    assert asked == [request for request, _ in exchanges]
    replies: list[tuple[ReadRequest, list[int]]] = [
        (request, words) for request, (_, words) in zip(reader.requests, exchanges, strict=True)
    ]
    return reader.decode(replies)[0]


def read_discovered(meter: Meter, case: dict[str, Any]) -> dict[str, float]:
    words: dict[int, int] = {}
    for block in case["registers"]:
        words.update(
            enumerate((int(word, 16) for word in block["words"].split()), block["address"])
        )
    with LibmodbusServer(words) as server:
        here = {"host": "127.0.0.1", "port": server.port}
        return dict(poll(the_meter(meter.name, {**case["communication"], **here})))


def poll(meter: Meter) -> Mapping[str, float]:
    """Read a Modbus meter twice: what is learnt in the first poll must not spoil the second."""
    endpoint = meter.communication.endpoint
    assert isinstance(endpoint, ModbusEndpoint)
    driver = ModbusDriver(endpoint, Clock())
    driver.open(1.0)
    first, second = driver.poll(meter, trial=False), driver.poll(meter, trial=False)
    driver.close()
    assert first.error is None
    assert first.values == second.values
    return second.values


def read_mqtt(meter: Meter, case: dict[str, Any]) -> dict[str, float]:
    news = MeterNews(meter)
    for each in case["message"]:
        payload, retained = each["payload"].encode(), each.get("retain", False)
        news.hear(Message(each["topic"], payload, retained, 10.0, 10_000))
    outcome = news.outcome(10.0)
    return dict(outcome.values) if outcome is not None else {}


def read_http(meter: Meter, case: dict[str, Any], authority: Authority) -> dict[str, float]:
    asked = meter.communication
    assert isinstance(asked, HttpCommunication)
    answers = {each["target"]: each["body"].encode() for each in case["response"]}
    assert list(answers) == [asked.target]
    secure = asked.endpoint.scheme == "https"
    tls = authority.server_context() if secure else None
    with http_peer(lambda exchange: exchange.give(answers[exchange.asked.target]), tls) as peer:
        here = {"url": f"{asked.endpoint.scheme}://127.0.0.1:{peer.port}{asked.target}"}
        if secure:
            here["caFile"] = authority.ca_file
        local = the_meter(meter.name, {**case["communication"], **here})
        endpoint = local.communication.endpoint
        assert isinstance(endpoint, HttpEndpoint)
        driver = HttpDriver(endpoint, Clock())
        driver.open(1.0)
        outcome = driver.poll(local, trial=False)
        driver.close()
    assert len(peer.asked) == 1
    return dict(outcome.values)


@pytest.mark.parametrize("name", MODBUS)
def test_a_template_is_read_in_the_fewest_requests_from_libmodbus(name: str) -> None:
    case = load(WIRE / name / "typical.toml")
    exchanges = [words_of(each["request"], each["reply"]) for each in case["exchange"]]
    tables: dict[int, dict[int, int]] = {3: {}, 4: {}}
    for (_, function, address, _), words in exchanges:
        tables[function].update(enumerate(words, address))
    with LibmodbusServer(tables[3], tables[4]) as server:
        beside = {**case.get("communication", {}), "host": "127.0.0.1", "port": server.port}
        meter = the_meter(name, beside)
        communication = meter.communication
        assert isinstance(communication, ModbusCommunication)
        fewest = fewest_requests(
            communication.registers,
            communication.max_registers_per_request,
            communication.max_gap,
        )
        assert len(exchanges) == fewest
        values = poll(meter)
    assert values == pytest.approx(case["expected"], rel=1e-9, abs=1e-12)
