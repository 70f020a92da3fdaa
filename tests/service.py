"""The real service as a process of its own, for tests that ask it over HTTP and signals."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.peers import fail, wait_until

ROOT = Path(__file__).resolve().parent.parent


class Service:
    """`dlm-edge run` on a free loopback port, with its own folder; a context manager.

    folder: gets the config file, the log and the state folder, and keeps them over restarts.
    config: TOML to begin with. arguments: further flags; they beat those given here. prelude:
    Python that the process runs before the service, to break something in it. names_state_dir:
    say with --state-dir where the state is kept.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: str = "",
        arguments: tuple[str, ...] = (),
        prelude: str = "",
        names_state_dir: bool = True,
    ) -> None:
        self.config_file = folder / "edge.toml"
        self.state_dir = folder / "state"
        self.port = 0
        """Of the run under way; 0 while none listens."""
        self._log_file = folder / "service.log"
        self._arguments = ["--config", str(self.config_file), "--port", "0"]
        if names_state_dir:
            self._arguments += ["--state-dir", str(self.state_dir)]
        self._arguments += arguments
        self._prelude = prelude
        self._process: subprocess.Popen[bytes] | None = None
        self._log_offset = 0
        self.config_file.write_text(config or "# Defaults.\n")

    @property
    def log(self) -> str:
        """What the last run wrote to standard output and standard error so far."""
        return self._log_file.read_bytes()[self._log_offset :].decode()

    @property
    def base_url(self) -> str:
        """Where it answers, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process of the last run."""
        assert self._process is not None, "the service was never launched"
        return self._process

    def launch(self) -> Service:
        """Start the process and wait for nothing."""
        program = f"{self._prelude}\nimport sys\nfrom edge.__main__ import main\nsys.exit(main())"
        command = [sys.executable, *(["-c", program] if self._prelude else ["-m", "edge"])]
        ours = {name: value for name, value in os.environ.items() if name[:9] != "DLM_EDGE_"}
        self._log_offset = self._log_file.stat().st_size if self._log_file.exists() else 0
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "run", *self._arguments],
                cwd=ROOT,
                env=ours,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.port = 0
        return self

    def start(self) -> Service:
        """Start the process; returns when it is ready. The port may be another than before."""
        self.launch()
        self.wait_until(lambda: "Listening on" in self.log, "listening")
        self.port = int(re.findall(r"Listening on https?://\S+:(\d+)", self.log)[-1])
        self.wait_until(lambda: self.request("GET", "/readyz")[0] == 200, "ready")
        return self

    def wait_until(self, condition: Any, what: str, timeout_s: float = 10.0) -> None:
        """Wait for something that the running service is to do; fail with its log if it does not.

        Fails at once when the process ends.
        """
        came = False

        def done() -> bool:
            nonlocal came
            has_ended = self.process.poll() is not None
            came = bool(condition())
            return came or has_ended

        wait_until(done, timeout_s=timeout_s, what=f"{what}; the service's log:\n{self.log}\nit")
        if not came:
            fail(f"the service ended with {self.process.returncode}, not {what}:\n{self.log}")

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask the service once: the status, and the answer, from JSON where it is JSON.

        Raises OSError or http.client.HTTPException when there is no answer.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, json.loads(content) if is_json else content.decode()

    def data(self, path: str) -> Any:
        """GET a path that must be answered with success; its `data`."""
        status, answer = self.request("GET", path)
        assert status == 200, answer
        return answer["data"]

    def register(self, document: dict[str, Any]) -> Any:
        """Register a meter, which must succeed; its `data`."""
        status, answer = self.request("POST", "/api/energy-meters", document)
        assert status == 201, answer
        return answer["data"]

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def exit_code(self, timeout_s: float = 10.0) -> int:
        """Wait for the process to end by itself; the exit code, negative for a signal."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return int(fail(f"the service did not end within {timeout_s:g} s:\n{self.log}"))

    def stop(self) -> int:
        """Send SIGTERM and wait; the exit code."""
        self.signal(signal.SIGTERM)
        return self.exit_code()

    def kill(self) -> None:
        """End the process as a power cut would; nothing happens when it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Service:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
