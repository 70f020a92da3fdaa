"""`dlm-edge cert`: a certificate that vouches for itself, so that HTTPS works from the first day.

The system's `openssl` makes it. Browsers warn of such a certificate once; one of an authority that
they trust takes its place in the same two files.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edge.atomic import replace_file, sync_folder
from edge.checks import is_address
from edge.clock import Clock
from edge.era import RELEASED_UNIX_MS
from edge.errors import DlmError
from edge.settings import Config
from edge.times import timestamp

CERT_FILE, KEY_FILE = "cert.pem", "key.pem"
_EXAMPLES = """examples:
  dlm-edge cert --host 192.168.1.50 --host energy.example.com
  dlm-edge cert --days 365 --replace

Name each address and name that the service is opened at in a browser.
"""
_CONFIG = """[req]
prompt = no
distinguished_name = name
x509_extensions = extensions
[name]
CN = dlm-edge
[extensions]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
subjectAltName = {names}
"""
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"(?=.{{1,253}}$)(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_TIMEOUT_S = 60.0


class _CertError(DlmError):
    """The pair cannot be made; one sentence."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `dlm-edge cert`."""
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "--host",
        dest="hosts",  # `host` is where the service listens
        action="append",
        type=_host,
        metavar="NAME",
        help="name or address of this machine; may be repeated (default: its own name)",
    )
    add("--days", type=_days, default=825, metavar="N", help="how long it is good (default 825)")
    add("--out", type=Path, metavar="DIR", help="folder for the two files (default: the state's)")
    add("--replace", action="store_true", help="take the place of a pair that is there already")


def run(args: argparse.Namespace, config: Config) -> int:
    """Make the pair, and print what to write into the configuration. Gives the exit code."""
    folder: Path = (args.out or Path(config.state.dir)).absolute()
    cert, key = folder / CERT_FILE, folder / KEY_FILE
    hosts = [*dict.fromkeys([*(args.hosts or _own_names()), "localhost", "127.0.0.1", "::1"])]
    try:
        _refuse_unset_clock(Clock().unix_ms())
        if not args.replace:
            _refuse_existing(cert, key)
        _write(cert, key, *_make_pair(hosts, args.days))
    except _CertError as exc:
        print(exc, file=sys.stderr)
        return 1
    print(f"A certificate for {', '.join(hosts)}, good for {args.days} days:", file=sys.stderr)
    print(f"[api]\ncert_file = {json.dumps(str(cert))}\nkey_file = {json.dumps(str(key))}")
    print("Write this into the configuration, and restart the service.", file=sys.stderr)
    return 0


def _host(value: str) -> str:
    if is_address(value) and "%" not in value:  # which no certificate can say
        return str(ipaddress.ip_address(value))
    if _NAME.fullmatch(value):
        return value.lower()
    raise argparse.ArgumentTypeError(f"{value!r} is no host name or IP address")


def _days(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", value) or not 1 <= int(value) <= 36_500:
        raise argparse.ArgumentTypeError(f"must be 1 to 36500 days, not {value!r}")
    return int(value)


def _own_names() -> list[str]:
    """What this machine is called, as far as a certificate can say it."""
    name = socket.gethostname().lower()
    if not _NAME.fullmatch(name):
        return []
    return [name] if "." in name else [name, f"{name}.local"]


def _refuse_unset_clock(now_ms: int) -> None:
    if now_ms < RELEASED_UNIX_MS:
        raise _CertError(
            f"The clock says {timestamp(now_ms)}, so the certificate would be good for days long "
            "gone; set the clock first."
        )


def _refuse_existing(*files: Path) -> None:
    for file in files:
        if os.path.lexists(file):
            raise _CertError(f"{file} is there already; give --replace, or another --out.")


def _make_pair(hosts: Sequence[str], days: int) -> tuple[bytes, bytes]:
    """Give a certificate and its key as PEM. Raises _CertError; blocks for about a second."""
    names = ", ".join(f"{'IP' if is_address(host) else 'DNS'}:{host}" for host in hosts)
    with tempfile.TemporaryDirectory(prefix="dlm-edge-cert-") as private:
        config = Path(private) / "openssl.cnf"
        config.write_text(_CONFIG.format(names=names))
        command = [
            *("openssl", "req", "-x509", "-config", "openssl.cnf", "-days", str(days), "-nodes"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-sha256"),
            *("-keyout", KEY_FILE, "-out", CERT_FILE),
        ]
        try:
            subprocess.run(
                command,
                cwd=private,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TIMEOUT_S,
                check=True,
            )
            return (Path(private) / CERT_FILE).read_bytes(), (Path(private) / KEY_FILE).read_bytes()
        except FileNotFoundError as exc:
            raise _CertError(
                "The program openssl is missing; install it (`apt-get install openssl`)."
            ) from exc
        except subprocess.CalledProcessError as exc:
            words = exc.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise _CertError(f"openssl failed ({words[-1][:200]!r}); update it.") from exc
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise _CertError(f"openssl cannot be run ({exc}); repair its installation.") from exc


def _write(cert: Path, key: Path, cert_pem: bytes, key_pem: bytes) -> None:
    try:
        cert.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(key, key_pem)
        replace_file(cert, cert_pem, 0o644)
        sync_folder(cert.parent)
    except OSError as exc:
        raise _CertError(
            f"The pair cannot be written to {cert.parent} ({exc.strerror}); give --out a folder "
            "that this user may write."
        ) from exc
