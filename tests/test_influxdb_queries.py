"""The queries for InfluxDB: those for 1.x in a real influxd that our sink fed.

Nothing that runs Flux can be had from Debian: of the queries for 2.x it is held that they ask for
the same as those for 1.x, where that was tried.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from edge.lineprotocol import FIELDS, MEASUREMENT, point_of_rollup, points_of_chunk
from edge.record import Chunk, Resolution, Series
from edge.settings import InfluxConfig, JournalConfig
from edge.sinks.influx import InfluxSink
from tests.building import FakeClock
from tests.influx import Influxd
from tests.journals import HOUR_MS, a_rollup, a_series
from tests.service import ROOT

FOLDER = ROOT / "config" / "influxdb"
NAMES = sorted(file.stem for file in (FOLDER / "influxql").iterdir())
MINUTE_MS = 60_000
DAY_MS = 24 * HOUR_MS
NOW_MS = round(time.time()) * 1000
HOUR_BEGAN_MS = NOW_MS - NOW_MS % HOUR_MS

MAIN = a_series("meter_1", name="Main Building Meter", site="site")
SOLAR = a_series("meter_2", name="Solar Array", site="site", meter_type="solar")
ELSEWHERE = a_series("meter_3", name="Main Building Meter of another site", site="other")

HOLE_MIN = range(60, 120)
"""Minutes ago in which nothing was read."""
ROLLUP_FIELDS = {"power_min_kw", "power_max_kw", "energy_delta_kwh", "energy_interpolated_kwh"}
ROLLUP_FIELDS |= {"export_delta_kwh", "coverage", "samples"}
TAGS = {"meter_id", "meter_name", "meter_type", "location", "protocol", "resolution", "site"}


def text_of(language: str, name: str) -> str:
    return (FOLDER / language / f"{name}.{language}").read_text(encoding="utf-8")


def readings(series: Series) -> Chunk:
    """One each minute of the last three hours, but for the hole; power rises to 180 kW."""
    minutes = [ago for ago in range(180, 0, -1) if ago not in HOLE_MIN]
    values = {
        "power": [180.0 - ago for ago in minutes],
        "energy": [1000.0 + number for number in range(len(minutes))],
    }
    times = [NOW_MS - ago * MINUTE_MS for ago in minutes]
    seqs = range(1, len(minutes) + 1)
    return Chunk(series, 1, seqs, times, values, [False] * len(minutes))


@pytest.fixture(scope="module")
def influxd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influxd]:
    """Three meters: their readings, two days of hours, ten days."""
    with Influxd(tmp_path_factory.mktemp("influxd")) as influxd:
        config = InfluxConfig(url=influxd.url, database="charging_data")
        sink = InfluxSink("influx", config, JournalConfig(), FakeClock())
        assert sink.prepare() == []
        for series in (MAIN, SOLAR, ELSEWHERE):
            assert sink.send(points_of_chunk(readings(series)), Resolution.RAW) == []
            hours = [
                a_rollup(
                    HOUR_BEGAN_MS - ago * HOUR_MS,
                    series=series,
                    energy_kwh=float(ago),
                    max_kw=100.0 + ago % 24,
                    covered_ms=HOUR_MS // 2 if ago == 7 else HOUR_MS,
                )
                for ago in range(1, 49)
            ]
            assert sink.send([point_of_rollup(hour) for hour in hours], Resolution.HOURLY) == []
            days = [
                a_rollup(
                    HOUR_BEGAN_MS - ago * DAY_MS,
                    Resolution.DAILY,
                    series=series,
                    energy_kwh=24.0 * ago,
                    covered_ms=DAY_MS,
                )
                for ago in range(1, 11)
            ]
            assert sink.send([point_of_rollup(day) for day in days], Resolution.DAILY) == []
        sink.close()
        yield influxd


def run(influxd: Influxd, name: str) -> list[dict[str, Any]]:
    return influxd.query(text_of("influxql", name))


# --- InfluxQL, run -------------------------------------------------------------------------------


def test_readings_are_those_that_were_read(influxd: Influxd) -> None:
    rows = run(influxd, "readings")
    chunk = readings(MAIN)
    assert [row["time"] for row in rows] == list(chunk.unix_ms)
    assert [row["power_kw"] for row in rows] == list(chunk.values["power"])
    assert rows[0].keys() >= {FIELDS[name] for name in ("energy", "voltage", "frequency")}
    assert {row["voltage_v"] for row in rows} == {None}


def test_power_is_empty_where_nothing_was_read(influxd: Influxd) -> None:
    rows = {row["time"]: row["power_kw"] for row in run(influxd, "power")}
    chunk = readings(MAIN)
    step_ms = 5 * MINUTE_MS
    for time_ms, power in rows.items():
        of_step = [
            value
            for unix_ms, value in zip(chunk.unix_ms, chunk.values["power"], strict=True)
            if value is not None and time_ms <= unix_ms < time_ms + step_ms
        ]
        if time_ms >= NOW_MS - DAY_MS:
            assert power == (fmean(of_step) if of_step else None)
    hole_ms = NOW_MS - 90 * MINUTE_MS
    assert rows[hole_ms - hole_ms % step_ms] is None
    assert sum(power is not None for power in rows.values()) >= 24


def test_latest_has_its_time(influxd: Influxd) -> None:
    rows = run(influxd, "latest")
    assert {row["meter_name"] for row in rows} == {"Main Building Meter", "Solar Array"}
    for row in rows:
        assert (row["time"], row["power_kw"], row["energy_kwh"]) == (NOW_MS - MINUTE_MS, 179, 1119)


def test_hours_have_their_energy_and_coverage(influxd: Influxd) -> None:
    rows = run(influxd, "hours")
    assert [row["energy_delta_kwh"] for row in rows] == [float(ago) for ago in range(48, 0, -1)]
    assert rows[0]["power_kw"] == 1.5
    assert [row["coverage"] for row in rows].count(0.5) == 1


def test_days_are_of_each_meter_of_the_site(influxd: Influxd) -> None:
    rows = run(influxd, "days")
    assert len(rows) == 20
    assert {(row["meter_name"], row["meter_type"]) for row in rows} == {
        ("Main Building Meter", "grid"),
        ("Solar Array", "solar"),
    }
    assert sum(row["energy_delta_kwh"] for row in rows) == 2 * 24 * 55


def test_peaks_are_the_largest_and_say_when(influxd: Influxd) -> None:
    rows = run(influxd, "peaks")
    assert {row["meter_id"] for row in rows} == {"meter_1", "meter_2"}
    for row in rows:
        assert row["power_max_kw"] == 123.0
        assert row["time"] in {HOUR_BEGAN_MS - ago * HOUR_MS for ago in (23, 47)}


def test_gaps_are_the_hours_that_were_not_covered(influxd: Influxd) -> None:
    rows = run(influxd, "gaps")
    assert {row["meter_id"] for row in rows} == {"meter_1", "meter_2"}
    assert {(row["time"], row["coverage"]) for row in rows} == {(HOUR_BEGAN_MS - 7 * HOUR_MS, 0.5)}


# --- Flux, beside it -----------------------------------------------------------------------------


def test_the_guide_s_own_query_is_there() -> None:
    flux = re.sub(r"\s+", " ", text_of("flux", "readings"))
    assert flux.endswith(
        'from(bucket: "charging_data") |> range(start: -24h) '
        '|> filter(fn: (r) => r._measurement == "meter_reading") '
        '|> filter(fn: (r) => r.meter_name == "Main Building Meter") '
    )


@pytest.mark.parametrize("name", NAMES)
def test_both_languages_ask_for_the_same(name: str) -> None:
    flux, influxql = text_of("flux", name), text_of("influxql", name)
    assert flux.splitlines()[0].removeprefix("// ").replace("`", '"') == influxql.splitlines()[
        0
    ].removeprefix("-- ")
    assert re.findall(r'bucket: "(\w+)"', flux) == re.findall(r'FROM "(\w+)"', influxql)
    assert re.findall(r"start: -(\w+)", flux) == re.findall(r"now\(\) - (\w+)", influxql)
    chosen = re.findall(r'r\.(meter_name|site) == "([^"]+)"', flux)
    assert chosen == re.findall(r"\"(meter_name|site)\" = '([^']+)'", influxql)
    assert f'r._measurement == "{MEASUREMENT}"' in flux
    assert f'."{MEASUREMENT}"' in influxql
    fields = set(FIELDS.values()) | ROLLUP_FIELDS
    asked = fields & set(re.findall(r'"(\w+)"', flux.partition("\n")[2]))
    if name != "readings":  # which takes all there are
        assert asked == fields & set(re.findall(r'"(\w+)"', influxql.partition("\n")[2]))


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*/*")), ids=lambda file: file.name)
def test_every_name_is_one_that_we_write(file: Path) -> None:
    known = set(FIELDS.values()) | ROLLUP_FIELDS | TAGS | {MEASUREMENT, "site", "coverage"}
    known |= {"charging_data", "charging_data_hourly", "charging_data_daily"}
    known |= {"_time", "_field", "_value", "_start"}
    code = file.read_text(encoding="utf-8").partition("\n")[2]
    assert set(re.findall(r'"(\w+)"', code)) <= known
    for opening, closing in ("()", "[]"):
        assert code.count(opening) == code.count(closing)


def test_each_query_is_told_of() -> None:
    told = re.findall(r"^\| `(\w+)` \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(told) == NAMES
    assert sorted(file.stem for file in (FOLDER / "flux").iterdir()) == NAMES
