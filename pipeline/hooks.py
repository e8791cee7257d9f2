"""Tell somebody what happened to a day: a webhook, a command. What goes wrong with it is said, and changes nothing."""

import json
import shlex
import subprocess
import sys
import urllib.request
from typing import Literal

from pipeline.config import HooksConfig

SECONDS = 10.0
"""[s] a hook may take."""


def tell(config: HooksConfig, event: Literal["published", "held", "failed"], *, run: str, day: str, text: str) -> None:
    """Send {event, run, day, text} to whoever is named, if they want to know of such events."""
    if event not in config.events:
        return
    news = json.dumps({"event": event, "run": run, "day": day, "text": text}).encode()
    try:
        if config.webhook is not None:
            if not config.webhook.startswith(("http://", "https://")):
                raise ValueError(f"{config.webhook} is no http address")
            request = urllib.request.Request(config.webhook, news, {"Content-Type": "application/json"})  # noqa: S310 - checked
            urllib.request.urlopen(request, timeout=SECONDS).close()  # noqa: S310
        if config.command is not None:
            subprocess.run(shlex.split(config.command), input=news, timeout=SECONDS, check=True)  # noqa: S603 - the config's owner
    except Exception as error:  # noqa: BLE001 - a server that speaks no HTTP, a command of no words: nothing of it may end a night
        sys.stderr.write(f"genctr: a hook for {event} {day} failed: {error}\n")
