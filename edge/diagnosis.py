"""What a probe brought, judged: the reading it would be, what is wrong with it, and what to try."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from edge.communication import ModbusCommunication
from edge.errors import Cause
from edge.interpret import Interpretation, contradictions, interpretations
from edge.model import Exchange, Finding, Meter, Probe, Quality
from edge.plausibility import hints


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
    implausible = hints(values, raw, meter.meter_type, grid_capacity_kw)
    wrong = (*implausible, *contradictions(values))
    others: Mapping[str, tuple[Interpretation, ...]] = {}
    if isinstance(meter.communication, ModbusCommunication) and probe.words:
        others = interpretations(
            meter.communication.registers,
            probe.words,
            probe.later_words,
            probe.later_s,
            values,
            meter.meter_type,
            grid_capacity_kw,
        )
    findings = [
        *probe.findings,
        *(Finding(Cause.WRONG_VALUES, sentence) for sentence in wrong),
        *_doubts(others, wrong),
    ]
    if not findings:
        findings = [Finding(Cause.NONE, "Everything was read, and the values are plausible.")]
    return Diagnosis(
        exchanges=probe.exchanges,
        values=values,
        quality=_quality(probe, values, implausible),
        hints=implausible,
        findings=tuple(findings),
        interpretations=others,
    )


def _doubts(
    others: Mapping[str, tuple[Interpretation, ...]], told: tuple[str, ...]
) -> Iterator[Finding]:
    """Name the quantities that are not impossible, but better read otherwise."""
    for name, interpreted in others.items():
        if interpreted and not any(sentence.startswith(f"{name} ") for sentence in told):
            best = interpreted[0]
            yield Finding(
                Cause.WRONG_VALUES,
                f"{name} does not fit the other values: {best.why}; read as {best.type} at "
                f"{best.address} with scale {float(best.scale):g} it is {best.value:.7g}.",
            )


def _quality(probe: Probe, values: Mapping[str, float], implausible: tuple[str, ...]) -> Quality:
    if not values or probe.outcome is None:
        return Quality.NONE
    if not probe.outcome.live:
        return Quality.STALE
    return Quality.SUSPECT if implausible else Quality.GOOD
