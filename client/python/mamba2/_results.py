"""Results memory in Python's hands: who frees it, and arrays that look into it without a copy.

A view keeps its request's memory mapped for as long as the view lives, whatever happens to the Request object
or the Client.  The memory is mapped read-only; so are the views.
"""
from __future__ import annotations

import ctypes
from typing import Any

from ._library import byref, c_void_p, lib

try:
    import numpy
except ImportError:  # memoryviews then
    numpy = None  # type: ignore[assignment]

INT, UINT, FLOAT = "i", "I", "f"
_TYPES = {INT: ctypes.c_int32, UINT: ctypes.c_uint32, FLOAT: ctypes.c_float}


class Memory:
    """Owner of one mamba2_request; freed when the last Request, Completion or view of it is gone."""

    def __init__(self, pointer: c_void_p) -> None:
        self.pointer = pointer

    def __del__(self) -> None:
        if self.pointer:
            lib.request_free(byref(self.pointer))


def view(memory: Memory, address: int | None, kind: str, *shape: int) -> Any:
    """A read-only array at an address inside the memory; None where there is none."""
    if not address:
        return None
    count = 1
    for n in shape:
        count *= n
    raw = (_TYPES[kind] * count).from_address(address)
    raw.memory = memory  # what keeps it mapped
    flat = memoryview(raw).toreadonly().cast("B").cast(kind)
    if numpy is not None:
        return numpy.frombuffer(flat, dtype=numpy.dtype(kind)).reshape(shape)
    return flat if len(shape) == 1 or count == 0 else flat.cast("B").cast(kind, shape=list(shape))
