"""The device library: folders of template files, `<maker>-<model>.toml`, each read when asked for.

Parsing TOML takes some milliseconds a file on a slow Arm, and a site uses a few of the files.
"""

from __future__ import annotations

import errno
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edge.errors import ConfigError, Fault, Faulty
from edge.settings import Config
from edge.template import Template, parse_template

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BUILT_IN = Path(__file__).resolve().parent / "templates"
"""The folder that comes with the package."""

_NAME = re.compile(r"[a-z0-9-]{1,64}")
_LARGEST_BYTES = 1024 * 1024


class Listing(NamedTuple):
    """All that folders hold. templates: by name; faults: of the files that cannot be used."""

    templates: tuple[Template, ...]
    faults: tuple[Fault, ...]


class Library(Mapping[str, Template]):
    """Name → Template. A template is read from disk once; any thread may ask.

    folders: of two files with the same name, that in the earlier folder counts, so that a user's
    folder stands before the built-in one.
    Asking for a name reads a file: it raises KeyError when there is none of that name, and
    ConfigError, which names the file, when it cannot be used.
    """

    def __init__(self, folders: Sequence[Path] = (BUILT_IN,)) -> None:
        """Look which names there are. Raises ConfigError for a folder that cannot be read."""
        self._folders = tuple(folders)
        self._read: dict[str, Template] = {}
        self.names()

    def __getitem__(self, name: str) -> Template:
        if name not in self._read:
            # Two threads may both read it, and then agree on one object.
            self._read.setdefault(name, self._find(name))
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        """Tell whether there is a file of this name, without reading it."""
        return name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def names(self) -> tuple[str, ...]:
        """All names, in order, as they are on disk now. Raises ConfigError as the constructor."""
        return tuple(sorted({file.stem for file in self._files() if _NAME.fullmatch(file.stem)}))

    def listing(self) -> Listing:
        """Read all there is, in order of name; raises only ConfigError as the constructor."""
        templates = []
        faults = [
            Fault(str(file), "is no name of a template; rename it with a to z, 0 to 9 and '-'")
            for file in self._files()
            if not _NAME.fullmatch(file.stem)
        ]
        for name in self.names():
            try:
                templates.append(self[name])
            except KeyError:  # it was there a moment ago
                continue
            except ConfigError as exc:
                faults += (
                    Fault(": ".join(filter(None, (exc.source, fault.path))), fault.message)
                    for fault in exc.faults
                )
        return Listing(tuple(templates), tuple(faults))

    def _files(self) -> list[Path]:
        files: list[Path] = []
        for folder in self._folders:
            try:
                files += sorted(file for file in folder.iterdir() if file.suffix == ".toml")
            except OSError as exc:
                message = (
                    f"this folder of templates cannot be read ({exc.strerror}); "
                    "give one that exists and this user may read"
                )
                raise ConfigError("", [Fault(str(folder), message)]) from exc
        return files

    def _find(self, name: str) -> Template:
        if not _NAME.fullmatch(name):  # no name leads out of the folders
            raise KeyError(name)
        for folder in self._folders:
            try:
                return _read_template(folder / f"{name}.toml")
            except FileNotFoundError:
                continue
        raise KeyError(name)


def library_of(config: Config) -> Library:
    """Make the library that a configuration asks for. Raises ConfigError as the constructor."""
    own = config.templates.dir
    return Library([BUILT_IN] if own is None else [Path(own), BUILT_IN])


def _read_template(file: Path) -> Template:
    """Read one file. Raises FileNotFoundError, or ConfigError with all that is wrong with it."""
    try:
        return parse_template(file.stem, _read_document(file))
    except FileNotFoundError:
        if not file.is_symlink():
            raise
        message = "links to a file that is not there; mend the link or remove it"
    except Faulty as exc:
        raise ConfigError(str(file), exc.faults) from None
    except OSError as exc:
        message = f"cannot be read ({exc.strerror}); give a file that this user may read"
    except UnicodeDecodeError:
        message = "is not UTF-8 text; save it as UTF-8"
    except RecursionError:
        message = "is nested too deeply; a template has three levels"
    except ValueError as exc:  # what TOML forbids, and numbers that Python refuses to read
        message = f"is not valid TOML: {exc}; fix that line"
    raise ConfigError(str(file), [Fault("", message)])


def _read_document(file: Path) -> dict[str, Any]:
    # Opening a pipe blocks until someone writes, and a device may have no end.
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    if status.st_size > _LARGEST_BYTES:
        raise OSError(errno.EFBIG, "it is larger than 1 MiB")
    # Some editors put a byte order mark at the start, which TOML does not know.
    return tomllib.loads(file.read_text(encoding="utf-8-sig"))
