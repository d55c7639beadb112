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

INT, FLOAT = "i", "f"
_TYPES = {INT: ctypes.c_int32, FLOAT: ctypes.c_float}


class Memory:
    """Owner of one mamba2_request; freed when the last Request, Score or view of it is gone."""

    def __init__(self, pointer: c_void_p) -> None:
        self.pointer = pointer

    def __del__(self) -> None:
        if self.pointer:
            lib.request_free(byref(self.pointer))


class _Place:
    """What NumPy takes as the base of an array: an address, and through it the memory's owner."""

    def __init__(self, memory: Memory, address: int, kind: str, shape: tuple[int, ...]) -> None:
        self.memory = memory
        self.__array_interface__ = {"version": 3, "shape": shape, "data": (address, True),
                                    "typestr": numpy.dtype(kind).str}


def view(memory: Memory, address: int | None, kind: str, *shape: int) -> Any:
    """A read-only array at an address inside the memory; None where there is none."""
    if not address:
        return None
    if numpy is not None:
        return numpy.asarray(_Place(memory, address, kind, shape))
    count = 1
    for n in shape:
        count *= n
    raw = (_TYPES[kind] * count).from_address(address)
    raw.memory = memory  # what keeps it mapped
    flat = memoryview(raw).toreadonly()
    if count == 0:
        return flat  # an empty memoryview has no shape to speak of
    return flat.cast("B").cast(kind, shape=list(shape))
