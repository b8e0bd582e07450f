"""A server to be killed: `python doomed.py RUN KEEP_S [FREEZER]`.

Joins the keeper, has a listening socket held, guards and freezes the engine that FREEZER, JSON, describes. Then writes
one line of JSON, {"port": ..., "keeper": PID}, and waits for its end.
"""

import json
import socket
import sys
from pathlib import Path

from zorya.compute import freezer
from zorya.keeper.client import Keeper


def main(run: str, keep_s: str, *frozen: str) -> None:
    keeper = Keeper(Path(run), log=Path(run) / "keeper.log", keep_s=float(keep_s))
    keeper.join()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        keeper.keep(port, [listener])
        for text in frozen:
            engine = freezer.from_json(json.loads(text))
            keeper.guard("shop", engine)
            freezer.begin(engine)
        sys.stdout.write(json.dumps({"port": port, "keeper": keeper.pid}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
