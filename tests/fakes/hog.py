"""A server that takes memory when it is asked to, and touches it again and again: `GET /health`, `POST /take MIB`.

Run as `python -S hog.py PORT`.
"""

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PAGE = 4096


class Hog(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(b"ok")

    def do_POST(self) -> None:
        size = int(self.rfile.read(int(self.headers["Content-Length"])))
        threading.Thread(target=take, args=(size << 20,), daemon=True).start()
        self._answer(b"taking")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        del format, args


def take(size: int) -> None:
    """Several threads, so that all of them wait for pages at the same time."""
    block = bytearray(size)
    for start in range(0, PAGE * 4, PAGE):
        threading.Thread(target=touch, args=(block, start), daemon=True).start()


def touch(block: bytearray, start: int) -> None:
    while True:
        for at in range(start, len(block), PAGE * 4):
            block[at] = (block[at] + 1) & 0xFF
        time.sleep(0)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hog).serve_forever()
