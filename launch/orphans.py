"""A rank ends with its launcher, however that ends: one that lived on would hold memory, and write next to its successor.

Loads nothing but Python's own, so that it can be asked for before torch is loaded, which takes seconds.
"""

import ctypes
import os
import signal
import sys

LAUNCHER = "GENCTR_LAUNCHER"
"""The process that started the ranks of this machine, where that was our own command."""


def die_with_launcher() -> None:
    """Have the system end this rank when its launcher is gone, and end it now if that has happened.

    Of torchrun the number is not known: there the parent is compared with the one this process saw first.
    """
    if "RANK" not in os.environ or sys.platform != "linux":
        return
    launcher = int(os.environ.get(LAUNCHER, os.getppid()))
    set_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != launcher:  # it was gone before the system was asked
        os.kill(os.getpid(), signal.SIGKILL)
