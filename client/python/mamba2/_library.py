"""libmamba2 through ctypes: where it is, its structs and its functions, as client/mamba2.h declares them.

Searched in this order: $MAMBA2_LIBRARY; build/release of the source tree this package lies in; the system.
"""
from __future__ import annotations

import ctypes
import ctypes.util
import os
import pathlib
from ctypes import (CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t,
                    c_uint32, c_uint64, c_void_p)

from . import errors


class Options(Structure):
    _fields_ = [("size", c_size_t), ("runtime_dir", c_char_p), ("control", c_int), ("timeout_ms", c_int64),
                ("connect_timeout_ms", c_int64)]


class LogitBias(Structure):
    _fields_ = [("id", c_int32), ("bias", c_float)]


class GenerateOptions(Structure):
    _fields_ = [("size", c_size_t), ("model", c_char_p), ("prompt", c_char_p), ("prompt_bytes", c_size_t),
                ("tokens", POINTER(c_int32)), ("n_tokens", c_size_t), ("special", c_int), ("max_tokens", c_int64),
                ("n", c_int32), ("temperature", c_float), ("top_k", c_int64), ("top_p", c_float), ("min_p", c_float),
                ("repetition_penalty", c_float), ("presence_penalty", c_float), ("frequency_penalty", c_float),
                ("logit_bias", POINTER(LogitBias)), ("n_logit_bias", c_size_t), ("seed", c_int64),
                ("stop_tokens", POINTER(c_int32)), ("n_stop_tokens", c_size_t), ("stop", POINTER(c_char_p)),
                ("n_stop", c_size_t), ("ignore_eos", c_int), ("logprobs", c_int32), ("echo", c_int),
                ("logits", c_int), ("deadline_ms", c_int64), ("form", c_int),
                ("priority", c_int64)]


class ScoreOptions(Structure):
    _fields_ = [("size", c_size_t), ("model", c_char_p), ("prompt", c_char_p), ("prompt_bytes", c_size_t),
                ("tokens", POINTER(c_int32)), ("n_tokens", c_size_t), ("special", c_int), ("top", c_int32),
                ("logits", c_int), ("deadline_ms", c_int64), ("form", c_int),
                ("priority", c_int64)]


class RequestTimings(Structure):
    _fields_ = [(name, c_uint64) for name in ("queue", "first", "total", "engine", "first_engine", "seed",
                                              "received_at", "published_at")]


Progress = CFUNCTYPE(None, c_void_p, c_uint64, c_uint64, c_char_p)

_M, _R, _JSON = c_void_p, c_void_p, POINTER(c_void_p)
_FUNCTIONS = {  # name: (result, arguments)
    "connect": (c_int, [POINTER(Options), POINTER(c_void_p)]),
    "close": (None, [POINTER(c_void_p)]),
    "message": (c_char_p, [_M]),
    "message_field": (c_char_p, [_M]),
    "error_code": (c_char_p, [c_int]),
    "version": (c_char_p, []),
    "free": (None, [c_void_p]),
    "generate_options_init_size": (None, [POINTER(GenerateOptions), c_size_t]),
    "generate": (c_int, [_M, POINTER(GenerateOptions), POINTER(c_void_p)]),
    "score_options_init_size": (None, [POINTER(ScoreOptions), c_size_t]),
    "score": (c_int, [_M, POINTER(ScoreOptions), POINTER(c_void_p)]),
    "request_wait": (c_int, [_R, c_int64]),
    "request_fd": (c_int, [_R]),
    "request_finished": (c_int, [_R]),
    "request_result": (c_int, [_R, POINTER(c_char_p)]),
    "request_cancel": (c_int, [_R]),
    "request_number": (c_uint64, [_R]),
    "request_free": (None, [POINTER(c_void_p)]),
    "request_tokens": (c_size_t, [_R, c_int, POINTER(c_void_p)]),
    "request_text": (c_void_p, [_R, c_int, POINTER(c_size_t)]),
    "request_text_ends": (c_void_p, [_R, c_int]),
    "request_logprobs": (c_void_p, [_R, c_int]),
    "request_top_ids": (c_void_p, [_R, c_int, POINTER(c_size_t)]),
    "request_top_logprobs": (c_void_p, [_R, c_int]),
    "request_logits": (c_void_p, [_R, c_int, POINTER(c_size_t)]),
    "request_finish": (c_int, [_R, c_int]),
    "request_prompt": (c_size_t, [_R, POINTER(c_void_p)]),
    "request_prompt_scored": (c_size_t, [_R]),
    "request_prompt_logprobs": (c_void_p, [_R]),
    "request_prompt_top_ids": (c_void_p, [_R, POINTER(c_size_t)]),
    "request_prompt_top_logprobs": (c_void_p, [_R]),
    "request_prompt_logits": (c_void_p, [_R, POINTER(c_size_t)]),
    "request_paused": (c_uint64, [_R, POINTER(c_uint64)]),
    "request_timings": (None, [_R, POINTER(RequestTimings)]),
    "tokenize": (c_int, [_M, c_char_p, c_char_p, c_size_t, c_int, POINTER(c_void_p), POINTER(c_size_t)]),
    "tokenize_form": (c_int, [_M, c_char_p, c_int, c_char_p, c_size_t, POINTER(c_void_p), POINTER(c_size_t)]),
    "detokenize": (c_int, [_M, c_char_p, POINTER(c_int32), c_size_t, POINTER(c_void_p), POINTER(c_size_t)]),
    "cancel": (c_int, [_M, c_uint64]),
    "list": (c_int, [_M, _JSON]),
    "show": (c_int, [_M, c_char_p, _JSON]),
    "status": (c_int, [_M, _JSON]),
    "ps": (c_int, [_M, _JSON]),
    "load": (c_int, [_M, c_char_p, Progress, c_void_p, _JSON]),
    "load_with": (c_int, [_M, c_char_p, c_int, Progress, c_void_p, _JSON]),
    "unload": (c_int, [_M, c_char_p, c_int64, _JSON]),
    "register": (c_int, [_M, c_char_p, c_size_t, c_char_p, c_int, _JSON]),
    "verify": (c_int, [_M, c_char_p, c_int, Progress, c_void_p, _JSON]),
    "remove": (c_int, [_M, c_char_p, _JSON]),
    "reload": (c_int, [_M, _JSON]),
    "drain": (c_int, [_M, c_int64, c_int, c_int, _JSON]),
}


def _find() -> str:
    given = os.environ.get("MAMBA2_LIBRARY")
    if given:
        return given
    built = pathlib.Path(__file__).resolve().parents[3] / "build" / "release" / "libmamba2.so.0"
    if built.exists():
        return str(built)
    return ctypes.util.find_library("mamba2") or "libmamba2.so.0"


class _Library:
    """Attributes are the functions without their prefix.  Loaded at first use, so that importing the package
    works where the library is not installed."""

    def __init__(self) -> None:
        self._loaded: ctypes.CDLL | None = None

    def __getattr__(self, name: str):
        if name not in _FUNCTIONS:
            raise AttributeError(name)
        if self._loaded is None:
            self._loaded = ctypes.CDLL(_find())
        function = getattr(self._loaded, "mamba2_" + name)
        function.restype, function.argtypes = _FUNCTIONS[name]
        setattr(self, name, function)
        return function


lib = _Library()


def failure(number: int, handle: c_void_p | None) -> errors.Error:
    """The calling thread's last failure as an exception."""
    return errors.make(lib.message(handle).decode("utf-8", "replace"), number, lib.error_code(number).decode(),
                       lib.message_field(handle).decode("utf-8", "replace"))


def check(number: int, handle: c_void_p | None) -> None:
    if number != 0:
        raise failure(number, handle)


__all__ = ["GenerateOptions", "LogitBias", "Options", "Progress", "RequestTimings", "ScoreOptions", "byref", "c_char_p",
           "c_float", "c_int32", "c_size_t", "c_uint32", "c_void_p", "check", "failure", "lib"]
