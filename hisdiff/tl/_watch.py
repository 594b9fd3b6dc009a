"""How long something takes, and how much memory the process holds meanwhile."""

from __future__ import annotations

import threading
import time

_EVERY_S = 0.02


class Watch:
    """Measures a ``with`` block.

    Attributes
    ----------
    seconds
        Time by the clock.
    peak_gb
        Most memory that the process held (resident, looked at fifty times a second), in GB. What the process held
        before is part of it.
    """

    seconds = 0.0
    peak_gb = 0.0

    def __enter__(self) -> Watch:
        import psutil

        self._process, self._done = psutil.Process(), threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._keep_looking, daemon=True)
        self._start = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self._done.set()
        self._thread.join()
        self._look()

    def _look(self) -> None:
        self.peak_gb = max(self.peak_gb, self._process.memory_info().rss / 1e9)

    def _keep_looking(self) -> None:
        while not self._done.wait(_EVERY_S):
            self._look()
