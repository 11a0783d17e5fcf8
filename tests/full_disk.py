"""An endpoint on a disk that fills up: python full_disk.py HOME VERSIONS, where HOME is a small file system of its own.

Prints what was seen, as JSON.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from endpoint_fixture import kill, pids, until
from released import Versions, endpoint, serving, slightly_other
from test_bad_days import Flights, champion, flights, released

from mlops_kit.cli_endpoint import status_text
from mlops_kit.deployment.endpoint.lifecycle import endpoint_status
from mlops_kit.deployment.inference.collected import read_collected
from mlops_kit.project import KitError


@contextlib.contextmanager
def full(home: Path) -> Iterator[None]:
    """Leave no byte free while the block runs."""
    filler = home / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass
    try:
        yield
    finally:
        filler.unlink()


def more(clients: Flights, number: int = 150) -> bool:
    """Wait until so many more requests were answered."""
    before = len(clients.answers)
    return until(lambda: len(clients.answers) > before + number)


def tried(place: Path, versions: Versions) -> str:
    """Release while nothing can be written, and say what came of it."""
    try:
        return released(place, versions, versions.make("8", slightly_other))["reason"]
    except KitError as error:
        return f"{type(error).__name__}: {error}"


def main(home: Path, folder: Path) -> dict:
    versions = Versions(folder)
    versions.make("8", slightly_other)
    with endpoint(home, versions.trusted) as place:
        assert released(place, versions, versions.make("7"))["state"] == "promoted"
        with flights(place) as clients:
            with full(home):
                assert more(clients)
                (worker,) = pids(place, champion(place))
                kill(worker)
                assert more(clients)
                said, status = tried(place, versions), endpoint_status(place)
            assert more(clients)
        seen = {"lost": [*map(str, clients.lost)], "release": said, "status": status_text(status)}
        seen |= {"serving": serving(place), "log": (place / "logs" / f"{champion(place)}.log").read_text()}
    return seen | {"collected": read_collected(place)[1], "answers": len(clients.answers)}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2])), default=str))
