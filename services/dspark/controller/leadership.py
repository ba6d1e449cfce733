"""Leadership: one of several controllers leads, and the others wait for it to fall silent.

A store that only one process can open makes that process the leader at once.
"""

import asyncio
import logging

from dspark.controller.loop import Controller
from dspark.controller.store import Store, StoreLost

log = logging.getLogger(__name__)

_RENEWALS = 4  # in one lease: a late one or two do no harm


class Deposed(Exception):
    """Another controller leads: this process has to start again as a standby."""


async def become_leader(store: Store, controller: Controller, lease_s: float) -> None:
    """Wait for the lease, then make the controller lead; return when it does.

    A store that does not answer is waited for: nobody can lead without it.
    """
    known, patience, said = "", 0, False
    while True:
        try:
            # A store that came back empty is for the leader to tell again, while there is one.
            patience = patience + 1 if await asyncio.to_thread(store.forgot) else 0
            if not patience:
                revision = await asyncio.to_thread(store.revision)
                if revision != known:
                    controller.reload()
                    known = revision
            if patience in {0, 2 * _RENEWALS} and await asyncio.to_thread(store.lead, lease_s):
                controller.take_over()
                return
            patience = min(patience, 2 * _RENEWALS - 1)
            if not said:
                log.info("standby: %s leads", await asyncio.to_thread(store.leader))
            said = True
        except StoreLost as error:
            log.warning("standby: %s", error)
        await asyncio.sleep(lease_s / _RENEWALS)


async def hold_leadership(store: Store, controller: Controller, lease_s: float) -> None:
    """Renew the lease for ever.

    Without the store the leader goes on with what it knows, since nobody else can be told either.

    Raises:
        Deposed: Somebody else has the lease.
    """
    lost = False
    while True:
        await asyncio.sleep(lease_s / _RENEWALS)
        try:
            if not await asyncio.to_thread(store.lead, lease_s):
                raise Deposed("another controller took the lease")
            if await asyncio.to_thread(store.forgot):
                log.warning("the store came back empty: it is told everything again")
                controller.tell_store()
            if lost:
                log.info("the store is back")
            lost = False
        except StoreLost as error:
            if not lost:
                log.warning("%s: budgets and policies go on as they are", error)
            lost = True
