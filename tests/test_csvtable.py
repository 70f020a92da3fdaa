"""CSV of readings and rollups: what is written is read back as the same, bit for bit."""

from __future__ import annotations

import csv

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edge import lineparse
from edge.csvtable import Record, chunk_of, chunk_rows, header, parse, rollup_row
from edge.errors import Fault, Faulty
from edge.lineprotocol import points_of_chunk
from edge.model import METER_TYPES, QUANTITY_NAMES
from edge.record import EnergySource, Resolution, Rollup, Series
from edge.times import HOUR_MS, YEAR_10000_MS
from tests.journals import START_MS, a_rollup, a_series

LAST_MS = YEAR_10000_MS - 1
LETTERS = st.characters(categories=("L", "N", "P", "S")) | st.just(" ")
PRINTABLE = st.text(LETTERS, max_size=30)
NAMES = st.text(LETTERS, min_size=1, max_size=30)
KW = st.floats(allow_nan=False, allow_infinity=False)
SERIES = st.builds(
    Series,
    site=NAMES,
    meter_id=NAMES,
    name=NAMES,
    location=PRINTABLE,
    meter_type=st.sampled_from(METER_TYPES),
    protocol=PRINTABLE,
    stale_after_ms=st.integers(1, 10**9),
    max_power_kw=st.none() | KW,
    counter_kwh=st.none() | KW,
)
RECORDS = st.builds(
    Record,
    series=SERIES,
    unix_ms=st.integers(0, LAST_MS),
    values=st.dictionaries(st.sampled_from(QUANTITY_NAMES), KW, min_size=1),
    suspect=st.booleans(),
)
LENGTHS_MS = st.sampled_from([hours * HOUR_MS for hours in (1, 23, 24, 25)])


@st.composite
def rollups(draw: st.DrawFn) -> Rollup:
    length_ms = draw(LENGTHS_MS)
    number = st.none() | KW
    return Rollup(
        draw(SERIES),
        draw(st.sampled_from((Resolution.HOURLY, Resolution.DAILY))),
        draw(st.integers(0, LAST_MS - length_ms)),
        length_ms,
        *(draw(number), draw(number), draw(number), draw(number)),
        draw(st.none() | st.sampled_from(EnergySource)),
        draw(KW),
        draw(number),
        draw(st.integers(0, 10**6)),
        draw(st.integers(0, length_ms)),
    )


def raw_text(*records: Record) -> str:
    rows = [row for record in records for row in chunk_rows(chunk_of([record]))]
    return "\r\n".join([header(Resolution.RAW), *rows, ""])


# --- Both ways -----------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.lists(RECORDS, max_size=3))
def test_readings_come_back_as_they_were(records: list[Record]) -> None:
    found = list(parse(raw_text(*records).splitlines(keepends=True)))
    assert found == records
    again = [record for record in found if isinstance(record, Record)]
    assert raw_text(*again) == raw_text(*records)  # -0.0 too


@given(st.lists(rollups(), max_size=3))
def test_rollups_come_back_as_they_were(given_: list[Rollup]) -> None:
    lines = [header(Resolution.HOURLY), *map(rollup_row, given_)]
    assert list(parse(lines)) == given_


@given(RECORDS)
def test_each_row_has_a_cell_for_each_column(record: Record) -> None:
    head, row = csv.reader(raw_text(record).splitlines())
    assert len(row) == len(head) == len(set(head))


@settings(max_examples=50)
@given(st.lists(RECORDS, min_size=1, max_size=2))
def test_points_come_back_as_they_were(records: list[Record]) -> None:
    for record in records:
        series = record.series
        words = (series.site, series.meter_id, series.name, series.location, series.protocol)
        assume(not any("\\" in word for word in words))  # servers differ over what they mean
        points = points_of_chunk(chunk_of([record]))
        found = list(lineparse.parse([point.decode() for point in points]))
        if record.suspect:
            assert found == []
            continue
        (read,) = found
        assert isinstance(read, Record)
        assert (read.unix_ms, read.values) == (record.unix_ms, record.values)
        assert (read.series.meter_id, read.series.name) == (series.meter_id, series.name)
        assert read.series.location == series.location


def test_what_a_table_looks_like() -> None:
    record = Record(a_series(name="Main, left"), START_MS + 5, {"power": 1.5, "powerL1": 0.1})
    assert header(Resolution.RAW) == (
        "timestamp,meter_id,meter_name,location,meter_type,protocol,site,power_kw,power_export_kw,"
        "power_l1_kw,power_l2_kw,power_l3_kw,energy_kwh,energy_export_kwh,voltage_v,voltage_l1_v,"
        "voltage_l2_v,voltage_l3_v,current_a,current_l1_a,current_l2_a,current_l3_a,power_factor,"
        "frequency_hz,reactive_power_kvar,apparent_power_kva,quality,stale_after_ms,max_power_kw,"
        "counter_kwh"
    )
    assert chunk_rows(chunk_of([record])) == [
        '2025-10-20T10:00:00.005Z,meter_1,"Main, left",Basement,grid,modbus,cellar,1.5,,0.1,,,,,,,'
        ",,,,,,,,,,good,10000,,"
    ]
    assert header(Resolution.DAILY) == (
        "start,end,resolution,meter_id,meter_name,location,meter_type,protocol,site,power_kw,"
        "power_min_kw,power_max_kw,energy_delta_kwh,energy_source,energy_interpolated_kwh,"
        "export_delta_kwh,samples,coverage,stale_after_ms,max_power_kw,counter_kwh"
    )


def test_a_table_of_ones_own_needs_little() -> None:
    lines = ["power_kw;meter_id,timestamp".replace(";", ","), "-1.5e3,m,2025-10-20T12:00:00+02:00"]
    (record,) = parse(lines)
    assert isinstance(record, Record)
    assert (record.unix_ms, record.values, record.suspect) == (START_MS, {"power": -1500.0}, False)
    assert (record.series.meter_id, record.series.name, record.series.site) == ("m", "m", "site")


def test_coverage_of_a_day_comes_back() -> None:
    day = a_rollup(START_MS, Resolution.DAILY, covered_ms=86_399_999)
    (found,) = parse([header(Resolution.DAILY), rollup_row(day)])
    assert found == day


# --- Faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("", ["line 1, timestamp", "line 1, meter_id"]),
        ("timestamp,power_kw", ["line 1, meter_id"]),
        ("timestamp,meter_id,power_kW", ["line 1.power_kW"]),
        ("timestamp,meter_id,power_kw,power_kw", ["line 1, power_kw"]),
        ("start,meter_id", ["line 1, end", "line 1, resolution"]),
    ],
)
def test_a_wrong_header_is_refused_as_a_whole(line: str, names: list[str]) -> None:
    with pytest.raises(Faulty) as raised:
        parse([line, "1,2,3"] if line else [])
    assert [fault.path for fault in raised.value.faults] == names


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ("2025-10-20T10:00:00Z,m", "2 cells"),
        ("2025-10-20 10:00,m,1,,good", "timestamp: must be a time with an offset"),
        ("2025-10-20T10:00:00Z,,1,,good", "meter_id"),
        ("2025-10-20T10:00:00Z,m,,,good", "no value"),
        ("2025-10-20T10:00:00Z,m,nan,,good", "power_kw: must be a number"),
        ("2025-10-20T10:00:00Z,m,1_0,,good", "power_kw: must be a number"),
        ("2025-10-20T10:00:00Z,m,1e999,,good", "power_kw: must be a number"),
        ("2025-10-20T10:00:00Z,m,1,1.5,good", "stale_after_ms: must be a whole number"),
        ("2025-10-20T10:00:00Z,m,1,,gooood", "did you mean 'good'?"),
        ('2025-10-20T10:00:00Z,"m"m,1,,good', "no CSV"),
    ],
)
def test_a_faulty_row_is_named_and_the_others_are_read(row: str, word: str) -> None:
    good = "2025-10-20T10:00:00Z,m,1,,good"
    columns = "timestamp,meter_id,power_kw,stale_after_ms,quality"
    before, fault, after = parse([columns, good, row, good])
    assert before == after
    assert isinstance(fault, Fault)
    assert fault.path == "line 3"
    assert word in fault.message


@given(st.lists(st.text(max_size=60), max_size=6))
def test_no_text_is_a_bug(lines: list[str]) -> None:
    for found in parse([header(Resolution.RAW), *lines]):
        assert isinstance(found, (Record, Fault))
    list(lineparse.parse(lines))


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("meter_reading,meter_id=m power_kw=1", "no point"),
        ("weather,meter_id=m power_kw=1 1760954400000", "weather"),
        ("meter_reading,site=s power_kw=1 1760954400000", "meter_id"),
        ("meter_reading,meter_id=m power=1 1760954400000", "did you mean"),
        ('meter_reading,meter_id=m power_kw="1" 1760954400000', "must be a number"),
        ("meter_reading,meter_id=m,resolution=hourly power_kw=1 1760954400000", "hourly"),
        ("meter_reading,meter_id=m power_kw=1 -5", "from 1970-01-01"),
    ],
)
def test_a_faulty_point(line: str, word: str) -> None:
    (fault,) = lineparse.parse([line])
    assert isinstance(fault, Fault)
    assert word in fault.message


def test_points_of_a_server_have_nanoseconds() -> None:
    tags = r"meter_reading,meter_id=m,meter_name=Main\ left"
    line = f"{tags} power_kw=2i,voltage_v=230 1760954400005000000"
    (record,) = lineparse.parse(["# DML", "", line])
    assert isinstance(record, Record)
    assert (record.unix_ms, record.series.name) == (START_MS + 5, "Main left")
    assert record.values == {"power": 2.0, "voltage": 230.0}


@pytest.mark.parametrize("text", ["253402300799999", "0001-01-01T00:00:00Z", "1000000000000"])
def test_a_time_outside_of_those_wanted_is_a_fault_of_its_line(text: str) -> None:
    times = range(START_MS, START_MS + HOUR_MS)
    rows = [f"{unix_ms},m,1" for unix_ms in (START_MS, text, START_MS + HOUR_MS - 1)]
    first, fault, last = parse(["timestamp,meter_id,power_kw", *rows], times)
    assert isinstance(first, Record)
    assert isinstance(last, Record)
    assert isinstance(fault, Fault)
    assert fault.path == "line 3"
    assert "must be a time from 2025-" in fault.message


def test_a_point_outside_of_the_times_wanted_is_a_fault_of_its_line() -> None:
    times = range(START_MS, START_MS + HOUR_MS)
    lines = [
        f"meter_reading,meter_id=m power_kw=1 {unix_ms}"
        for unix_ms in (START_MS, START_MS - 1, 253402300799999, START_MS + HOUR_MS)
    ]
    first, *faults = lineparse.parse(lines, times)
    assert isinstance(first, Record)
    assert [fault.path for fault in faults if isinstance(fault, Fault)] == [
        f"line {number}" for number in (2, 3, 4)
    ]
