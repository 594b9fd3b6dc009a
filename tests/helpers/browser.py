"""A headless browser that opens a page, runs a script in it and hands back what that returns."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REPORT = """<script>
(async () => {
  const tell = told => fetch("/told", { method: "POST", body: JSON.stringify(told) });
  window.addEventListener("error", event => tell({ error: event.message }));
  try { await tell({ value: await (async () => { %s })() }); } catch (error) { await tell({ error: String(error.stack) }); }
})();
</script></body>"""


def run(page: str, script: str, *, wait_s: float = 60) -> Any:
    """Return what a script returns that runs in a page, in a window of 1300 x 800 pixels; an error in the page is one here.

    The browser's own clock is left alone: streams that unpack data do not count for its virtual time.
    """
    browser = next((found for name in NAMES if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"there is no browser ({', '.join(NAMES)})")
    body, told, done = page.replace("</body>", REPORT % script), {}, threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/" else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            if self.path == "/":
                self.wfile.write(body.encode())

        def do_POST(self) -> None:
            told.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            done.set()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = [
            "--headless",
            "--disable-gpu",
            "--no-first-run",
            "--window-size=1300,800",
            f"--user-data-dir={profile}",
        ]
        flags += ["--no-sandbox"] if os.geteuid() == 0 else []
        flags += ["--remote-debugging-port=0"]  # keeps it open
        process = subprocess.Popen(
            [browser, *flags, f"http://127.0.0.1:{server.server_port}/"], stderr=subprocess.DEVNULL
        )
        try:
            assert done.wait(wait_s), "the page told nothing"
        finally:
            process.terminate()
            process.wait(10)
            server.shutdown()
            server.server_close()
    assert "error" not in told, told["error"]
    return told["value"]
