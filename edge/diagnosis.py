"""What a probe brought, judged: the reading it would be, what is wrong with it, and what to try."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from edge.communication import ModbusCommunication, Register
from edge.errors import Cause
from edge.interpret import Interpretation, contradictions, interpretations, says_nothing
from edge.model import Exchange, Finding, Meter, Probe, Quality
from edge.plausibility import complaints

_COUNTERS = frozenset({"energy", "energyExport"})
_SOONEST_H = 24.0
"""A counter that the site can run through in less time than this is part of a longer one."""


_LIKELY_SCORE = -1.0
"""An interpretation below it is a guess, no better than the advice by the value alone."""


@dataclass(frozen=True)
class Diagnosis:
    """A probe and what follows from it.

    values: quantity → value in its unit. quality: that the reading would have. interpretations:
    for quantities that cannot be right, other ways to read their registers, the likeliest first.
    findings: the most telling first; a single one of cause `none` when nothing is wrong.
    """

    exchanges: tuple[Exchange, ...]
    values: Mapping[str, float]
    quality: Quality
    hints: tuple[str, ...]
    findings: tuple[Finding, ...]
    interpretations: Mapping[str, tuple[Interpretation, ...]] = field(default_factory=dict)


def diagnose(meter: Meter, probe: Probe, grid_capacity_kw: float) -> Diagnosis:
    """Judge what a probe of `meter` brought."""
    outcome = probe.outcome
    values = outcome.values if outcome is not None else {}
    raw = outcome.raw if outcome is not None else {}
    communication = meter.communication
    registers = communication.registers if isinstance(communication, ModbusCommunication) else ()
    halves = _half_counters(registers, values, grid_capacity_kw)
    others: Mapping[str, tuple[Interpretation, ...]] = {}
    if probe.words:
        others = interpretations(
            registers,
            probe.words,
            probe.later_words,
            probe.later_s,
            {name: value for name, value in values.items() if name not in halves},
            meter.meter_type,
            grid_capacity_kw,
        )
    implausible = {
        name: _with_advice(sentence, others.get(name, ()), raw.get(name))
        for name, sentence in complaints(values, raw, meter.meter_type, grid_capacity_kw).items()
    }
    possible = {name: value for name, value in values.items() if name not in implausible}
    contradicted = contradictions(possible, others)
    wrong = {**implausible, **contradicted}
    # Such a sentence speaks of the current, too.
    told = {*wrong, *halves, *(name.replace("power", "current") for name in contradicted)}
    findings = [
        *probe.findings,
        *(Finding(Cause.WRONG_VALUES, sentence) for sentence in wrong.values()),
        *_findings_of_halves(halves, others, registers),
        *_doubts(others, told),
    ]
    if not findings:
        findings = [_nothing_wrong(values, registers)]
    return Diagnosis(
        exchanges=probe.exchanges,
        values=values,
        quality=_quality(probe, values, is_suspect=bool(implausible)),
        hints=tuple(implausible.values()),
        findings=tuple(findings),
        interpretations=others,
    )


def _with_advice(
    complaint: str,
    others: Sequence[Interpretation],
    raw: tuple[Register, tuple[int, ...]] | None,
) -> str:
    """Replace the advice of a complaint where a reading that knows the neighbours is better.

    It stands where it leads to the same: it names the setting to change.
    """
    if not others or others[0].score < _LIKELY_SCORE or raw is None or says_nothing(*raw):
        return complaint
    best, (register, _) = others[0], raw
    observation, _, advice = complaint.partition(": ")
    first = advice.removesuffix(".").split(", or ")[0]
    if best.address == register.start and first.endswith(f" to get {best.value:.7g}"):
        return complaint
    return f"{observation}: likely {best.advice()}."


def _half_counters(
    registers: Sequence[Register], values: Mapping[str, float], grid_capacity_kw: float
) -> dict[str, float]:
    """Name the counters of one word that run over too soon to be all of it, and at what, kWh."""
    ends_kwh = {
        register.quantity: float(2**16 * abs(register.scale))
        for register in registers
        if register.quantity in _COUNTERS & values.keys()
        and len(register.words) == 1
        and register.exponent is None
    }
    soon_kwh = _SOONEST_H * grid_capacity_kw
    return {name: end_kwh for name, end_kwh in ends_kwh.items() if end_kwh < soon_kwh}


def _findings_of_halves(
    halves: Mapping[str, float],
    others: Mapping[str, tuple[Interpretation, ...]],
    registers: Sequence[Register],
) -> Iterator[Finding]:
    for name, end_kwh in halves.items():
        taken = {
            address
            for register in registers
            if register.quantity != name
            for address in register.words
        }
        longer = [other for other in others.get(name, ()) if _is_longer(other, taken)]
        advice = longer[0].reading() if longer else "look in the meter's manual for the other half"
        yield Finding(
            Cause.WRONG_VALUES,
            f"{name} is read from 16 bits, which run over at {end_kwh:.7g} kWh, so it is likely "
            f"half of a 32-bit value: {advice}.",
        )


def _is_longer(other: Interpretation, taken: Collection[int]) -> bool:
    """Whether it is more than one word, none of which belongs to another quantity."""
    size = int(other.type[-2:]) // 16
    return size > 1 and not set(range(other.address, other.address + size)) & set(taken)


def _doubts(
    others: Mapping[str, tuple[Interpretation, ...]], told: Collection[str]
) -> Iterator[Finding]:
    """Name the quantities that are not impossible, but better read otherwise.

    told: of these something was said already.
    """
    for name, interpreted in others.items():
        if interpreted and name not in told:
            best = interpreted[0]
            yield Finding(
                Cause.WRONG_VALUES,
                f"{name} does not fit the other values: {best.advice()}.",
            )


def _nothing_wrong(values: Mapping[str, float], registers: Sequence[Register]) -> Finding:
    """What is told where nothing was found; without a value that is not that all is well."""
    if not values:
        return Finding(
            Cause.NO_VALUE,
            "The meter answers, but nothing that it says is a value; check what is read of it.",
        )
    absent = [register.quantity for register in registers if register.quantity not in values]
    if absent:
        return Finding(
            Cause.NONE,
            "Everything was read, and the values are plausible; the meter says that it has none "
            f"for {', '.join(absent)}.",
        )
    return Finding(Cause.NONE, "Everything was read, and the values are plausible.")


def _quality(probe: Probe, values: Mapping[str, float], *, is_suspect: bool) -> Quality:
    if not values or probe.outcome is None:
        return Quality.NONE
    if not probe.outcome.live:
        return Quality.STALE
    return Quality.SUSPECT if is_suspect else Quality.GOOD
