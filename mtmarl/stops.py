"""Signals that ask a command to end: training saves first, a second signal ends the process at once."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

# SIGHUP is not known on Windows.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
# Ctrl-C and the SIGTERM of a sweep that passes it on arrive together: they are one request.
ONE_REQUEST_SECONDS = 1.0


class Stopped(KeyboardInterrupt):
    """A signal ended the command. `saved` says what was saved last, empty where nothing was."""

    def __init__(self, signum: int, saved: str = ""):
        super().__init__(signum, saved)
        self.signum, self.saved = signum, saved


def raise_stopped() -> None:
    """SIGTERM and SIGHUP raise Stopped from now on. Ignored signals stay ignored."""
    for signum in SIGNALS:
        if signal.getsignal(signum) == signal.SIG_DFL:
            signal.signal(signum, _raise)


def die_of_signals() -> None:
    """Signals end the process from now on, without a traceback. Ignored signals stay ignored."""
    for signum in SIGNALS:
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)


def _raise(signum: int, frame: FrameType | None) -> None:
    raise Stopped(signum)


class Request:
    """Whether a signal has asked training to end. What is saved lies in `place`."""

    def __init__(self, place: Path, afterwards: str):
        self.place, self._afterwards = place, afterwards
        self.signum: int | None = None
        self._since = 0.0

    def stopped(self, update: int) -> Stopped:
        """What to raise once the state after `update` updates is saved."""
        # Another process of the same run may have got the signal.
        return Stopped(self.signum or signal.SIGTERM, f"after update {update:,}, saved in {self.place}")

    def receive(self, signum: int) -> None:
        now = time.monotonic()
        if self.signum is None:
            self.signum, self._since = signum, now
            _say("stopping: the state is saved after this chunk; stop once more to end at once")
        elif now - self._since > ONE_REQUEST_SECONDS:
            _say(f"stopped at once; {self._afterwards}")
            os._exit(128 + signum)


@contextmanager
def awaited(place: Path, afterwards: str) -> Iterator[Request]:
    """Signals inside are a `Request`; `afterwards` says what is left when a second one ends the process at once.

    Ignored signals stay ignored. Outside the main thread signals are left as they are.
    """
    request = Request(place, afterwards)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    # Python runs handlers between instructions of the main thread, which may wait for a compiler for minutes. The
    # numbers of signals are therefore written to a socket that a thread reads.
    written, read = socket.socketpair()
    written.setblocking(False)
    previous = {s: signal.getsignal(s) for s in SIGNALS}
    taken = [s for s, handler in previous.items() if handler not in (signal.SIG_IGN, None)]

    def watch() -> None:
        while received := read.recv(1):
            if received[0] in taken:
                request.receive(received[0])

    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    wakeup = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    for signum in taken:
        signal.signal(signum, lambda signum, frame: None)
    try:
        yield request
    finally:
        for signum in taken:
            signal.signal(signum, previous[signum])
        signal.set_wakeup_fd(wakeup)
        written.close()
        watcher.join()
        read.close()
    if request.signum is not None:  # It came after the last chunk.
        raise Stopped(request.signum)


def _say(line: str) -> None:
    with suppress(OSError):  # The terminal has gone, as after SIGHUP.
        os.write(2, f"\n{line}\n".encode())
