"""Ask a server in a closed loop, and print p50 and p99 in ms and requests a second as JSON.

python tests/load_client.py ADDRESS ROUTE BODY_FILE CONNECTIONS SECONDS [HEADER ...]
ADDRESS is host:port, or the path of a Unix socket. One process, bare sockets: the same small cost for every server.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import uvloop


class Line(asyncio.Protocol):
    """One connection: a request is sent when the answer before it has come whole."""

    def __init__(self, address: str, request: bytes, end: float, times: list[float], wrong: list[bytes]):
        self.address, self.request, self.end, self.times, self.wrong = address, request, end, times, wrong
        self.done: asyncio.Future = asyncio.get_running_loop().create_future()
        self.seen, self.need = b"", -1

    async def connect(self):
        loop = asyncio.get_running_loop()
        if self.address.startswith("/"):
            await loop.create_unix_connection(lambda: self, self.address)
        else:
            host, _, port = self.address.rpartition(":")
            await loop.create_connection(lambda: self, host, int(port))

    def connection_made(self, transport):
        self.transport = transport
        self.send()

    def send(self):
        self.began, self.seen, self.need = time.perf_counter(), b"", -1
        self.transport.write(self.request)

    def data_received(self, data):
        self.seen += data
        if self.need < 0 and b"\r\n\r\n" in self.seen:
            head = self.seen.partition(b"\r\n\r\n")[0]
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            self.need = len(head) + 4 + int(lengths[0].split(b":")[1])
            self.closes = b"\nconnection: close" in head.lower()
        if 0 <= self.need <= len(self.seen):
            self.times.append(time.perf_counter() - self.began)
            if not self.seen.startswith(b"HTTP/1.1 200"):
                self.wrong.append(self.seen[:300])
            if time.perf_counter() < self.end:
                self.transport.close() if self.closes else self.send()
            else:
                self.transport.close()

    def connection_lost(self, error):
        whole = 0 <= self.need <= len(self.seen)
        if time.perf_counter() < self.end and whole:  # A server that closes after every answer
            self.next = asyncio.ensure_future(self.connect())
            return
        if not whole:
            self.wrong.append(f"connection lost: {error}".encode())
        if not self.done.done():
            self.done.set_result(None)


async def load(address: str, request: bytes, connections: int, seconds: float) -> dict:
    times: list[float] = []
    wrong: list[bytes] = []
    end = time.perf_counter() + seconds
    lines = [Line(address, request, end, times, wrong) for _ in range(connections)]
    await asyncio.gather(*(line.connect() for line in lines))
    await asyncio.gather(*(line.done for line in lines))
    if wrong:
        raise SystemExit(f"{len(wrong)} of {len(times)} answers are no 200: {wrong[0].decode(errors='replace')}")
    ranked = sorted(times)
    at = {
        name: ranked[min(len(ranked) - 1, int(len(ranked) * share))] * 1000
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }
    return {**at, "rate": len(times) / seconds}


def main() -> None:
    address, route, file, connections, seconds, *headers = sys.argv[1:]
    body = Path(file).read_bytes()
    lines = [f"POST {route} HTTP/1.1", "Host: bench", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    request = "\r\n".join([*lines, *headers, "", ""]).encode() + body
    print(json.dumps(uvloop.run(load(address, request, int(connections), float(seconds)))))


if __name__ == "__main__":
    main()
