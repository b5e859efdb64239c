"""Termination signals: training saves its state and stops. A second signal kills the process."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

# Windows has no SIGHUP.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
# After Ctrl-C, a run gets SIGINT and the sweep's SIGTERM at the same time. They count as one request.
ONE_REQUEST_SECONDS = 1.0


class Stopped(KeyboardInterrupt):
    """A signal ended the command. saved: describes the last saved state; empty if there is none."""

    def __init__(self, signum: int, saved: str = ""):
        super().__init__(signum, saved)
        self.signum, self.saved = signum, saved


def raise_stopped() -> None:
    """Makes SIGTERM and SIGHUP raise Stopped. Ignored signals stay ignored."""
    for signum in SIGNALS:
        if signal.getsignal(signum) == signal.SIG_DFL:
            signal.signal(signum, _raise)


def die_of_signals() -> None:
    """Makes signals kill the process without a traceback. Ignored signals stay ignored."""
    for signum in SIGNALS:
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)


def _raise(signum: int, frame: FrameType | None) -> None:
    raise Stopped(signum)


class Request:
    """A request to stop training. signum: the received signal or None. place: where the state is saved."""

    def __init__(self, place: Path, hint: str):
        self.place, self._hint = place, hint
        self.signum: int | None = None
        self._received_at = 0.0

    def stopped(self, update: int) -> Stopped:
        """Returns the exception to raise after the state of this update is saved."""
        # Another process of the same run may have received the signal.
        return Stopped(self.signum or signal.SIGTERM, f"after update {update:,}, saved in {self.place}")

    def receive(self, signum: int) -> None:
        now = time.monotonic()
        if self.signum is None:
            self.signum, self._received_at = signum, now
            _print("stopping: the state is saved after this chunk; repeat the signal to stop immediately")
        elif now - self._received_at > ONE_REQUEST_SECONDS:
            _print(f"stopped immediately; {self._hint}")
            os._exit(128 + signum)


@contextmanager
def awaited(place: Path, hint: str) -> Iterator[Request]:
    """Turns signals into a `Request`. hint: printed when a second signal kills the process.

    Ignored signals stay ignored. Signal handlers change in the main thread only.
    """
    request = Request(place, hint)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    # Python runs signal handlers in the main thread, which compilation may block for minutes. Therefore signal
    # numbers are written to a socket, and a thread reads them.
    writer, reader = socket.socketpair()
    writer.setblocking(False)
    previous = {s: signal.getsignal(s) for s in SIGNALS}
    handled = [s for s, handler in previous.items() if handler not in (signal.SIG_IGN, None)]

    def watch() -> None:
        while received := reader.recv(1):
            if received[0] in handled:
                request.receive(received[0])

    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for signum in handled:
        signal.signal(signum, lambda signum, frame: None)
    try:
        yield request
    finally:
        for signum in handled:
            signal.signal(signum, previous[signum])
        signal.set_wakeup_fd(wakeup)
        writer.close()
        watcher.join()
        reader.close()
    if request.signum is not None:  # The signal came after the last chunk.
        raise Stopped(request.signum)


def _print(line: str) -> None:
    with suppress(OSError):  # The terminal is closed, as after SIGHUP.
        os.write(2, f"\n{line}\n".encode())
