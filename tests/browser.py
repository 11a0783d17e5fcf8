"""Drive a headless Chromium through its DevTools protocol: open pages, run script, see what is requested."""

import base64
import contextlib
import functools
import http.server
import json
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

from websocket import create_connection


@contextlib.contextmanager
def serve(folder):
    """Serve a folder on loopback."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        """Say nothing."""


class Browser:
    """One tab."""

    def __init__(self, socket):
        self.socket, self.number, self.requested, self.errors = create_connection(socket, timeout=60), 0, [], []
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Call a method, and note what happens meanwhile."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while (told := self._receive()).get("id") != self.number:
            pass
        if "error" in told:
            raise ConnectionError(told["error"]["message"])
        return told["result"]

    def _receive(self):
        told = json.loads(self.socket.recv())
        if told.get("method") == "Network.requestWillBeSent":
            self.requested.append(told["params"]["request"]["url"])
        if told.get("method") == "Runtime.exceptionThrown":
            self.errors.append(told["params"]["exceptionDetails"])
        return told

    def elsewhere(self):
        """What was requested from other machines."""
        return [url for url in self.requested if not url.startswith(("data:", "blob:", "http://127.0.0.1:"))]

    def open(self, url, width=1280, height=900, scheme="light"):
        """Open a page, in a window of a size and a colour scheme, and wait until it is loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=url)
        while self._receive().get("method") != "Page.loadEventFired":
            pass

    def run(self, script):
        """Evaluate an expression; wait where it is a promise."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script, seconds=20):
        """Wait until an expression is true; it cannot be asked while another page is on its way."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(ConnectionError):
                if found := self.run(script):
                    return found
            time.sleep(0.1)
        return None

    def picture(self, file):
        """Take a picture of the window."""
        Path(file).write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def chromium(program, profile):
    """Start a browser, and end it."""
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *quiet]
    command += [f"--user-data-dir={profile}", "--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        port = next(line for line in process.stderr if "DevTools listening" in line).split(":")[-1].split("/")[0]
        threading.Thread(target=process.stderr.read, daemon=True).start()
        tabs = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list"))
        try:
            yield Browser(next(tab for tab in tabs if tab["type"] == "page")["webSocketDebuggerUrl"])
        finally:
            process.terminate()
