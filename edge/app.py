"""The service put together: built from the configuration, started, reloaded and stopped.

Threads: main runs the cycle; `line-*` one per line; `http` accepts and `http-*` serve one client
each; `live` pushes to WebSocket clients; `scrypt` hashes the tokens that clients send; `journal`
writes the journal and `uplink-*` feed one sink each; `log` writes the log; `reload` waits for
SIGHUP; `register` brings in a demo's meters; `watchdog` ends the process when one of them hangs.
Of two it does not: of `register`, which is for demos, and of `log`, which may wait for ever for who
takes no log any more. All but main are daemons, so nothing that hangs can keep the process from
ending.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn, cast
from zoneinfo import ZoneInfo

from edge import __version__
from edge.alertlog import AlertLog
from edge.alerts import AlertRules
from edge.api.analytics import AnalyticsAnswers, SiteRates
from edge.api.dispatch import ALIVE_WITHIN_S, Api, access_of, refusal
from edge.api.door import Door
from edge.api.history import HistoryAnswers
from edge.api.live import Live
from edge.api.route import Service
from edge.api.server import ApiServer
from edge.clock import Clock
from edge.config import changes_that_need_restart
from edge.cycle import Cycle, SiteLimits
from edge.disk import StateDisk
from edge.drivers import Driver, Listener, load_driver, make_driver
from edge.errors import ConfigError, DlmError, StateError
from edge.heartbeat import Heartbeat, Heartbeats
from edge.image import ProcessImage
from edge.keeper import Keeper
from edge.library import library_of
from edge.line import LineThread, ListenLine, PollLine
from edge.logs import Log
from edge.meterspec import References
from edge.model import Meter, PollResult, Snapshot
from edge.notify import Notifier, NotifySocket
from edge.prober import Prober
from edge.registry import Registry
from edge.settings import Config
from edge.tokens import Tokens
from edge.watchdog import Watchdog

log = logging.getLogger("edge.app")

START_WITHIN_S = 180.0
"""The folder is read and the host's name resolved; who is not done by then hangs. On a disk that
does not answer for 120 s is what the kernel calls hung (see `edge.journal.writer`)."""
TICK_WITHIN_S = 18.0
"""A tick does no I/O; a cycle that is not heard of for longer hangs. With three looks of the
watchdog that is less than the unit's WatchdogSec= leaves it since the last feeding, so that we say
where."""
RELOAD_WITHIN_S = 180.0
"""It reads from the card that a start may wait for as long."""
STOP_WITHIN_S = 4.5
END_WITHIN_S = 15.0
"""To stop, with some time for a slow disk; less than the unit's TimeoutStopSec=."""
STACK_BYTES = 2 * 1024 * 1024
"""Of each thread but main. Hundreds of lines shall fit into a 32-bit address space, where the usual
8 MiB are used up by some 350 threads; and JSON that is nested as deeply as Python 3.13 takes it,
which needs 1.3 MiB, shall not overflow the stack of who parses it."""
SWITCH_INTERVAL_S = 0.0005
"""How long a thread that computes may keep the interpreter from one that woke up, once there are
meters that speak by themselves. A poll needs it some four times, so Python's usual 5 ms would make
it late while a flood of messages is decoded. It costs a tenth more time, so not without need."""
SPARE_FILES = 32
"""Open files beside lines and clients: the log, state files, the folder's lock, the listener."""


class App:
    """One running service.

    load_config: reads the configuration again when SIGHUP comes; raises ConfigError.
    """

    def __init__(self, config: Config, load_config: Callable[[], Config]) -> None:
        self._config = config
        self._rates = _rates(config)
        self._load_config = load_config
        self._reloads: SimpleQueue[None] = SimpleQueue()
        self._clock = Clock()
        self._log = Log(config.log.level, form=config.log.format)
        self._heartbeat, self._reload_heartbeat = Heartbeat("main"), Heartbeat("reload")
        self._heartbeats = Heartbeats()
        self._watchdog = Watchdog(self._heartbeats, self._clock, self._exit)
        self._image = ProcessImage()
        self._keeper = Keeper(config, self._clock)
        self._cycle = Cycle(
            config.cycle.tick_ms,
            _limits(config),
            self._image,
            self._make_line,
            self._clock,
            [self._keeper.follow, self._watch],
        )
        self._notifier = Notifier(
            NotifySocket(),
            lambda: self._keeper.has_begun,
            lambda: self._watchdog.all_is_well,
            self._keeper.state,
        )
        self._alert_log = AlertLog(_alert_rules(config), self._keeper.state)
        self._tokens = Tokens(Path(config.state.dir))
        self._door = Door(self._tokens, access_of, config.api, self._clock)
        self._live = Live(
            lambda: self._alert_log.known,
            self._door.admits,
            self._clock,
            max_clients=config.api.max_ws_clients,
            alive_within_s=ALIVE_WITHIN_S,
        )
        self._disk = StateDisk(Path(config.state.dir), self._clock)
        self._cycle.metrics.add_service(
            __version__,
            lambda: self._alert_log.rules.high_consumption_kw,
            self._disk.space,
        )
        self._cycle.metrics.add_keeping(self._keeper.state)
        self._cycle.metrics.add_outlook(
            lambda: self._alert_log.current,
            lambda: self._live.clients,
            lambda: self._live.closed_slow,
        )
        self._protocols: set[str] = set()
        self._library = library_of(config)
        references = References(self._library, config.mqtt.all(), config.security.reach)
        self._server: ApiServer | None = None
        self._registry = Registry(Path(config.state.dir), references, self._take_over)

    def run(self, registrations: Sequence[Mapping[str, Any]] = (), notice: str = "") -> None:
        """Serve until SIGTERM or SIGINT. Main thread only.

        registrations: meters to register, or to update where their name is known. notice: a
        sentence that the log begins with.
        Raises ConfigError or StateError when the service cannot start.
        """
        threading.excepthook = self._end_on_bug
        self._watch_signals()
        self._watch_threads()
        with ExitStack() as stack:
            self._log.start()
            stack.callback(self._log.stop)
            if notice:
                log.info("%s", notice)
            stack.callback(self._registry.close)
            try:
                self._serve(registrations)
            except (ConfigError, StateError):
                raise
            except Exception as exc:  # noqa: BLE001  it ends the process
                self._end_process("main", exc)

    def _serve(self, registrations: Sequence[Mapping[str, Any]]) -> None:
        self._registry.open()
        self._tokens.issue_local()
        for notice in self._registry.notices:
            log.error("%s", notice)
        self._allow_files()
        self._keeper.start()
        self._take_over(self._registry.meters)
        self._server = server = self._make_server()
        self._live.start()
        server.start()
        log.info("Listening on %s", server.base_url)
        if registrations:
            self._start_thread("register", self._register_all, registrations)
        self._cycle.run()
        log.info("Stopping")
        self._heartbeat.due_within(END_WITHIN_S)
        self._notifier.stopping()
        server.close(time.monotonic() + STOP_WITHIN_S / 6)
        self._live.close(time.monotonic() + STOP_WITHIN_S / 6)
        self._cycle.close_lines(STOP_WITHIN_S / 3)
        self._keeper.close(STOP_WITHIN_S / 3)

    def _allow_files(self) -> None:
        """Raise the soft limit of open files as far as may be; say when that is too little."""
        lines = {meter.communication.endpoint for meter in self._registry.meters}
        clients = self._config.api.max_connections + self._config.api.max_ws_clients
        needed = len(lines) + clients + SPARE_FILES
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with suppress(ValueError, OSError):  # a system may have a limit above this one
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if soft != resource.RLIM_INFINITY and soft < needed:
            log.warning(
                "Only %d files may be open, but %d lines and %d clients need %d; raise "
                "LimitNOFILE= of the unit, or `ulimit -n`.",
                soft, len(lines), clients, needed,
            )  # fmt: skip

    def _watch_threads(self) -> None:
        """Begin to watch this thread and those that start from here on."""
        threading.current_thread().name = self._heartbeat.worker
        self._heartbeat.due_within(START_WITHIN_S)
        self._heartbeats.add(
            self._heartbeat,
            self._reload_heartbeat,
            self._live.heartbeat,
            self._tokens.heartbeat,
            *self._keeper.heartbeats,
        )
        self._watchdog.start()

    def _watch(self, snapshot: Snapshot, results: Sequence[PollResult]) -> None:
        """Look for what is wrong, then show how things are, and that the cycle is alive."""
        self._alert_log.update(snapshot)
        self._live.publish(snapshot)
        self._heartbeat.due_within(TICK_WITHIN_S)
        self._notifier.follow(snapshot, results)

    def _make_server(self) -> ApiServer:
        config = self._config
        service = Service(
            snapshot=lambda: self._cycle.snapshot,
            registry=self._registry,
            library=self._library,
            probe=Prober(self._cycle.probe, self._make_driver).probe,
            history=HistoryAnswers(self._keeper.readers),
            metrics=self._cycle.metrics,
            keeping=self._keeper.state,
            alerts=lambda: self._alert_log.known,
            analytics=AnalyticsAnswers(self._keeper.readers, lambda: self._rates, self._clock),
            live=self._live,
            log_lines=self._log.recent,
            door=self._door,
            clock=self._clock,
            disk=self._disk.space,
            versions=_versions(),
            about={
                "version": __version__,
                "site": {"id": config.site.id, "name": config.site.name},
                "notices": list(self._registry.notices),
            },
            started_mono_s=self._clock.mono_s(),
        )
        return ApiServer(
            Api(service).handle,
            refusal,
            host=config.api.host,
            port=config.api.port,
            max_connections=config.api.max_connections,
            authorize=self._door.authorize,
            allowed_hosts=config.api.allowed_hosts,
            cert_file=config.api.cert_file,
            key_file=config.api.key_file,
            heartbeats=self._heartbeats,
        )

    def _take_over(self, meters: tuple[Meter, ...]) -> Future[None]:
        """Give the cycle new meters, after what would keep it waiting when it makes their lines."""
        protocols = {meter.protocol for meter in meters}
        for protocol in protocols:
            load_driver(protocol)
        if any(meter.poll_interval_ms is None for meter in meters):
            sys.setswitchinterval(SWITCH_INTERVAL_S)
        if not protocols <= self._protocols:
            self._protocols |= protocols
            # Modules stay for good. Looking through them again and again would stop all threads
            # for longer than a poll may be late.
            gc.collect()
            gc.freeze()
        return self._cycle.change_meters(meters)

    def _make_line(self, meter: Meter) -> LineThread:
        driver = self._make_driver(meter)
        line: LineThread
        if meter.poll_interval_ms is None:
            line = ListenLine(meter.line, cast(Listener, driver), self._image.put, self._clock)
        else:
            line = PollLine(meter.line, cast(Driver, driver), self._image.put, self._clock)
        self._heartbeats.add(line.heartbeat)
        return line

    def _make_driver(self, meter: Meter) -> Driver | Listener:
        return make_driver(meter, self._clock, self._config)

    def _register_all(self, registrations: Sequence[Mapping[str, Any]]) -> None:
        known = {meter.name.casefold(): meter.id for meter in self._registry.meters}
        for document in registrations:
            id_ = known.get(document["name"].casefold())
            try:
                if id_ is not None:
                    self._registry.update(id_, document)
                else:
                    self._registry.add(document)
            except DlmError as exc:
                log.error("%s is not registered: %s", document["name"], exc)

    @staticmethod
    def _start_thread(name: str, target: Callable[..., None], *args: Any) -> None:
        threading.Thread(target=target, args=args, name=name, daemon=True).start()

    def _watch_signals(self) -> None:
        """Handlers only put on queues: they may interrupt anything, also the holder of a lock."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: self._cycle.stop())
        signal.signal(signal.SIGHUP, lambda _number, _frame: self._reloads.put(None))
        self._start_thread("reload", self._reload_on_signal)

    def _reload_on_signal(self) -> None:
        while True:
            self._reload_heartbeat.rest()
            self._reloads.get()
            self._reload_heartbeat.due_within(RELOAD_WITHIN_S)
            self._notifier.reloading()
            self._reload()
            self._notifier.reloaded()

    def _reload(self) -> None:
        """Let a changed configuration take effect, as far as it can while the service runs."""
        try:
            config = self._load_config()
        except ConfigError as exc:
            for fault in str(exc).splitlines():
                log.error("%s", fault)
            log.error("The configuration was not reloaded; the one before stays in force.")
            fault = str(exc).splitlines()[0]
            self._alert_log.rules = replace(self._alert_log.rules, config_fault=fault)
            return
        for key in changes_that_need_restart(self._config, config):
            log.warning("%s was changed; it takes effect at the next start.", key)
        self._log.set_level(config.log.level)
        self._log.set_form(config.log.format)
        self._cycle.change_limits(_limits(config))
        self._alert_log.rules = _alert_rules(config)
        self._rates = _rates(config)
        if self._server is not None:
            self._server.reload_certificate()
        log.info("The configuration was reloaded")

    def _end_on_bug(self, args: threading.ExceptHookArgs) -> None:
        self._end_process(args.thread.name if args.thread is not None else "?", args.exc_value)

    def _end_process(self, thread: str, bug: BaseException | None) -> NoReturn:
        """A bug in any thread ends the process, with its traceback; systemd starts it again.

        Only the log writes: standard error may be gone, full or stuck, and nothing that is done
        with it may keep old values from ending with the process.
        """
        try:
            log.critical("Bug in thread %s:", thread, exc_info=bug)
        finally:
            self._exit()

    def _exit(self) -> NoReturn:
        """End the process as failed, once the log is written; no thread is waited for."""
        try:
            self._log.stop()
        finally:
            os._exit(1)


def run_service(
    config: Config, load_config: Callable[[], Config], *, demo: bool, notice: str = ""
) -> None:
    """Run the service; blocks until a signal ends it. Main thread only.

    demo: serve a simulated site too, and register its meters. notice: as of `App.run`.
    Raises ConfigError or StateError when the service cannot start.
    """
    threading.stack_size(STACK_BYTES)
    _share_one_heap()
    # For systemd's SIGABRT too, when its watchdog finds that the interpreter itself hangs.
    faulthandler.enable(file=2)
    if not demo:
        App(config, load_config).run(notice=notice)
        return
    from edge.simulate import DemoSite  # only a demo pays for the simulator

    with DemoSite() as site:
        App(config, load_config).run(site.registrations, notice)


def _versions() -> str:
    system = os.uname()
    python = ".".join(map(str, sys.version_info[:3]))
    return (
        f"dlm-edge {__version__}, Python {python}, {system.sysname} {system.release} "
        f"({system.machine})"
    )


def _share_one_heap() -> None:
    """Have all threads take memory from one heap, and nothing large; before there are any.

    With glibc's usual heap for each, what many threads had for a while stays scattered: in ten
    minutes of faults the process grew to 48 MB instead of 42. And what is large, as a meter's hour,
    leaves holes there once one of its size was given back, unless the size from which on it goes
    back to the system is fixed. Elsewhere there is no such call. Source: mallopt(3), M_ARENA_MAX
    and M_MMAP_THRESHOLD of malloc.h.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(-8, 1)
        library.mallopt(-3, 64 * 1024)


def _alert_rules(config: Config) -> AlertRules:
    return AlertRules(config.cycle.tick_ms, config.load.high_consumption_kw)


def _rates(config: Config) -> SiteRates:
    return SiteRates(
        ZoneInfo(config.site.timezone),
        config.site.grid_capacity_kw,
        config.load.failsafe_available_kw,
        config.site.price_per_kwh,
        config.site.currency,
    )


def _limits(config: Config) -> SiteLimits:
    return SiteLimits(config.site.grid_capacity_kw, config.load.failsafe_available_kw)
