"""Client, Request, Completion, Score: the whole interface.

Threads: a Client may be used from any number of threads; a Request belongs to one thread at a time.
"""
from __future__ import annotations

import builtins
import ctypes
import json
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Union

from . import errors
from ._library import (GenerateOptions, LogitBias, Options, Progress, RequestTimings, ScoreOptions, byref, c_char_p,
                       c_int32, c_size_t, c_void_p, check, lib)
from ._results import FLOAT, INT, UINT, Memory, view

Prompt = Union[str, bytes, Sequence[int]]

_FINISH = (None, "stop_token", "stop_string", "length", "cancelled", "deadline", "error")
_SLICE_MS = 200  # how long a wait may keep Python from seeing Ctrl-C


def version() -> str:
    """Of the library."""
    return lib.version().decode()


class Token(NamedTuple):
    """One generated token.  text: what it added to the text ("" where it completes no character yet, or where the
    variant has no tokenizer); logprob: None unless the request asked for log-probabilities."""

    id: int
    text: str
    logprob: Optional[float]


class Timings(NamedTuple):
    """Nanoseconds; 0: not reached.  received_at and published_at are CLOCK_MONOTONIC (time.monotonic_ns)."""

    queue: int
    first: int
    total: int
    engine: int
    first_engine: int
    seed: int
    received_at: int
    published_at: int


class _Results:
    """What Request and Score share: one mamba2_request."""

    def __init__(self, client: Client, memory: Memory) -> None:
        self._client = client
        self._kept: Optional[Memory] = memory
        self._cancelled = False

    @property
    def _memory(self) -> Memory:
        if self._kept is None:
            raise ValueError("the request is closed")
        return self._kept

    @property
    def finished(self) -> bool:
        return bool(lib.request_finished(self._memory.pointer))

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Sleep until something new is published or all is finished; False when the time (seconds) is over."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _SLICE_MS if end is None else max(0, min(_SLICE_MS, int((end - time.monotonic()) * 1000)))
            number = lib.request_wait(self._memory.pointer, left)
            if number == 0:
                return True
            if number != 17:  # timeout
                check(number, self._client._pointer)
            if end is not None and time.monotonic() >= end:
                return False

    def join(self, timeout: Optional[float] = None) -> None:
        """Wait for the end.  Raises Timeout, or what the request as a whole failed with."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.finished:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise errors.make(f"not finished within {timeout} s", 17, "timeout")
            self.wait(left)
        self._raise_failure()

    def _raise_failure(self) -> None:
        message = c_char_p()
        number = lib.request_result(self._memory.pointer, byref(message))
        if number != 0 and not (number == 12 and self._cancelled):
            raise errors.make((message.value or b"").decode("utf-8", "replace"), number, lib.error_code(number).decode())

    def cancel(self) -> None:
        """Take effect at the next step; what has come stays."""
        self._cancelled = True
        check(lib.request_cancel(self._memory.pointer), self._client._pointer)

    def fileno(self) -> int:
        """A descriptor for select, poll or asyncio: readable when something is new; wait(0) clears it."""
        number = lib.request_fd(self._memory.pointer)
        if number < 0:
            raise OSError(lib.message(None).decode("utf-8", "replace"))
        return number

    def close(self) -> None:
        """Cancel what still runs and let go of the memory.  Views that exist stay good, and keep it mapped."""
        if self._kept is not None:
            if not self.finished:
                lib.request_cancel(self._kept.pointer)
            self._kept = None

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def timings(self) -> Timings:
        raw = RequestTimings()
        lib.request_timings(self._memory.pointer, byref(raw))
        return Timings(*(getattr(raw, name) for name in Timings._fields))

    # ---- of the prompt (score, echo) ----

    @property
    def prompt_tokens(self) -> Any:
        """The prompt's ids, int32 [T]."""
        at = c_void_p()
        count = lib.request_prompt(self._memory.pointer, byref(at))
        return view(self._memory, at.value, INT, count)

    @property
    def prompt_logprobs(self) -> Any:
        """float32 [scored]: of each token given those before it; the first is NaN.  None if not asked for."""
        count = lib.request_prompt_scored(self._memory.pointer)
        return view(self._memory, lib.request_prompt_logprobs(self._memory.pointer), FLOAT, count)

    @property
    def prompt_top_ids(self) -> Any:
        """int32 [scored, k], most probable first; row 0 is -1."""
        k = c_size_t()
        at = lib.request_prompt_top_ids(self._memory.pointer, byref(k))
        return view(self._memory, at, INT, lib.request_prompt_scored(self._memory.pointer), k.value)

    @property
    def prompt_top_logprobs(self) -> Any:
        k = c_size_t()
        lib.request_prompt_top_ids(self._memory.pointer, byref(k))
        at = lib.request_prompt_top_logprobs(self._memory.pointer)
        return view(self._memory, at, FLOAT, lib.request_prompt_scored(self._memory.pointer), k.value)

    @property
    def prompt_logits(self) -> Any:
        """float32 [scored, V]; row t is the prediction after token t.  None if not asked for."""
        vocab = c_size_t()
        at = lib.request_prompt_logits(self._memory.pointer, byref(vocab))
        return view(self._memory, at, FLOAT, lib.request_prompt_scored(self._memory.pointer), vocab.value)


class Completion:
    """One of the n continuations of a request.  Everything is what has been published so far."""

    def __init__(self, request: Request, index: int) -> None:
        self._request = request
        self.index = index

    @property
    def _memory(self) -> Memory:
        return self._request._memory

    def __len__(self) -> int:
        return lib.request_tokens(self._memory.pointer, self.index, None)

    @property
    def tokens(self) -> Any:
        """Ids, int32 [n]."""
        at = c_void_p()
        count = lib.request_tokens(self._memory.pointer, self.index, byref(at))
        return view(self._memory, at.value, INT, count)

    @property
    def text(self) -> Optional[str]:
        """None where the variant has no tokenizer."""
        size = c_size_t()
        at = lib.request_text(self._memory.pointer, self.index, byref(size))
        return None if not at else ctypes.string_at(at, size.value).decode("utf-8", "replace")

    @property
    def logprobs(self) -> Any:
        """float32 [n] of the chosen tokens, from the model's own logits.  None if not asked for."""
        return view(self._memory, lib.request_logprobs(self._memory.pointer, self.index), FLOAT, len(self))

    @property
    def top_ids(self) -> Any:
        """int32 [n, k], most probable first.  None if not asked for."""
        k = c_size_t()
        at = lib.request_top_ids(self._memory.pointer, self.index, byref(k))
        return view(self._memory, at, INT, len(self), k.value)

    @property
    def top_logprobs(self) -> Any:
        k = c_size_t()
        lib.request_top_ids(self._memory.pointer, self.index, byref(k))
        return view(self._memory, lib.request_top_logprobs(self._memory.pointer, self.index), FLOAT, len(self), k.value)

    @property
    def logits(self) -> Any:
        """float32 [n, V]: what token i was chosen from.  None if not asked for."""
        vocab = c_size_t()
        at = lib.request_logits(self._memory.pointer, self.index, byref(vocab))
        return view(self._memory, at, FLOAT, len(self), vocab.value)

    @property
    def finish(self) -> Optional[str]:
        """None while it runs; "stop_token", "stop_string", "length", "cancelled", "deadline" or "error"."""
        return _FINISH[lib.request_finish(self._memory.pointer, self.index)]

    def _token(self, i: int, start: int) -> tuple[Token, int]:
        memory, index = self._memory, self.index
        at = c_void_p()
        lib.request_tokens(memory.pointer, index, byref(at))
        identity = c_int32.from_address(at.value + 4 * i).value  # type: ignore[operator]
        ends = lib.request_text_ends(memory.pointer, index)
        text, end = "", start
        if ends:
            end = ctypes.c_uint32.from_address(ends + 4 * i).value
            base = lib.request_text(memory.pointer, index, None)
            text = ctypes.string_at(base + start, end - start).decode("utf-8", "replace")
        logprobs = lib.request_logprobs(memory.pointer, index)
        logprob = ctypes.c_float.from_address(logprobs + 4 * i).value if logprobs else None
        return Token(identity, text, logprob), end

    def __iter__(self) -> Iterator[Token]:
        """Tokens as they come, to the end.  Raises what the request as a whole failed with."""
        given, start = 0, 0
        while True:
            finished = self._request.finished  # asked first: then the count below is final
            count = len(self)
            while given < count:
                token, start = self._token(given, start)
                given += 1
                yield token
            if finished:
                self._request._raise_failure()
                return
            if len(self) == given:
                self._request.wait()


class Request(_Results):
    """A generation.  Iterating it, and everything Completion has, is of its first completion."""

    def __init__(self, client: Client, memory: Memory, n: int) -> None:
        super().__init__(client, memory)
        self.completions: List[Completion] = [Completion(self, i) for i in range(n)]

    def __iter__(self) -> Iterator[Token]:
        return iter(self.completions[0])

    def __len__(self) -> int:
        return len(self.completions[0])

    tokens = property(lambda self: self.completions[0].tokens, doc=Completion.tokens.__doc__)
    text = property(lambda self: self.completions[0].text, doc=Completion.text.__doc__)
    logprobs = property(lambda self: self.completions[0].logprobs, doc=Completion.logprobs.__doc__)
    top_ids = property(lambda self: self.completions[0].top_ids, doc=Completion.top_ids.__doc__)
    top_logprobs = property(lambda self: self.completions[0].top_logprobs, doc=Completion.top_logprobs.__doc__)
    logits = property(lambda self: self.completions[0].logits, doc=Completion.logits.__doc__)
    finish = property(lambda self: self.completions[0].finish, doc=Completion.finish.__doc__)

    def result(self, timeout: Optional[float] = None) -> Request:
        """Wait for the end (raising as join does) and return self."""
        self.join(timeout)
        return self


class Score(_Results):
    """Log-probabilities of a given sequence; complete when Client.score returns."""

    @property
    def tokens(self) -> Any:
        return self.prompt_tokens

    @property
    def logprobs(self) -> Any:
        return self.prompt_logprobs

    @property
    def top_ids(self) -> Any:
        return self.prompt_top_ids

    @property
    def top_logprobs(self) -> Any:
        return self.prompt_top_logprobs

    @property
    def logits(self) -> Any:
        return self.prompt_logits


def _ids(values: Sequence[int]) -> Any:
    """A C array; values that do not fit raise here instead of wrapping."""
    for value in values:
        if not 0 <= value <= 0x7FFFFFFF:
            raise errors.make(f"{value} is no token id", 1, "invalid", "tokens")
    return (c_int32 * max(1, len(values)))(*(int(v) for v in values))


class Client:
    """A connection to the daemon.  timeout: seconds that an answer may take, None for ever."""

    def __init__(self, runtime_dir: Optional[str] = None, *, control: bool = False, timeout: Optional[float] = 30.0,
                 connect_timeout: Optional[float] = 10.0) -> None:
        def milliseconds(seconds: Optional[float]) -> int:
            return -1 if seconds is None else max(1, int(seconds * 1000))

        self._pointer: Optional[c_void_p] = None
        options = Options(ctypes.sizeof(Options), runtime_dir.encode() if runtime_dir is not None else None,
                          int(control), milliseconds(timeout), milliseconds(connect_timeout))
        pointer = c_void_p()
        check(lib.connect(byref(options), byref(pointer)), None)
        self._pointer = pointer

    def close(self) -> None:
        """End the connection.  Results that are still held stay readable."""
        if self._pointer:
            pointer, self._pointer = self._pointer, None
            lib.close(byref(pointer))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _handle(self) -> c_void_p:
        if not self._pointer:
            raise ValueError("the client is closed")
        return self._pointer

    # ---- generate and score ----

    @staticmethod
    def _put_prompt(options: Any, prompt: Prompt) -> Any:
        if isinstance(prompt, (str, bytes)):
            text = prompt.encode() if isinstance(prompt, str) else prompt
            options.prompt, options.prompt_bytes = text, len(text)
            return text
        array = _ids(prompt)
        options.tokens, options.n_tokens = array, len(prompt)
        return array

    def generate(self, model: str, prompt: Prompt, *, max_tokens: Optional[int] = None, n: int = 1,
                 temperature: Optional[float] = None, top_k: Optional[int] = None, top_p: Optional[float] = None,
                 min_p: Optional[float] = None, repetition_penalty: Optional[float] = None,
                 presence_penalty: Optional[float] = None, frequency_penalty: Optional[float] = None,
                 logit_bias: Optional[Mapping[int, float]] = None, seed: Optional[int] = None,
                 stop: Union[str, Sequence[str], None] = None, stop_tokens: Optional[Sequence[int]] = None,
                 ignore_eos: bool = False, logprobs: Optional[int] = None, echo: bool = False, logits: bool = False,
                 special: bool = False, deadline: Optional[float] = None) -> Request:
        """Continue a prompt (text, or a sequence of token ids).  Returns when the daemon has accepted it.

        What is None takes the variant's default.  logprobs: 0 for the chosen token's, k for the k most probable too.
        deadline: seconds; what is done by then is kept.
        """
        o = GenerateOptions()
        lib.generate_options_init(byref(o))
        o.model = model.encode()
        keep = [self._put_prompt(o, prompt)]
        given = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
                 "repetition_penalty": repetition_penalty, "presence_penalty": presence_penalty,
                 "frequency_penalty": frequency_penalty, "seed": seed, "logprobs": logprobs}
        for name, value in given.items():
            if value is not None:
                setattr(o, name, value)
        o.n, o.special, o.ignore_eos, o.echo, o.logits = n, special, ignore_eos, echo, logits
        if logit_bias:
            pairs = (LogitBias * len(logit_bias))(*(LogitBias(int(i), b) for i, b in logit_bias.items()))
            o.logit_bias, o.n_logit_bias = pairs, len(logit_bias)
            keep.append(pairs)
        if stop is not None:
            texts = [stop] if isinstance(stop, str) else builtins.list(stop)
            strings = (c_char_p * max(1, len(texts)))(*(text.encode() for text in texts))
            o.stop, o.n_stop = strings, len(texts)
            keep.append(strings)
        if stop_tokens is not None:
            array = _ids(stop_tokens)
            o.stop_tokens, o.n_stop_tokens = array, len(stop_tokens)
            keep.append(array)
        if deadline is not None:
            o.deadline_ms = max(1, int(deadline * 1000))
        pointer = c_void_p()
        check(lib.generate(self._handle(), byref(o), byref(pointer)), self._pointer)
        return Request(self, Memory(pointer), n)

    def score(self, model: str, prompt: Prompt, *, top: int = 0, logits: bool = False, special: bool = False,
              deadline: Optional[float] = None) -> Score:
        """Log-probabilities of a given text or sequence; waits for all of them."""
        o = ScoreOptions()
        lib.score_options_init(byref(o))
        o.model = model.encode()
        keep = self._put_prompt(o, prompt)
        o.top, o.logits, o.special = top, logits, special
        if deadline is not None:
            o.deadline_ms = max(1, int(deadline * 1000))
        pointer = c_void_p()
        check(lib.score(self._handle(), byref(o), byref(pointer)), self._pointer)
        del keep
        score = Score(self, Memory(pointer))
        score.join()
        return score

    def tokenize(self, model: str, text: str, *, special: bool = False) -> List[int]:
        data, ids, count = text.encode(), c_void_p(), c_size_t()
        check(lib.tokenize(self._handle(), model.encode(), data, len(data), special, byref(ids), byref(count)),
              self._pointer)
        try:
            return builtins.list((c_int32 * count.value).from_address(ids.value)) if count.value else []
        finally:
            lib.free(ids)

    def detokenize(self, model: str, tokens: Sequence[int]) -> str:
        text, size = c_void_p(), c_size_t()
        check(lib.detokenize(self._handle(), model.encode(), _ids(tokens), len(tokens), byref(text), byref(size)),
              self._pointer)
        try:
            return ctypes.string_at(text.value, size.value).decode("utf-8", "replace") if size.value else ""
        finally:
            lib.free(text)

    # ---- questions and orders; common/PROTOCOL.md says what the dictionaries hold ----

    def _ask(self, function: Callable[..., int], *arguments: Any) -> Dict[str, Any]:
        text = c_void_p()
        check(function(self._handle(), *arguments, byref(text)), self._pointer)
        try:
            answer = json.loads(ctypes.string_at(text.value))
        finally:
            lib.free(text)
        for envelope in ("id", "key", "event"):
            answer.pop(envelope, None)
        return answer

    def show(self, model: str) -> Dict[str, Any]:
        return self._ask(lib.show, model.encode())["variant"]

    def status(self) -> Dict[str, Any]:
        return self._ask(lib.status)

    def ps(self) -> Dict[str, Any]:
        return self._ask(lib.ps)

    def load(self, model: str, progress: Optional[Callable[[int, int, str], None]] = None) -> Dict[str, Any]:
        """Make a variant resident.  progress(done, total, what) is called on this thread.  Control endpoint."""
        def forward(_: Any, done: int, total: int, what: Optional[bytes]) -> None:
            if progress is not None:
                progress(done, total, (what or b"").decode("utf-8", "replace"))

        return self._ask(lib.load, model.encode(), Progress(forward), None)

    def unload(self, model: str, wait: Optional[int] = None) -> Dict[str, Any]:
        return self._ask(lib.unload, model.encode(), -1 if wait is None else wait)

    def register(self, yaml: str, *, source: Optional[str] = None, replace: bool = False) -> Dict[str, Any]:
        """yaml: the text of a variant file; source: the absolute path it came from."""
        data = yaml.encode()
        return self._ask(lib.register, data, len(data), source.encode() if source is not None else None, int(replace))

    def remove(self, model: str) -> Dict[str, Any]:
        return self._ask(lib.remove, model.encode())

    def reload(self) -> Dict[str, Any]:
        return self._ask(lib.reload)

    def drain(self, wait: Optional[int] = None, *, stop: bool = False, resume: bool = False) -> Dict[str, Any]:
        return self._ask(lib.drain, -1 if wait is None else wait, int(stop), int(resume))

    def list(self) -> builtins.list[Dict[str, Any]]:  # last: its name hides the type's inside the class
        return self._ask(lib.list)["variants"]
