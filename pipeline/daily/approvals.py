"""What a person decides about a run: publish a held model after all, go back to an earlier one. Needs no training code."""

import getpass
import os
from datetime import UTC, datetime
from typing import Any

from data.errors import GenctrError
from pipeline.daily.ledger import Ledger
from pipeline.daily.prometheus import write_metrics
from pipeline.run_folder.lease import Lease
from pipeline.serving.publish import before, switch


def approve(run: str, folder: str, day: str, *, reason: str, lease_seconds: float) -> str:
    """Publish the model of a held day, and write down who wanted it.

    Returns:
        the bundle that serves now.

    Raises:
        GenctrError: the day is not held, or its bundle is gone.
    """
    with Lease(run, seconds=lease_seconds, also=[folder]):
        ledger = Ledger(run)
        record = ledger.history().days.get(day)
        if record is None or record.state != "held" or record.judged is None:
            state = "not in the ledger" if record is None else record.state
            held = [own.name for own in ledger.history().days.values() if own.state == "held"]
            raise GenctrError(f"day {day} is {state}, so there is nothing to approve\n  held: {', '.join(held) or 'no day'}")
        bundle: str = record.judged["bundle"]
        switch(folder, bundle)
        ledger.append("approved", {"day": day, "bundle": bundle, "step": record.judged["step"], **_signed(reason)})
        write_metrics(run, ledger.history())
    return bundle


def rollback(run: str, folder: str, *, reason: str, lease_seconds: float) -> str:
    """Have the bundle that served before serve again. Training goes on as it is; the next published day serves next.

    Returns:
        the bundle that serves now.
    """
    with Lease(run, seconds=lease_seconds, also=[folder]):
        ledger = Ledger(run)
        history = ledger.history()
        if not history.served:
            raise GenctrError(f"{run}: nothing was published yet")
        bundle = before(folder, history.served, history.withdrawn)
        switch(folder, bundle)
        ledger.append("rolled back", {"bundle": bundle, "from": history.served[-1], **_signed(reason)})
        write_metrics(run, ledger.history())
    return bundle


def _signed(reason: str) -> dict[str, Any]:
    return {"reason": reason, "who": _who(), "at": datetime.now(UTC).isoformat(timespec="seconds")}


def _who() -> str:
    """The user's name; where a container gives a user none, its number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an OSError from Python 3.13 on
        return str(os.getuid())
