"""How long `supctl status` takes, as a whole process, in front of a daemon that answers at once.

    python benchmarks/supctl_latency.py [--runs 40] [--budget-ms 150]

Prints the quantiles of the wall time, beside those of an interpreter that does nothing, and the modules whose import
costs most. Ends with status 1 when the median is over the budget.
"""

import argparse
import os
import re
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

SUPCTL = (sys.executable, "-m", "supervisord.cli.supctl", "status")
NOTHING = (sys.executable, "-c", "pass")

BOUND_S = 30.0

BACKEND = (
    b'{"name":"b%d","runtime":"llama.cpp","phase":"ready","since_s":7800,"pid":41822,"model":"70B","slots":1,'
    b'"quantization":"Q4_K_M","context_tokens":12288,"in_flight":1,"queued":3,"note":"rung 1 after GPU OOM"}'
)
BODY = b'{"version":"0","uptime_s":1,"backends":[%s]}' % b",".join(BACKEND % number for number in range(8))


def serve(listener: socket.socket) -> None:
    """One answer to each connection, until the listener is closed."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client:
            client.recv(65536)
            client.sendall(head + BODY)


def wall_ms(argv: Sequence[str], env: dict[str, str]) -> float:
    """From before the fork to the end, told by a pidfd: Popen.wait with a time-out polls, up to 50 ms late."""
    start = time.perf_counter()
    process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL)
    ended = os.pidfd_open(process.pid)
    ready, _, _ = select.select([ended], [], [], BOUND_S)
    wall = time.perf_counter() - start
    os.close(ended)
    if not ready:
        process.kill()
    if process.wait() != 0:
        raise SystemExit(f"{' '.join(argv)} ended with status {process.returncode}")
    return wall * 1000


def slowest_imports(env: dict[str, str], count: int) -> list[tuple[float, str]]:
    """Milliseconds of each module's own import, without what it imports in turn."""
    argv = (sys.executable, "-X", "importtime", *SUPCTL[1:])
    done = subprocess.run(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True, timeout=BOUND_S)
    rows = re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", done.stderr.decode(), flags=re.MULTILINE)
    return sorted(((int(own) / 1000, module) for own, module in rows), reverse=True)[:count]


def line(name: str, times: Sequence[float]) -> str:
    deciles = statistics.quantiles(times, n=20)
    return f"{name:<24}{min(times):8.1f}{statistics.median(times):8.1f}{deciles[18]:8.1f}{max(times):8.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--budget-ms", type=float, default=150.0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder) / "control.sock"
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        env = {**kept, "LLM_SUPERVISORD_SOCKET": str(path), "PYTHONPYCACHEPREFIX": folder}
        wall_ms(SUPCTL, env)  # writes the byte code, which an installed program has
        pairs = [(wall_ms(NOTHING, env), wall_ms(SUPCTL, env)) for _ in range(chosen.runs)]
        imports = slowest_imports(env, 8)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    idle, status = (list(column) for column in zip(*pairs, strict=True))
    print(f"{'wall time, ms':<24}{'min':>8}{'median':>8}{'p95':>8}{'max':>8}")
    print(line("python -c pass", idle))
    print(line("supctl status", status))
    print("\nslowest imports, ms")
    for own, module in imports:
        print(f"{own:8.1f}  {module}")
    return 0 if statistics.median(status) <= chosen.budget_ms else 1


if __name__ == "__main__":
    sys.exit(main())
