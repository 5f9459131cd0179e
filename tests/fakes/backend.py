"""A stand-in for `llama-server` or `vllm serve`: a real process that serves its endpoints and shows the faults it is
asked for.

Run as `python -m tests.fakes.backend --port N …`; flags of theirs that do not matter here are ignored, so that it can
be the `binary` of a backend (see tests/fakes/stub.py). Also the bare upstream of benchmarks.
"""

import asyncio
import os
import signal
import sys

import uvloop

from tests.fakes.stub_engine import Engine
from tests.fakes.stub_options import parse
from tests.fakes.stub_server import Stub


def main() -> None:
    serving, faults, once = parse(sys.argv[1:])
    if faults.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    engine = Engine(serving) if serving.fork_engine else None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stub = Stub(serving, faults, once, engine, runner.get_loop())
        status = runner.run(stub.live())
        os._exit(status)  # at once, as llama-server does: whatever streams is cut


if __name__ == "__main__":
    main()
