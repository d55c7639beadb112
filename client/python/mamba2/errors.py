"""Refusals and failures as exceptions: one class per code that a program may want to tell apart."""
from __future__ import annotations


class Error(Exception):
    """What the daemon or the library said.

    code: stable word ("busy"); number: the same as a number; field: the field of the request that the sentence
    speaks of, "" if none.  str() is the sentence.
    """

    def __init__(self, message: str, number: int, code: str, field: str = "") -> None:
        super().__init__(message)
        self.number = number
        self.code = code
        self.field = field

    def __str__(self) -> str:
        return f"{self.args[0]} ({self.code})"


class Invalid(Error, ValueError):
    """A value of the request is wrong; see field."""


class NotFound(Error, LookupError):
    """No such variant or request."""


class Exists(Error):
    """The name is taken."""


class Denied(Error, PermissionError):
    """This user may not do this."""


class Busy(Error):
    """A queue or a quota is full: retry later."""


class NoMemory(Error, MemoryError):
    """Host, device or results memory is full."""


class LimitExceeded(Error, ValueError):
    """A fixed limit of the protocol."""


class Unsupported(Error):
    """Understood, and not something this build or device can run."""


class DeviceFailed(Error):
    """The device failed; the daemon restarts it by itself."""


class Cancelled(Error):
    """Cancelled by the client."""


class DeadlinePassed(Error):
    """The request's own deadline passed."""


class WorkerLost(Error):
    """The process that ran the request ended: send it again."""


class Draining(Error):
    """The daemon is stopping: no new work."""


class Timeout(Error, TimeoutError):
    """No answer in the time allowed."""


class Unreachable(Error, ConnectionError):
    """No daemon answers."""


CLASSES = {1: Invalid, 2: NotFound, 3: Exists, 4: Denied, 5: Busy, 6: NoMemory, 7: LimitExceeded, 10: Unsupported,
           11: DeviceFailed, 12: Cancelled, 13: DeadlinePassed, 14: WorkerLost, 15: Draining, 17: Timeout,
           18: Unreachable}


def make(message: str, number: int, code: str, field: str = "") -> Error:
    return CLASSES.get(number, Error)(message, number, code, field)
