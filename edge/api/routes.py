"""The table of the API's calls: what is routed, permitted, validated and described."""

from __future__ import annotations

import functools

from edge import render, shapes
from edge.api import Response
from edge.api.analytics import ENERGY_KEYS, POWER_KEYS
from edge.api.calls import (
    connect_live,
    list_alerts,
    list_meters,
    list_templates,
    log_in,
    log_out,
    register_meter,
    remove_meter,
    show_building_consumption,
    show_energy,
    show_health,
    show_history,
    show_load_status,
    show_log,
    show_meter,
    show_metrics,
    show_power_curve,
    show_readiness,
    show_reading,
    show_session,
    show_system,
    show_template,
    try_meter,
    update_meter,
)
from edge.api.description import PROVING, STORING
from edge.api.door import Login, Who
from edge.api.history import CSV_TYPE
from edge.api.openapi import describe
from edge.api.question import ALERT_KEYS, LOG_KEYS
from edge.api.question import KEYS as HISTORY_KEYS
from edge.api.route import Access, Context, Route
from edge.api.static import TYPES, give_part, show_dashboard, show_icon, show_reference
from edge.api.topics import KEYS as LIVE_KEYS
from edge.meterspec import RegistrationKeys
from edge.metrics import OPENMETRICS_TYPE, TEXT_TYPE


def show_openapi(context: Context) -> Response:
    """Describe all calls, as OpenAPI 3.1."""
    return Response(200, _description())


@functools.cache
def _description() -> bytes:
    return render.dump(describe(ROUTES))


ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/api/energy-meters",
        register_meter,
        "register a meter",
        takes=RegistrationKeys,
        gives=shapes.MeterDetails,
        statuses=(201,),
        refuses=("DUPLICATE_NAME", "TOO_MANY_METERS", *STORING),
    ),
    Route(
        "GET",
        "/api/energy-meters",
        list_meters,
        "list the meters",
        shared=True,
        gives=list[shapes.Meter],
    ),
    Route(
        "GET",
        "/api/energy-meters/consumption/building",
        show_building_consumption,
        "sum of the grid and building meters",
        shared=True,
        gives=shapes.BuildingConsumption,
    ),
    Route(
        "GET",
        "/api/energy-meters/{id}",
        show_meter,
        "a meter and how it is read",
        shared=True,
        gives=shapes.MeterDetails,
        refuses=("METER_NOT_FOUND",),
    ),
    Route(
        "GET",
        "/api/energy-meters/{id}/reading",
        show_reading,
        "its current reading",
        shared=True,
        gives=shapes.Reading,
        refuses=("METER_NOT_FOUND",),
    ),
    Route(
        "GET",
        "/api/energy-meters/{id}/history",
        show_history,
        "its readings, hours or days; JSON or CSV",
        gives=list[shapes.RecordedReading | shapes.RecordedRollup | shapes.RecordedStep],
        paged=True,
        media=(CSV_TYPE,),
        query=HISTORY_KEYS,
        refuses=("VALIDATION_ERROR", "METER_NOT_FOUND", "BUSY", "JOURNAL_UNAVAILABLE"),
    ),
    Route(
        "PUT",
        "/api/energy-meters/{id}",
        update_meter,
        "change a meter",
        takes=RegistrationKeys,
        gives=shapes.MeterDetails,
        refuses=("METER_NOT_FOUND", "DUPLICATE_NAME", *STORING),
    ),
    Route(
        "DELETE",
        "/api/energy-meters/{id}",
        remove_meter,
        "remove a meter",
        gives=shapes.MeterDetails,
        refuses=("METER_NOT_FOUND", *STORING),
    ),
    Route(
        "POST",
        "/api/energy-meters/test",
        try_meter,
        "what a registration would read now",
        takes=RegistrationKeys,
        gives=shapes.Diagnosis,
        refuses=("BUSY",),
    ),
    Route(
        "GET",
        "/api/templates",
        list_templates,
        "the device library",
        gives=list[shapes.Template],
        refuses=("TEMPLATE_FAULTY",),
    ),
    Route(
        "GET",
        "/api/templates/{name}",
        show_template,
        "a device template",
        gives=shapes.TemplateDetails,
        refuses=("TEMPLATE_NOT_FOUND", "TEMPLATE_FAULTY"),
    ),
    Route(
        "GET",
        "/api/load/status",
        show_load_status,
        "power free for charging",
        shared=True,
        gives=shapes.LoadStatus,
    ),
    Route(
        "GET",
        "/api/alerts",
        list_alerts,
        "what is wrong, and was",
        gives=list[shapes.Alert],
        query=ALERT_KEYS,
        refuses=("VALIDATION_ERROR",),
    ),
    Route(
        "GET",
        "/api/analytics/power",
        show_power_curve,
        "the site's power in even steps",
        gives=shapes.PowerCurve,
        query=POWER_KEYS,
        refuses=("VALIDATION_ERROR", "BUSY", "JOURNAL_UNAVAILABLE"),
    ),
    Route(
        "GET",
        "/api/analytics/energy",
        show_energy,
        "energy by hours or days, and its cost",
        gives=shapes.Energy,
        query=ENERGY_KEYS,
        refuses=("VALIDATION_ERROR", "BUSY", "JOURNAL_UNAVAILABLE"),
    ),
    Route(
        "GET",
        "/api/system/log",
        show_log,
        "the last lines of the log",
        access=Access.ADMIN,
        always=True,
        gives=list[str],
        query=LOG_KEYS,
        refuses=("VALIDATION_ERROR",),
    ),
    Route(
        "GET",
        "/api/system",
        show_system,
        "the service's own health",
        shared=True,
        gives=shapes.System,
    ),
    Route(
        "GET",
        "/healthz",
        show_health,
        "liveness",
        access=Access.PUBLIC,
        gives=shapes.State,
    ),
    Route(
        "GET",
        "/readyz",
        show_readiness,
        "readiness",
        access=Access.PUBLIC,
        gives=shapes.State,
    ),
    Route(
        "GET",
        "/metrics",
        show_metrics,
        "Prometheus and OpenMetrics",
        shared=True,
        access=Access.METRICS,
        media=(TEXT_TYPE, OPENMETRICS_TYPE),
    ),
    Route(
        "POST",
        "/api/login",
        log_in,
        "begin a session of the dashboard",
        access=Access.PUBLIC,
        always=True,
        gives=Who,
        takes=Login,
        refuses=PROVING,
    ),
    Route(
        "POST",
        "/api/logout",
        log_out,
        "end it",
        access=Access.PUBLIC,
        always=True,
        gives=Who,
    ),
    Route(
        "GET",
        "/api/session",
        show_session,
        "whether a token is needed, and who asks",
        access=Access.PUBLIC,
        always=True,
        gives=Who,
        refuses=PROVING,
    ),
    Route(
        "GET",
        "/ws",
        connect_live,
        "live updates, over a WebSocket",
        query=LIVE_KEYS,
        statuses=(101,),
        refuses=("UPGRADE_REQUIRED", "VALIDATION_ERROR", "FOREIGN_ORIGIN", "TOO_MANY_CLIENTS"),
    ),
    Route(
        "GET",
        "/api/openapi.json",
        show_openapi,
        "this description, as OpenAPI 3.1",
        always=True,
        media=("application/json",),
    ),
    Route(
        "GET",
        "/",
        show_dashboard,
        "the dashboard",
        access=Access.PUBLIC,
        always=True,
        media=("text/html",),
        statuses=(200, 304),
        refuses=("PAGES_UNREADABLE",),
    ),
    Route(
        "GET",
        "/static/{hash}/{file}",
        give_part,
        "what the pages are made of",
        access=Access.PUBLIC,
        always=True,
        media=tuple(TYPES.values()),
        refuses=("PAGES_UNREADABLE",),
    ),
    Route(
        "GET",
        "/favicon.ico",
        show_icon,
        "the icon",
        access=Access.PUBLIC,
        always=True,
        media=("image/svg+xml",),
        statuses=(200, 304),
        refuses=("PAGES_UNREADABLE",),
    ),
    Route(
        "GET",
        "/api/docs",
        show_reference,
        "this reference, to read",
        access=Access.PUBLIC,
        always=True,
        media=("text/html",),
        statuses=(200, 304),
        refuses=("PAGES_UNREADABLE",),
    ),
)
