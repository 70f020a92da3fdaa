"""What the Modbus device of a template of the device library would say.

A template's data are used as they are written; what the service makes of them (`expand`, its
decoders) is not, so that it cannot decide what its simulated device does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge.simulate import sunspec
from edge.simulate.device import Source
from edge.template import Template

_REVERSED = ("power", "powerL1", "powerL2", "powerL3", "reactivePower")
"""What a registration's `invert` turns the sign of."""


class ModbusDevice:
    """A Modbus device by its template."""

    def __init__(self, template: Template) -> None:
        self._sunspec: str | None = template.communication.get("sunspec")
        self._identify = template.identify
        self._invert = template.communication.get("invert", False)
        self.layout: Mapping[str, Any] = (
            sunspec.layout(self._sunspec) if self._sunspec else template.communication
        )
        """Its registers, as a registration's `communication` has them; see Layout."""

    def constants(self, unit_id: int) -> tuple[dict[int, int], dict[int, int]]:
        """Give the holding and the input registers that tell what it is."""
        holding = sunspec.words(self._sunspec, unit_id) if self._sunspec else {}
        identify = self._identify
        if identify is None:
            return holding, {}
        size = 2 * identify.count
        if identify.text is not None:
            raw = identify.text.encode("ascii").ljust(size, b"\0")
        else:
            raw = identify.values[0].to_bytes(size, "big")
        words = [int.from_bytes(raw[at : at + 2], "big") for at in range(0, size, 2)]
        identity = dict(enumerate(words, identify.address))
        if identify.register_type == "input":
            return holding, identity
        return {**holding, **identity}, {}

    def measured(self, source: Source) -> Source:
        """Give what it must measure for a registration by the template to read `source`."""
        return measured(source, "powerExport" in self.layout["registers"], self._invert)


def measured(source: Source, exports: bool, inverted: bool) -> Source:
    """Give what a device measures where its registration reads `source`.

    exports: it gives import and export apart. inverted: as the registration's `invert`. A site
    that only consumes or only produces exports nothing, unless the sign is to be turned.
    """

    def now() -> dict[str, float]:
        values = {**source(), "powerExport": 0.0, "energyExport": 0.0}
        if inverted:
            values |= {name: -values[name] for name in _REVERSED}
            if exports:
                values |= {"power": 0.0, "powerExport": -values["power"]}
        return values

    return now
