"""`tools/soak/run`: let a site live through faults for a while, and judge what was made of it.

    devices    the site: what each device shows at any moment            (pure)
    plan       what goes wrong when                                      (pure)
    records    what is noted of a run                                    (pure)
    facts      what is known of it in the end, and what is excused       (pure)
    judge      whether anything was lost, misattributed, leaked or late  (pure)
    kept, told, intime, costs, ending: its checks; verdict: what one says
    report     the table and the curves                                  (pure)

    site       the devices, in a process of their own
    metronome  how late the machine itself is, likewise
    world      the clock and the disk that the service sees
    service    the service under soak: started, stopped and killed
    watch      what it shows and costs, noted every second
    abuse      clients that nobody wants
    conduct    has the plan happen

A broker and an InfluxDB are real. All run on loopback, and take half a core or less together.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from edge.journal.schema import FILE_NAME
from tests.brokers import Mosquitto
from tests.influx import Influxd
from tools.bench.process import Bench, BenchError
from tools.soak.conduct import Conductor, Surroundings
from tools.soak.devices import Day, make_devices, signature
from tools.soak.facts import Facts
from tools.soak.judge import judge
from tools.soak.metronome import Metronome
from tools.soak.plan import LEAST_S, make_plan
from tools.soak.records import End, Recorded, Sample, read_export
from tools.soak.report import curves, markdown
from tools.soak.service import COMMIT_INTERVAL_S, NoAnswer, Service
from tools.soak.site import Site
from tools.soak.watch import Listener, Watch
from tools.soak.world import World

_SETTLES_WITHIN_S = 150.0
"""An uplink rests for a minute at most after many failures; then it has a backlog to send."""
_CALM_S = 12.0


def main() -> int:
    """Run; gives the exit code: 0 all well, 1 something is not, or it could not be run."""
    parser = argparse.ArgumentParser(
        prog="tools/soak/run",
        description="Let a simulated site live through faults, and judge the service by it.",
    )
    add = parser.add_argument
    add("--minutes", type=float, default=20.0, help=f"at least {LEAST_S / 60:.1f} (20)")
    add("--seed", type=int, default=0, help="which devices fail when, and how (0)")
    add("--report", type=Path, metavar="DIR", help="where the report goes (a temporary folder)")
    args = parser.parse_args()
    if args.minutes * 60 < LEAST_S:
        parser.error(f"in less than {LEAST_S / 60:.1f} minutes not everything goes wrong once")
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))
    report = args.report or Path(tempfile.mkdtemp(prefix="dlm-edge-soak-report-"))
    report.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dlm-edge-soak-") as folder:
        try:
            facts = _run(Path(folder), args.minutes * 60, args.seed)
        except (BenchError, NoAnswer, pytest.fail.Exception, OSError) as error:
            print(f"The soak did not come to its end: {error} ({report})", file=sys.stderr)
            return 1
        finally:
            _keep_log(Path(folder), report)
    return _report(facts, report, f"{args.minutes:g} minutes, seed {args.seed}")


def _run(folder: Path, duration_s: float, seed: int) -> Facts:
    devices = make_devices()
    day = Day(time.monotonic(), duration_s)
    with ExitStack() as stack:
        bench = Bench(folder, quick=False)
        broker = stack.enter_context(Mosquitto(folder))
        influx = stack.enter_context(Influxd(folder))
        site = stack.enter_context(Site(bench, broker.port, day))
        world = World(folder)
        service = Service(folder, broker.port, influx.url, world.environment)
        stack.enter_context(service)
        conductor = Conductor(Surroundings(devices, service, site, broker, influx, world))
        service.start()
        conductor.register()
        metronome = stack.enter_context(Metronome(bench))
        watch = stack.enter_context(Watch(service))
        listener = stack.enter_context(Listener(broker.port))
        begun_s = time.monotonic()
        conductor.perform(make_plan(duration_s, devices, seed), begun_s)
        _sleep_until(begun_s + duration_s - _CALM_S, service)
        settled_s, faults = _settle(service)
        _sleep_until(max(begun_s + duration_s, time.monotonic() + _CALM_S), service)
        ended_s = time.monotonic()
        late = metronome.late()
        service.stop()
        service.export(folder / "export.csv")
        with (folder / "export.csv").open(newline="", encoding="utf-8") as lines:
            recorded = list(read_export(lines))
        return Facts(
            begun_s=begun_s,
            ended_s=ended_s,
            unix_s=time.time() - time.monotonic(),
            commit_interval_s=COMMIT_INTERVAL_S,
            devices={device.number: device for device in devices},
            meters=conductor.meters,
            served=site.served(),
            recorded=recorded,
            uplinked=_uplinked(influx),
            shown=[*watch.shown, *listener.shown],
            loads=watch.loads,
            windows=conductor.windows,
            lives=service.lives,
            late=late,
            offsets=world.offsets,
            samples=watch.samples,
            unanswered=watch.unanswered,
            answered=watch.answered,
            end=_end(service, settled_s, faults),
            log=service.log_file.read_text(errors="replace"),
        )


def _sleep_until(mono_s: float, service: Service) -> None:
    while (wait_s := mono_s - time.monotonic()) > 0:
        service.check()
        time.sleep(min(wait_s, 0.5))


def _settle(service: Service) -> tuple[float | None, list[str]]:
    """Wait until all is well: how long that took, or what still is not."""
    begin_s = time.monotonic()
    while True:
        service.check()
        faults = list(_faults(service))
        waited_s = time.monotonic() - begin_s
        if not faults:
            return waited_s, _given_up(service)
        if waited_s > _SETTLES_WITHIN_S:
            return None, [*faults, *_given_up(service)]
        time.sleep(0.5)


def _faults(service: Service) -> list[str]:
    """Say what is not well now, but may yet become so."""
    system, load = service.data("/api/system"), service.data("/api/load/status")
    faults = [f"{count} meters {status}" for status, count in _not_online(system["meters"])]
    if load["quality"] != "good":
        faults += load["reasons"]
    for sink in system["sinks"]:
        if not sink["connected"] or sink["backlog"]:
            why = sink["lastError"] or "it does not say why"
            faults.append(f"{sink['name']} has {sink['backlog']} readings waiting: {why}")
    journal = system["journal"]
    if not journal["recording"] or journal["lastError"]:
        faults.append(f"the journal says: {journal['lastError']}")
    for alert in service.data("/api/alerts"):
        if alert["until"] is None:
            faults.append(f"an alert holds: {alert['message']}")
    return faults


def _not_online(meters: dict[str, int]) -> list[tuple[str, int]]:
    return [(status, count) for status, count in meters.items() if status != "online" and count]


def _given_up(service: Service) -> list[str]:
    """Say what the last process let go for good."""
    system = service.data("/api/system")
    journal = system["journal"]
    faults = [f"the journal dropped {journal['dropped']}"] if journal["dropped"] else []
    for sink in system["sinks"]:
        counts = (("rejected", sink["rejected"]), ("lost", sink["lost"]))
        faults += [f"{sink['name']}: {count} {what}" for what, count in counts if count]
    return faults


def _end(service: Service, settled_s: float | None, faults: list[str]) -> End:
    broken = [path.name for path in service.state_dir.iterdir() if "broken" in path.name]
    with closing(sqlite3.connect(service.state_dir / FILE_NAME)) as database:
        (integrity,) = database.execute("PRAGMA integrity_check").fetchone()
    return End(settled_s, faults, broken, integrity)


def _uplinked(influx: Influxd) -> list[Recorded]:
    fields = "power_kw, energy_kwh, voltage_v, current_a"
    rows: list[dict[str, Any]] = influx.query(
        f"SELECT {fields} FROM meter_reading GROUP BY meter_id", "charging_data"
    )
    return [
        Recorded(
            row["time"],
            row["meter_id"],
            *signature(row["voltage_v"], row["current_a"]),
            row["power_kw"],
            row["energy_kwh"],
        )
        for row in rows
    ]


def _keep_log(folder: Path, report: Path) -> None:
    log = folder / "service.log"
    if log.exists():
        shutil.copy(log, report / log.name)


def _report(facts: Facts, folder: Path, what: str) -> int:
    verdicts = judge(facts)
    cores = len(os.sched_getaffinity(0))
    about = (
        f"{what}; {len(facts.devices)} devices, {len(facts.windows)} faults, "
        f"{len(facts.lives)} processes; {cores} cores, Python {platform.python_version()}, "
        f"{platform.platform()}."
    )
    text = markdown(facts, verdicts, about)
    (folder / "report.md").write_text(text)
    (folder / "curves.svg").write_text(curves(facts))
    with (folder / "samples.csv").open("w", newline="") as file:
        csv.writer(file).writerows([_SAMPLED, *(_row(facts, each) for each in facts.samples)])
    with (folder / "faults.csv").open("w", newline="") as file:
        rows = [
            (f"{from_s - facts.begun_s:.1f}", f"{to_s - facts.begun_s:.1f}", kind, *sorted(hit))
            for from_s, to_s, kind, hit in facts.windows
        ]
        csv.writer(file).writerows([("from_s", "to_s", "fault", "devices"), *rows])
    print(text)
    print(f"The report is in {folder}.")
    return 0 if all(verdict.ok is not False for verdict in verdicts) else 1


_SAMPLED = ("time_s", *Sample._fields[1:9])


def _row(facts: Facts, sample: Sample) -> list[object]:
    return [round(sample.mono_s - facts.begun_s, 1), *sample[1:9]]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
