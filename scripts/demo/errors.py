"""What stops the demo."""

from __future__ import annotations


class DemoError(Exception):
    """The demo cannot go on; the message is for the person who started it."""


class Stopped(BaseException):
    """A signal asked the demo to stop; a BaseException, as KeyboardInterrupt is, so that nobody swallows it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number
