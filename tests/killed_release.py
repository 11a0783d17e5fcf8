"""A release, or without a bundle a rollback, that kills itself: python killed_release.py FOLDER BUNDLE KEY MOMENT."""

import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from released import QUICK, Clients

from mlops_kit.deployment.releases import rollout, stages

STEPS = ("save_record", "add_deployment", "set_traffic", "set_mirror", "remove_deployment")  # What takes effect


def die(now: bool) -> None:
    """End at once, as by `kill -9`."""
    if now:
        os.kill(os.getpid(), signal.SIGKILL)


def killed_at(moment: int, step: Callable, moments: count) -> Callable:
    """Let a step be the last thing that happens."""

    def taken(*words: Any, **more: Any) -> Any:
        answer = step(*words, **more)
        die(moment == next(moments))
        return answer

    return taken


if __name__ == "__main__":
    place, bundle, trusted = map(Path, sys.argv[1:4])
    moments = count()
    for module, name in ((module, name) for module in (rollout, stages) for name in STEPS if hasattr(module, name)):
        setattr(module, name, killed_at(int(sys.argv[4]), getattr(module, name), moments))
    if sys.argv[2] == "-":
        rollout.roll_back(place, "Ada", "a test")
    else:
        rollout.release(place, bundle, QUICK, "Ada", trusted=trusted, traffic=Clients(place), tell=rollout.ignore)
