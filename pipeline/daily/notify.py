"""Tell somebody what happened to a day: a webhook, a command. What goes wrong with it is said, and changes nothing."""

import json
import os
import shlex
import signal
import subprocess
import sys
import urllib.request
from typing import Literal

from data.paths import with_variables
from pipeline.config.daily import HooksConfig
from pipeline.run_folder.launcher import STORE

SECONDS = 10.0
"""[s] a hook may take."""

OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", STORE)
"""What a launcher tells a rank. A hook is none of the ranks: with these, a `genctr score` in it would wait for them."""


def tell(config: HooksConfig, event: Literal["published", "held", "failed"], *, run: str, day: str, text: str) -> None:
    """Send {event, run, day, text} to whoever is named, if they want to know of such events."""
    if event not in config.events:
        return
    news = json.dumps({"event": event, "run": run, "day": day, "text": text}).encode()
    for send, to in ((_post, config.webhook), (_pipe, config.command)):
        try:
            if to is not None:
                send(with_variables(to), news)
        except Exception as error:  # noqa: BLE001 - a server without HTTP, a command of no words: nothing of it may end a night
            why = str(error).replace(with_variables(to), to) if to and "${" in to else error
            sys.stderr.write(f"genctr: a hook for {event} {day} failed: {why}\n")


def _post(address: str, news: bytes) -> None:
    if not address.startswith(("http://", "https://")):
        raise ValueError("its address does not begin with http:// or https://")
    request = urllib.request.Request(address, news, {"Content-Type": "application/json"})  # noqa: S310 - checked
    urllib.request.urlopen(request, timeout=SECONDS).close()  # noqa: S310


def _pipe(command: str, news: bytes) -> None:
    own = {name: value for name, value in os.environ.items() if name not in OF_A_RANK}
    words = shlex.split(command)
    with subprocess.Popen(words, stdin=subprocess.PIPE, env=own, start_new_session=True) as hook:  # noqa: S603 - the config's owner
        try:
            hook.communicate(news, timeout=SECONDS)
        except BaseException:
            os.killpg(hook.pid, signal.SIGKILL)  # what the command started too
            raise
    if hook.returncode:
        raise subprocess.CalledProcessError(hook.returncode, words)
