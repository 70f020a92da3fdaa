"""Points of readings and rollups, read back by a parser of the test's own and by real servers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.lineprotocol import FIELDS, point_of_rollup, points_of_chunk
from edge.record import Chunk, Resolution, Series
from edge.settings import JournalConfig
from tests.influx import Influxd, VictoriaMetrics
from tests.journals import START_MS, a_rollup, a_series

NAMES = [
    "Main building",
    "a,b",
    "a=b",
    "a\\b",
    'say "so"',
    "it's",
    "Zähler ⚡ 电表",
    "#1",
    " spaces ",
    "=,=",
    "100 %",
    "a;b|c&d/e?f",
]


def a_chunk(series: Series, **values: list[float | None]) -> Chunk:
    """Readings a second apart."""
    count = len(next(iter(values.values()), []))
    times = range(START_MS, START_MS + 1000 * count, 1000)
    return Chunk(series, 1, range(1, count + 1), times, values, [False] * count)


def parse(point: bytes) -> tuple[str, dict[str, str], dict[str, str], int]:
    """Read a line character by character: measurement, tags, fields as text, time."""
    words, separators, word = [], [], ""
    characters = iter(enumerate(text := point.decode()))
    for at, character in characters:
        if character == "\\" and text[at + 1] in ",= ":
            word += next(characters)[1]
        elif character in ",= ":
            words.append(word)
            separators.append(character)
            word = ""
        else:
            word += character
    assert separators.count(" ") == 2
    first, last = (n for n, separator in enumerate(separators) if separator == " ")
    assert last == len(separators) - 1
    tags = dict(zip(words[1 : first + 1 : 2], words[2 : first + 1 : 2], strict=True))
    fields = words[first + 1 : last + 1]
    return words[0], tags, dict(zip(fields[::2], fields[1::2], strict=True)), int(word)


def test_a_reading_is_a_point_of_the_names_that_the_guide_uses() -> None:
    chunk = a_chunk(
        a_series(name="Main, east"),
        power=[10.5],
        energy=[1234.0],
        voltage=[230.1],
        current=[1e-7],
        powerFactor=[-0.9],
        frequency=[50.0],
    )
    assert points_of_chunk(chunk) == [
        b"meter_reading,location=Basement,meter_id=meter_1,meter_name=Main\\,\\ east,"
        b"meter_type=grid,protocol=modbus,site=cellar power_kw=10.5,energy_kwh=1234.0,"
        b"voltage_v=230.1,current_a=1e-07,power_factor=-0.9,frequency_hz=50.0 1760954400000"
    ]


def test_every_quantity_has_a_field_in_the_same_spelling() -> None:
    assert FIELDS == {
        "power": "power_kw",
        "powerExport": "power_export_kw",
        "powerL1": "power_l1_kw",
        "powerL2": "power_l2_kw",
        "powerL3": "power_l3_kw",
        "energy": "energy_kwh",
        "energyExport": "energy_export_kwh",
        "voltage": "voltage_v",
        "voltageL1": "voltage_l1_v",
        "voltageL2": "voltage_l2_v",
        "voltageL3": "voltage_l3_v",
        "current": "current_a",
        "currentL1": "current_l1_a",
        "currentL2": "current_l2_a",
        "currentL3": "current_l3_a",
        "powerFactor": "power_factor",
        "frequency": "frequency_hz",
        "reactivePower": "reactive_power_kvar",
        "apparentPower": "apparent_power_kva",
    }


def test_what_is_unknown_is_absent_and_what_is_suspect_gives_no_point() -> None:
    given_values: dict[str, list[float | None]] = {
        "power": [1.0, None, None, 4.0, math.nan, math.inf],
        "voltage": [None, 230.0, None, 231.0, 232.0, None],
    }
    chunk = a_chunk(a_series(), **given_values)
    suspect = [False, False, False, True, False, False]
    chunk = Chunk(chunk.series, 1, chunk.seqs, chunk.unix_ms, chunk.values, suspect)
    found = [parse(point) for point in points_of_chunk(chunk)]
    assert [(fields, unix_ms - START_MS) for _, _, fields, unix_ms in found] == [
        ({"power_kw": "1.0"}, 0),
        ({"voltage_v": "230.0"}, 1000),
        ({"voltage_v": "232.0"}, 4000),
    ]


def test_readings_without_any_value_give_no_point() -> None:
    assert points_of_chunk(a_chunk(a_series())) == []
    assert points_of_chunk(a_chunk(a_series(), power=[None, None])) == []


def test_an_empty_tag_is_left_out() -> None:
    (point,) = points_of_chunk(a_chunk(a_series(location=""), power=[1.0]))
    assert b"location" not in point


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\\u2028\u2029"))
    | st.sampled_from(NAMES)
)
def test_any_printable_text_comes_back(name: str) -> None:
    (point,) = points_of_chunk(a_chunk(a_series(name=name), power=[1.0]))
    measurement, tags, fields, unix_ms = parse(point)
    assert (measurement, fields, unix_ms) == ("meter_reading", {"power_kw": "1.0"}, START_MS)
    assert tags.get("meter_name", "") == name
    assert list(tags) == sorted(tags)


@given(st.text(st.sampled_from("\\ ,=\n\r\t\0ab\ud800\u2028")))
def test_no_text_breaks_a_line(name: str) -> None:
    (point,) = points_of_chunk(a_chunk(a_series(name=name, location=name), power=[1.0]))
    assert b"\n" not in point
    assert b"\r" not in point
    _, tags, fields, _ = parse(point)
    assert tags.keys() >= {"meter_id", "meter_type", "protocol", "site"}
    assert fields == {"power_kw": "1.0"}
    assert not tags.get("meter_name", "").endswith("\\")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_a_float_is_exact_and_never_an_integer(values: list[float]) -> None:
    chunk = a_chunk(a_series(), power=list(values))
    texts = [parse(point)[2]["power_kw"] for point in points_of_chunk(chunk)]
    assert [float(text) for text in texts] == values
    assert not any(text.endswith("i") for text in texts)


def test_a_rollup_is_a_point_at_its_begin() -> None:
    assert point_of_rollup(a_rollup(export_kwh=0.0)) == (
        b"meter_reading,location=Basement,meter_id=meter_1,meter_name=Main,meter_type=grid,"
        b"protocol=modbus,resolution=hourly,site=cellar power_kw=1.5,power_min_kw=-0.25,"
        b"power_max_kw=3.0,energy_delta_kwh=1.4,energy_interpolated_kwh=0.1,export_delta_kwh=0.0,"
        b"coverage=0.9,samples=720i 1760954400000"
    )


def test_what_is_unknown_of_a_rollup_is_absent() -> None:
    rollup = a_rollup(
        resolution=Resolution.DAILY,
        mean_kw=None,
        min_kw=None,
        max_kw=None,
        energy_kwh=None,
        energy_source=None,
        interpolated_kwh=0.0,
        export_kwh=None,
    )
    _, tags, fields, _ = parse(point_of_rollup(rollup))
    assert tags["resolution"] == "daily"
    assert fields == {"coverage": "0.9", "samples": "720i"}


# --- Real servers --------------------------------------------------------------------------------


def points_of_names() -> bytes:
    return b"\n".join(
        point
        for number, name in enumerate(NAMES)
        for point in points_of_chunk(
            a_chunk(a_series(f"meter_{number}", name=name, location=name), power=[0.1 + number])
        )
    )


def test_influxd_1_6_gives_back_what_it_was_given(tmp_path: Path) -> None:
    with Influxd(tmp_path) as server:
        server.query("CREATE DATABASE charging_data")
        status, body = server.ask(
            "POST", "/write", {"db": "charging_data", "precision": "ms"}, points_of_names()
        )
        assert (status, body) == (204, b"")
        found = {row["meter_id"]: row for row in server.points("charging_data")}
    assert [found[f"meter_{number}"]["meter_name"] for number in range(len(NAMES))] == NAMES
    assert [found[f"meter_{number}"]["location"] for number in range(len(NAMES))] == NAMES
    for number in range(len(NAMES)):
        row = found[f"meter_{number}"]
        assert (row["power_kw"], row["time"]) == (0.1 + number, START_MS)


def test_victoria_metrics_gives_back_what_it_was_given(tmp_path: Path) -> None:
    with VictoriaMetrics(tmp_path) as server:
        status, _ = server.ask(
            "POST", "/api/v2/write", {"bucket": "x", "precision": "ms"}, points_of_names()
        )
        assert status == 204
        found = list(server.points("meter_reading_power_kw"))
    by_id = {labels["meter_id"]: (labels, unix_ms, value) for labels, unix_ms, value in found}
    assert [by_id[f"meter_{number}"][0]["meter_name"] for number in range(len(NAMES))] == NAMES
    for number in range(len(NAMES)):
        _, unix_ms, value = by_id[f"meter_{number}"]
        assert (unix_ms, value) == (START_MS, pytest.approx(0.1 + number))


def test_rollups_fit_beside_readings_in_influxd_1_6(tmp_path: Path) -> None:
    points = [
        *points_of_chunk(a_chunk(a_series(), power=[1.0], energy=[5.0])),
        point_of_rollup(a_rollup()),
        point_of_rollup(a_rollup(resolution=Resolution.DAILY)),
    ]
    with Influxd(tmp_path) as server:
        days = JournalConfig().daily_days
        server.query(f"CREATE DATABASE one WITH DURATION {days}d")
        query = {"db": "one", "precision": "ms"}
        assert server.ask("POST", "/write", query, b"\n".join(points))[0] == 204
        rows = {row["resolution"]: row for row in server.points("one")}
    assert rows.keys() == {None, "hourly", "daily"}
    assert rows["daily"]["samples"] == 720
    assert rows["hourly"]["energy_delta_kwh"] == 1.4
