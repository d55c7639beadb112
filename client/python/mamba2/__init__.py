"""Client of mamba2d, the daemon that serves Mamba-2 language models on this host.

    import mamba2

    with mamba2.Client() as client:
        for token in client.generate("demo", "In the beginning", max_tokens=100):
            print(token.text, end="", flush=True)

        score = client.score("demo", "And the king said unto him", logits=True)
        print(score.logprobs()[1:].sum(), score.logits().shape)     # NumPy views of shared memory, not copies

A thin layer over libmamba2 (ctypes).  NumPy is optional: without it arrays are memoryviews.
"""
from .client import Client, Request, Score, Timings, Token, version
from .errors import (Busy, Cancelled, DeadlinePassed, Denied, DeviceFailed, Draining, Error, Exists, Invalid,
                     LimitExceeded, NoMemory, NotFound, Timeout, Unreachable, Unsupported, WorkerLost)

__all__ = ["Busy", "Cancelled", "Client", "DeadlinePassed", "Denied", "DeviceFailed", "Draining",
           "Error", "Exists", "Invalid", "LimitExceeded", "NoMemory", "NotFound", "Request", "Score", "Timeout",
           "Timings", "Token", "Unreachable", "Unsupported", "WorkerLost", "version"]
