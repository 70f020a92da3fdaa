"""Going on with a database that is there: which eras are believed, and what memory goes with it."""

from __future__ import annotations

from dataclasses import replace

from edge.era import Eras
from edge.journal import overview
from edge.journal.intake import Intake
from edge.journal.store import LOST_BOOT, Store


def eras_of(store: Store, boot_id: str, wait_s: float) -> Eras:
    """Give the eras of the boot under way. wait_s: how long a plausible clock must go unset."""
    _settle_earlier(store, boot_id)
    return Eras(
        boot_id,
        [era for era in store.eras.values() if era.boot == boot_id],
        max(store.eras, default=0) + 1,
        overview.newest_unix_ms(store),
        wait_s,
    )


def _settle_earlier(store: Store, boot_id: str) -> None:
    """Believe the untrusted eras of earlier boots whose clock was plausible.

    Nothing more can be learned of them. Readings of the others keep times that are wrong: they
    are kept, but in no rollup, and no sink is given them.
    """
    newest_ms = overview.newest_unix_ms(store)
    for era in list(store.eras.values()):
        if era.trusted or era.boot == boot_id:
            continue
        if overview.is_plausible(store, era.id, newest_ms):
            store.commit((), {}, [replace(era, trusted=True)])


def fits(store: Store, intake: Intake) -> bool:
    """Tell whether readings in memory go with a database that was opened again."""
    boots = {era.id: era.boot for era in intake.eras.all}
    return (
        all(intake.series.get(series) == id_ for series, id_ in store.series.items())
        and all(
            boots.get(era.id, era.boot) == era.boot or era.boot.startswith(LOST_BOOT)
            for era in store.eras.values()
        )
        and store.next_seq <= intake.next_seq
    )
