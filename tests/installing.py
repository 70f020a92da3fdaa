"""The tools that install the service: run on this machine, and in a Debian of our own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.debian import DebianRoot, Machine

ROOT = Path(__file__).resolve().parent.parent
RELEASES = "/opt/dlm-edge/releases"
PORT = 3000
BUNDLED = ("edge", "config", "systemd", "tools", "pyproject.toml", "README.md", "LICENSE")

in_a_debian = pytest.mark.skipif(
    "TEST_INSTALL" not in os.environ, reason="takes minutes and a network: tools/test --install"
)


def run_tool(tool: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool with the system's Python, which a Debian root has as well."""
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    return subprocess.run(
        [tool, *arguments],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def bundle(output: Path, *arguments: str, tree: Path = ROOT, tool: str = "bundle") -> Path:
    """Make an archive (or a package, with another tool); its path."""
    made = run_tool(tree / "tools" / tool, *arguments, "--python", "3.11", "--output", output)
    assert made.returncode == 0, made.stderr
    return Path(made.stdout.strip())


def changed_tree(folder: Path, version: str, **changes: tuple[str, str]) -> Path:
    """A copy of what is bundled, as another version; changes: file → what to replace by what."""
    for name in BUNDLED:
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__")
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignore)
        else:
            shutil.copy(source, folder / name)
    files = {"pyproject.toml": ('version = "0.1.0"', f'version = "{version}"')}
    files["edge/__init__.py"] = ('"0.1.0"', f'"{version}"')
    for name, (old, new) in {**files, **changes}.items():
        text = (folder / name).read_text()
        assert old in text, f"{name} does not hold {old}"
        (folder / name).write_text(text.replace(old, new))
    return folder


def copied(debian: DebianRoot, file: Path) -> str:
    """Copy a file in; its path there."""
    shutil.copy(file, debian.path / "root" / file.name)
    return f"/root/{file.name}"


def unpacked(debian: DebianRoot, archive: Path) -> str:
    """Copy an archive in and unpack it there; the folder that comes of it."""
    debian.run("tar", "-xf", copied(debian, archive), "-C", "/root")
    return f"/root/{archive.name.removesuffix('.tar.gz')}"


def install(machine: Machine, archive: Path) -> subprocess.CompletedProcess[str]:
    """Install an archive as it was copied in, by the tool that is in it."""
    tool = f"{unpacked(machine.root, archive)}/tools/install"
    return machine.run(tool, "--bundle", f"/root/{archive.name}", check=False)


def running_version(machine: Machine) -> str:
    """What the service that runs says it is."""
    return str(json.loads(machine.get(f"http://127.0.0.1:{PORT}/api/system"))["data"]["version"])
