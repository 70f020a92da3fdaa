"""`tools/bench/run`: measure the rows asked for and print them as one table.

    figure       one line of the table, and the statistics that go into it   (pure)
    process      children of the benchmark: started, looked at in /proc, ended
    peers        the Modbus meters: simulated in a process of their own
    sites        MQTT and HTTP meters, likewise
    broker       a real MQTT broker, and who publishes through it
    service      the service under test
    floors       what the service is measured against: the least that does the same
    readings     what believable meters say, and a clock that is turned by hand   (pure)
    journals     journals that are there already, and processes that write and read others
    influx       a real InfluxDB
    cost, punctuality, recovery, rest, capacity, flood, mixed, library, sealed, keeping, drain,
    live, paint: rows

Whatever takes part is a process of its own on loopback. What the service does on time is judged
by when its requests arrive at the peers, not by what it says of itself.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tools.bench import (
    capacity,
    cost,
    drain,
    flood,
    keeping,
    library,
    live,
    mixed,
    paint,
    punctuality,
    recovery,
    rest,
    sealed,
)
from tools.bench.figure import HEADINGS, Figure, table_line
from tools.bench.process import Bench, BenchError

Row = Callable[[Bench], list[Figure]]

ROWS: dict[str, Row] = {
    "start": cost.start,
    "cost": cost.cost,
    "periods": punctuality.periods,
    "shared": punctuality.shared_line,
    "recovery": recovery.recovery,
    "rest": rest.rest,
    "most": capacity.most_on_own_lines,
    "most-shared": capacity.most_behind_gateways,
    "500": capacity.five_hundred,
    "mqtt": flood.mqtt,
    "mixed": mixed.mixed,
    "requests": library.requests,
    "sealed": sealed.sealed,
    "append": keeping.append,
    "flash": keeping.flash,
    "day": keeping.day,
    "history": keeping.history,
    "drain": drain.drain,
    "live": live.delay,
    "live-stuck": live.stuck,
    "paint": paint.paint,
}


def main() -> int:
    """Run the rows; gives the exit code: 0 all measured, 1 one could not be, 2 wrong use."""
    parser = argparse.ArgumentParser(
        prog="tools/bench/run",
        description="Measure the service against its goals.",
        epilog="Rows: " + "; ".join(f"{name}: {row.__doc__}" for name, row in ROWS.items()),
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="default: all")
    parser.add_argument("--quick", action="store_true", help="shorter and less certain")
    args = parser.parse_args()
    unknown = [name for name in args.rows if name not in ROWS]
    if unknown:
        parser.error(f"there is no row {unknown[0]!r}; choose from {', '.join(ROWS)}")
    # Either way the context managers end the children. In the background a shell ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))
    _allow_files()
    print(_machine() + ("; --quick" if args.quick else ""), flush=True)
    print(f"\n{table_line(HEADINGS)}\n{table_line(['---'] * len(HEADINGS))}", flush=True)
    started_mono_s, failed = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="dlm-edge-bench-") as folder:
        bench = Bench(Path(folder), quick=args.quick)
        for name in args.rows or ROWS:
            failed += not _run(name, bench)
    print(f"\n{time.monotonic() - started_mono_s:.0f} s in all")
    return 1 if failed else 0


def _run(name: str, bench: Bench) -> bool:
    load, since_mono_s, others_s = os.getloadavg()[0], time.monotonic(), _others_cpu_s()
    try:
        figures = ROWS[name](bench)
    except BenchError as error:
        print(table_line([name, f"could not be measured: {error}"]), flush=True)
        return False
    others_s = max(0.0, _others_cpu_s() - others_s)  # the clocks of /proc tick in 10 ms
    busy = f"{load:.2f}, {others_s / (time.monotonic() - since_mono_s):.0%} of a core"
    for figure in figures:
        print(table_line([name, *figure.cells(), busy]), flush=True)
    return True


def _machine() -> str:
    name = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores ({name}), Python {platform.python_version()}, {platform.platform()}"


def _others_cpu_s() -> float:
    """Processor time so far of all that is not this benchmark, nor a child of it that has ended."""
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = (
        int(ticks) / os.sysconf("SC_CLK_TCK")
        for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    own = os.times()
    own_s = own.user + own.system + own.children_user + own.children_system
    return user + nice + system + irq + softirq + steal - own_s


def _allow_files() -> None:
    """Raise the soft limit of open files for all children: a thousand lines want as many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
