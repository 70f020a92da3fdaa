"""A SunSpec device's registers: the common model, and a three-phase meter or inverter.

The map begins with "SunS" at address 40000; a chain of models follows, each with its id and
length, and ends with model 0xFFFF of length 0. Whole numbers are multiplied by ten to the power of
a scale factor, a signed register of the same model. Made apart from whatever reads SunSpec.
Source: SunSpec Device Information Model Specification 1.1; github.com/sunspec/models,
json/model_1.json, model_103.json and model_203.json.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

BASE_ADDRESS = 40000
KINDS = {"inverter": 103, "meter": 203}
"""What a template calls `sunspec` → the model that is served."""

_COMMON_MODEL = 1
_END_MODEL = 0xFFFF
_SIGNED_NOT_IMPLEMENTED = 0x8000
_UNSIGNED_NOT_IMPLEMENTED = 0xFFFF
_PRODUCING = 4
"""An inverter's operating state MPPT."""

_POINTS = {
    103: "A AphA AphB AphC A_SF PPVphAB PPVphBC PPVphCA PhVphA PhVphB PhVphC V_SF W W_SF Hz Hz_SF "
    "VA VA_SF VAR VAR_SF PF PF_SF WH:2 WH_SF DCA DCA_SF DCV DCV_SF DCW DCW_SF "
    "TmpCab TmpSnk TmpTrns TmpOt Tmp_SF St StVnd Evt1:2 Evt2:2 EvtVnd1:2 EvtVnd2:2 EvtVnd3:2 "
    "EvtVnd4:2",
    203: "A AphA AphB AphC A_SF PhV PhVphA PhVphB PhVphC PPV PhVphAB PhVphBC PhVphCA V_SF Hz Hz_SF "
    "W WphA WphB WphC W_SF VA VAphA VAphB VAphC VA_SF VAR VARphA VARphB VARphC VAR_SF "
    "PF PFphA PFphB PFphC PF_SF TotWhExp:2 TotWhExpPhA:2 TotWhExpPhB:2 TotWhExpPhC:2 "
    "TotWhImp:2 TotWhImpPhA:2 TotWhImpPhB:2 TotWhImpPhC:2 TotWh_SF TotVAhExp:2 TotVAhExpPhA:2 "
    "TotVAhExpPhB:2 TotVAhExpPhC:2 TotVAhImp:2 TotVAhImpPhA:2 TotVAhImpPhB:2 TotVAhImpPhC:2 "
    "TotVAh_SF TotVArhQ1:8 TotVArhQ2:8 TotVArhQ3:8 TotVArhQ4:8 TotVArh_SF Evt:2",
}
"""The points of a model in their order, behind its id and length; `:n` takes n registers."""

_UNSIGNED = frozenset(
    {
        "A", "AphA", "AphB", "AphC", "PPVphAB", "PPVphBC", "PPVphCA", "PhVphA", "PhVphB", "PhVphC",
        "Hz", "DCA", "DCV", "StVnd",
    }
)  # fmt: skip
"""Points of the inverter that are `uint16` or `enum16`; all else of one register is signed."""

_CONSTANTS = {
    "A_SF": -2, "V_SF": -1, "Hz_SF": -2, "W_SF": 0, "VA_SF": 0, "VAR_SF": 0, "PF_SF": -2,
    "WH_SF": 1, "TotWh_SF": 1, "St": _PRODUCING,
}  # fmt: skip
"""Point → what it always shows; an exponent for the scale factors."""

_QUANTITIES = {
    "AphA": ("currentL1", "0.01"),
    "AphB": ("currentL2", "0.01"),
    "AphC": ("currentL3", "0.01"),
    "PhV": ("voltage", "0.1"),
    "PhVphA": ("voltageL1", "0.1"),
    "PhVphB": ("voltageL2", "0.1"),
    "PhVphC": ("voltageL3", "0.1"),
    "Hz": ("frequency", "0.01"),
    "W": ("power", "0.001"),
    "WphA": ("powerL1", "0.001"),
    "WphB": ("powerL2", "0.001"),
    "WphC": ("powerL3", "0.001"),
    "VA": ("apparentPower", "0.001"),
    "VAR": ("reactivePower", "0.001"),
    "PF": ("powerFactor", "0.0001"),  # in percent
    "WH": ("energy", "0.01"),
    "TotWhImp": ("energy", "0.01"),
    "TotWhExp": ("energyExport", "0.01"),
    "A": ("current", "1/300"),  # of all three phases, where the quantity is their mean
}
"""Point → its quantity, and the factor to the quantity's unit with the scale factor in it."""


def layout(kind: str) -> dict[str, Any]:
    """Give the places of a `meter`'s or an `inverter`'s quantities as `registers`; see Layout."""
    model = KINDS[kind]
    registers: dict[str, dict[str, Any]] = {}
    for point, (address, size) in _addresses(model).items():
        if point in _QUANTITIES:
            quantity, scale = _QUANTITIES[point]
            spec: dict[str, Any] = {"address": address, "scale": scale}
            if size == 2:
                spec |= {"type": "uint32", "notAvailable": 0}  # acc32 begins at 1
            else:
                spec["type"] = "uint16" if _is_unsigned(model, point) else "int16"
            registers[quantity] = spec
    return {"registers": registers}


def words(kind: str, unit_id: int) -> dict[int, int]:
    """Give all that does not change: the chain of models, scale factors, and empty points."""
    model = KINDS[kind]
    common = struct.pack(
        ">4sHH32s32s16s16s32sHH",
        *(b"SunS", _COMMON_MODEL, 66),
        *(b"DLM Edge", f"simulated {kind}".encode(), b"", b"1", b"%08d" % unit_id),
        *(unit_id, _SIGNED_NOT_IMPLEMENTED),
    )
    table = dict(enumerate(struct.unpack(f">{len(common) // 2}H", common), BASE_ADDRESS))
    addresses = _addresses(model)
    start = BASE_ADDRESS + len(table)
    for point, (address, size) in addresses.items():
        empty = 0 if size > 1 else _not_implemented(model, point)
        table |= dict.fromkeys(range(address, address + size), empty)
        if point in _CONSTANTS:
            table[address] = _CONSTANTS[point] & 0xFFFF
    end = max(table) + 1
    table |= {start: model, start + 1: end - start - 2, end: _END_MODEL, end + 1: 0}
    return table


def _is_unsigned(model: int, point: str) -> bool:
    return model == KINDS["inverter"] and point in _UNSIGNED


def _not_implemented(model: int, point: str) -> int:
    return _UNSIGNED_NOT_IMPLEMENTED if _is_unsigned(model, point) else _SIGNED_NOT_IMPLEMENTED


def _addresses(model: int) -> Mapping[str, tuple[int, int]]:
    """Give each point's address and size; the common model and this one's header lie before."""
    address = BASE_ADDRESS + 2 + 68 + 2
    places = {}
    for entry in _POINTS[model].split():
        point, _, size = entry.partition(":")
        places[point] = address, int(size or 1)
        address += int(size or 1)
    return places
