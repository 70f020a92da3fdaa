"""The table of the API's calls: what is routed, permitted, validated and described."""

from __future__ import annotations

import functools

from edge import render, shapes
from edge.api import Access, Response
from edge.api.analytics import ENERGY_KEYS, POWER_KEYS
from edge.api.calls import (
    ALERT_KEYS,
    LOG_KEYS,
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
from edge.api.door import Login
from edge.api.history import CSV_TYPE
from edge.api.openapi import describe
from edge.api.question import KEYS as HISTORY_KEYS
from edge.api.refusals import OF_THE_PAST, PROVING, STORING
from edge.api.route import Context, Route
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
        takes=RegistrationKeys,
        gives=shapes.MeterDetails,
        statuses=(201,),
        refuses=("DUPLICATE_NAME", "TOO_MANY_METERS", *STORING),
    ),
    Route("GET", "/api/energy-meters", list_meters, shared=True),
    Route("GET", "/api/energy-meters/consumption/building", show_building_consumption, shared=True),
    Route("GET", "/api/energy-meters/{id}", show_meter, shared=True, refuses=("METER_NOT_FOUND",)),
    Route(
        "GET",
        "/api/energy-meters/{id}/reading",
        show_reading,
        shared=True,
        refuses=("METER_NOT_FOUND",),
    ),
    Route(
        "GET",
        "/api/energy-meters/{id}/history",
        show_history,
        gives=list[shapes.RecordedReading | shapes.RecordedRollup | shapes.RecordedStep],
        paged=True,
        media=(CSV_TYPE,),
        query=HISTORY_KEYS,
        refuses=("METER_NOT_FOUND", *OF_THE_PAST),
    ),
    Route(
        "PUT",
        "/api/energy-meters/{id}",
        update_meter,
        takes=RegistrationKeys,
        refuses=("METER_NOT_FOUND", "DUPLICATE_NAME", *STORING),
    ),
    Route("DELETE", "/api/energy-meters/{id}", remove_meter, refuses=("METER_NOT_FOUND", *STORING)),
    Route("POST", "/api/energy-meters/test", try_meter, takes=RegistrationKeys, refuses=("BUSY",)),
    Route("GET", "/api/templates", list_templates, refuses=("TEMPLATE_FAULTY",)),
    Route(
        "GET",
        "/api/templates/{name}",
        show_template,
        refuses=("TEMPLATE_NOT_FOUND", "TEMPLATE_FAULTY"),
    ),
    Route("GET", "/api/load/status", show_load_status, shared=True),
    Route("GET", "/api/alerts", list_alerts, query=ALERT_KEYS),
    Route("GET", "/api/analytics/power", show_power_curve, query=POWER_KEYS, refuses=OF_THE_PAST),
    Route("GET", "/api/analytics/energy", show_energy, query=ENERGY_KEYS, refuses=OF_THE_PAST),
    Route("GET", "/api/system/log", show_log, access=Access.ADMIN, always=True, query=LOG_KEYS),
    Route("GET", "/api/system", show_system, shared=True),
    Route("GET", "/healthz", show_health, access=Access.PUBLIC),
    Route("GET", "/readyz", show_readiness, access=Access.PUBLIC),
    Route(
        "GET",
        "/metrics",
        show_metrics,
        shared=True,
        access=Access.METRICS,
        media=(TEXT_TYPE, OPENMETRICS_TYPE),
    ),
    Route(
        "POST",
        "/api/login",
        log_in,
        access=Access.PUBLIC,
        always=True,
        gives=shapes.SessionInfo,
        takes=Login,
        refuses=PROVING,
    ),
    Route(
        "POST",
        "/api/logout",
        log_out,
        access=Access.PUBLIC,
        always=True,
        gives=shapes.SessionInfo,
    ),
    Route("GET", "/api/session", show_session, access=Access.PUBLIC, always=True, refuses=PROVING),
    Route(
        "GET",
        "/ws",
        connect_live,
        query=LIVE_KEYS,
        statuses=(101,),
        refuses=("UPGRADE_REQUIRED", "FOREIGN_ORIGIN", "TOO_MANY_CLIENTS"),
    ),
    Route("GET", "/api/openapi.json", show_openapi, always=True, media=("application/json",)),
    Route(
        "GET",
        "/",
        show_dashboard,
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
        access=Access.PUBLIC,
        always=True,
        media=tuple(TYPES.values()),
        refuses=("PAGES_UNREADABLE",),
    ),
    Route(
        "GET",
        "/favicon.ico",
        show_icon,
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
        access=Access.PUBLIC,
        always=True,
        media=("text/html",),
        statuses=(200, 304),
        refuses=("PAGES_UNREADABLE",),
    ),
)
