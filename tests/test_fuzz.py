"""The running service against its own description: whatever is asked, the answer is as described.

Schemathesis makes requests that fit the description and such that do not, and holds the answers
against it. The service cannot leave this machine meanwhile: `tests/fuzzing.py` leads all requests
to loopback, and the service's process is refused every other address.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.clock import Clock
from edge.tokenfile import Role
from edge.tokens import Tokens
from tests.http_peer import http_peer
from tests.modbus_peer import sound_peer
from tests.peers import fail, free_port
from tests.service import ROOT, Service

LEFT = "left loopback:"
GUARD = f"""
import ipaddress, sys

def guard(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        name = address[0] if isinstance(address, tuple) else "localhost"
    elif event.startswith(("socket.getaddrinfo", "socket.gethostby")):
        name = arguments[0] or "localhost"
    else:
        return
    try:
        stays = ipaddress.ip_address(name).is_loopback
    except ValueError:
        stays = name == "localhost"
    if not stays:
        print({LEFT!r}, event, repr(name), flush=True)
        raise OSError(101, "Network is unreachable")

sys.addaudithook(guard)
"""
"""Runs in the service's process before the service."""

UNCHECKED = ("positive_data_acceptance",)
"""That what is as described is taken: rules between keys are for the service to tell."""
LOCKED = "ignored_auth"
"""That nothing is given without a token: where nobody needs one, everything is."""
REGISTRATIONS = [
    argument
    for name in ("registerMeter", "updateMeter", "tryMeter")
    for argument in ("--exclude-operation-id", name)
]


class Site:
    """A running service with meters that answer and some that do not."""

    def __init__(self, service: Service, closed_port: int, modbus: int, http: int) -> None:
        self.service = service
        self._closed_port = closed_port
        registers = {"power": 0, "energy": {"address": 2, "type": "uint32"}}
        here = {"host": "127.0.0.1", "registers": registers}
        self.ids = [
            self._register("modbus", "grid", **here, port=modbus),
            self._register("modbus", "zone", **here, port=closed_port),
            self._register("http", "building", url=f"http://127.0.0.1:{http}/"),
            self._register("mqtt", "solar", topicPower="building/energy/power"),
        ]
        history = f"/api/energy-meters/{self.ids[0]}/history"
        self.service.wait_until(lambda: self.service.request("GET", history)[1]["count"], "history")

    def _register(self, protocol: str, meter_type: str, **communication: Any) -> str:
        document = {
            "name": f"{protocol} {meter_type}",
            "protocol": protocol,
            "meterType": meter_type,
            "pollInterval": 200,
            "communication": communication,
        }
        return str(self.service.register(document)["id"])

    def new_token(self, role: Role) -> str:
        """Make a token; from the first on, everyone needs one."""
        return Tokens(self.service.state_dir).add(role.value, role, Clock().unix_ms())

    def fuzz(self, *arguments: str, token: str | None = None) -> None:
        """Let Schemathesis ask, and fail with its report if anything was not as described."""
        known = json.dumps({"port": self._closed_port, "ids": self.ids})
        ours = {"SCHEMATHESIS_HOOKS": "tests.fuzzing", "DLM_FUZZ": known, "PYTHONPATH": str(ROOT)}
        if token is not None:
            arguments += ("--header", f"Authorization: Bearer {token}")
        run = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", "--no-color"),
                *("--exclude-checks", ",".join(UNCHECKED if token else (*UNCHECKED, LOCKED))),
                *("--continue-on-failure", "--warnings", "off", *arguments),
                f"{self.service.base_url}/api/openapi.json",
            ],
            env={**os.environ, **ours},
            cwd=self.service.state_dir.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if run.returncode:
            fail(f"{run.stdout}{run.stderr}\n{self.service.log[-2000:]}")
        assert self.service.process.poll() is None, self.service.log
        assert LEFT not in self.service.log


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site that nobody needs a token for."""
    closed_port = free_port()
    config = (
        f'[mqtt.brokers.default]\nhost = "127.0.0.1"\nport = {closed_port}\n'
        '[security]\nallowed_networks = ["127.0.0.0/8", "::1/128"]\n'
        "[journal]\ncommit_interval_s = 0.1\n[api]\nmetrics_public = false\n"
    )
    payload = {"power": 12.5, "energy": 100.0}
    with (
        sound_peer("tcp") as modbus,
        http_peer(lambda exchange: exchange.give(payload)) as http,
        Service(tmp_path, config=config, prelude=GUARD) as service,
    ):
        yield Site(service, closed_port, modbus.endpoint.port, http.port)


def test_the_limits_of_every_value_are_as_described(site: Site) -> None:
    """Of registrations there are thousands, which take minutes: `test_openapi` has those."""
    site.fuzz("--phases", "coverage", *REGISTRATIONS)


def test_whatever_is_asked_the_answer_is_as_described(site: Site) -> None:
    site.fuzz("--phases", "fuzzing", "--max-examples", "12")
    assert "Registered meter: Meter" in site.service.log, "nothing made up was ever taken"


@pytest.mark.parametrize("role", Role)
def test_whoever_asks_the_answer_is_as_described(site: Site, role: Role) -> None:
    token = site.new_token(role)
    site.fuzz("--phases", "fuzzing,stateful", "--max-examples", "3", token=token)
    status, answer = site.service.request("GET", "/api/energy-meters")
    assert (status, answer["code"]) == (401, "UNAUTHORIZED")
    if role is Role.READER:
        changes = ("Registered meter: Meter", "Updated meter", "Removed meter")
        assert not [change for change in changes if change in site.service.log]
