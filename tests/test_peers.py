"""The peers themselves: what tests rely on them for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers import (
    LibmodbusServer,
    MbpollError,
    free_port,
    mbpoll,
    pty_pair,
    wait_until,
)


def test_libmodbus_serves_one_connection_after_another_over_tcp() -> None:
    with LibmodbusServer({20480: 29, 20490: 5002}, {7: 65535}) as server:
        where = ("-p", str(server.port), server.host)
        assert mbpoll(*where, address=20480, count=11) == [29, *[0] * 9, 5002]
        assert mbpoll(*where, address=7, register_type="3") == [65535]
        server.set_registers({20480: 30}, {7: 8})
        assert mbpoll(*where, address=20480) == [30]
        assert mbpoll(*where, address=7, register_type="3") == [8]


def test_libmodbus_refuses_what_is_outside_its_registers() -> None:
    with LibmodbusServer({100: 1}) as server:
        where = ("-p", str(server.port), server.host)
        with pytest.raises(MbpollError, match="Illegal data address"):
            mbpoll(*where, address=100, count=2)
        with pytest.raises(MbpollError, match="Illegal data address"):
            mbpoll(*where, address=100, register_type="3")


def test_libmodbus_comes_back_on_its_port_with_its_registers() -> None:
    with LibmodbusServer({1: 1}, port=free_port()) as server:
        port = server.port
        server.set_registers({1: 2})
        server.stop()
        with pytest.raises(MbpollError):
            mbpoll("-p", str(port), server.host, address=1)
        server.start()
        assert server.port == port
        assert mbpoll("-p", str(port), server.host, address=1) == [2]


def test_libmodbus_serves_rtu_also_after_the_wire_was_unplugged(tmp_path: Path) -> None:
    with (
        pty_pair(tmp_path) as wire,
        LibmodbusServer({5: 55}, device=wire.left, unit_id=3) as server,
    ):
        where = ("-m", "rtu", "-b", "9600", "-P", "none", wire.right)
        assert mbpoll(*where, unit_id=3, address=5) == [55]
        with pytest.raises(MbpollError, match="timed out"):
            mbpoll(*where, unit_id=4, address=5, timeout_s=0.2)
        wire.unplug()
        with pytest.raises(MbpollError):
            mbpoll(*where, unit_id=3, address=5)
        wire.plug()
        server.set_registers({5: 56})

        def answers() -> bool:
            try:
                return mbpoll(*where, unit_id=3, address=5, timeout_s=0.1) == [56]
            except MbpollError:
                return False

        wait_until(answers, what="an answer over the wire that was plugged in again")


def test_wait_until_fails_with_a_sentence() -> None:
    with pytest.raises(pytest.fail.Exception, match="a miracle did not come true"):
        wait_until(lambda: False, timeout_s=0.01, what="a miracle")


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.fail.Exception, match="apt-get install mbpoll"):
        mbpoll("127.0.0.1", address=1)
