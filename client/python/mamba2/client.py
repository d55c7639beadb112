"""Client, Request, Score: the whole interface.

Threads: a Client may be used from any number of threads; a Request belongs to one thread at a time.
"""
from __future__ import annotations

import builtins
import ctypes
import json
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from . import errors
from ._library import (GenerateOptions, LogitBias, Options, Progress, RequestTimings, ScoreOptions, byref, c_char_p,
                       c_int32, c_size_t, c_void_p, check, lib)
from ._results import FLOAT, INT, Memory, view

Prompt = Union[str, bytes]
Messages = Sequence[Mapping[str, str]]  # {"role": "system", "user" or "assistant", "content": text} each

_FINISH = (None, "stop_token", "stop_string", "length", "cancelled", "deadline", "error")
_CANCELLED, _DEADLINE, _TIMEOUT = 12, 13, 17
_TEXT, _CHAT, _FILL = 0, 1, 2  # enum mamba2_form
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
    """What Request and Score share: one mamba2_request and its prompt.

    Arrays are NumPy views of results memory (memoryviews without NumPy), read-only and not copied; a view keeps the
    memory mapped.  What the request did not ask for is None.
    """

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
    def number(self) -> int:
        """The daemon's number of the request: what ps shows and Client.cancel takes."""
        return lib.request_number(self._memory.pointer)

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
            if number != _TIMEOUT:
                check(number, None)
            if end is not None and time.monotonic() >= end:
                return False

    def wait_finished(self, timeout: Optional[float] = None) -> bool:
        """Sleep until all is finished, however it ended; False when the time (seconds) is over."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.finished:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return False
            self.wait(left)
        return True

    def check(self) -> None:
        """After the end: raise what the request as a whole failed with, if it did."""
        message = c_char_p()
        number = lib.request_result(self._memory.pointer, byref(message))
        if number != 0:
            raise errors.make((message.value or b"").decode("utf-8", "replace"), number, lib.error_code(number).decode())

    def result(self, timeout: Optional[float] = None):
        """Wait for the end, raise what it failed with, return self."""
        if not self.wait_finished(timeout):
            raise errors.make(f"not finished within {timeout} s", _TIMEOUT, "timeout")
        self.check()
        return self

    def cancel(self) -> None:
        """Takes effect at the next step; what has come stays."""
        self._cancelled = True
        check(lib.request_cancel(self._memory.pointer), None)

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

    @property
    def paused(self) -> Tuple[float, int]:
        """Seconds that it was paused so far, so that another user had their turn, and how often."""
        count = ctypes.c_uint64()
        return lib.request_paused(self._memory.pointer, byref(count)) / 1e9, count.value

    def prompt(self) -> Any:
        """The prompt's ids, int32 [T]."""
        at = c_void_p()
        count = lib.request_prompt(self._memory.pointer, byref(at))
        return view(self._memory, at.value, INT, count)

    def _scored(self) -> int:
        return lib.request_prompt_scored(self._memory.pointer)

    def prompt_logprobs(self) -> Any:
        """float32 [T]: of each token of the prompt given those before it; the first is NaN."""
        count = self._scored()
        return view(self._memory, lib.request_prompt_logprobs(self._memory.pointer), FLOAT, count)

    def prompt_top_ids(self) -> Any:
        """int32 [T, k], most probable first; row 0 is -1."""
        k, count = c_size_t(), self._scored()
        at = lib.request_prompt_top_ids(self._memory.pointer, byref(k))
        return view(self._memory, at, INT, count, k.value)

    def prompt_top_logprobs(self) -> Any:
        """float32 [T, k]"""
        k, count = c_size_t(), self._scored()
        lib.request_prompt_top_ids(self._memory.pointer, byref(k))
        return view(self._memory, lib.request_prompt_top_logprobs(self._memory.pointer), FLOAT, count, k.value)

    def prompt_logits(self) -> Any:
        """float32 [T, V]; row t is the prediction after token t."""
        vocab, count = c_size_t(), self._scored()
        at = lib.request_prompt_logits(self._memory.pointer, byref(vocab))
        return view(self._memory, at, FLOAT, count, vocab.value)


class Request(_Results):
    """A generation: n completions of one prompt.  Everything is what has been published so far.

    Iterating it gives the tokens of the first completion as they come.
    """

    def __init__(self, client: Client, memory: Memory, n: int) -> None:
        super().__init__(client, memory)
        self.n = n

    def count(self, sequence: int = 0) -> int:
        """Tokens so far."""
        return lib.request_tokens(self._memory.pointer, sequence, None)

    def tokens(self, sequence: int = 0) -> Any:
        """Ids, int32 [count]."""
        at = c_void_p()
        count = lib.request_tokens(self._memory.pointer, sequence, byref(at))
        return view(self._memory, at.value, INT, count)

    def text(self, sequence: int = 0) -> Optional[str]:
        """None where the variant has no tokenizer."""
        size = c_size_t()
        at = lib.request_text(self._memory.pointer, sequence, byref(size))
        return None if not at else ctypes.string_at(at, size.value).decode("utf-8", "replace")

    def logprobs(self, sequence: int = 0) -> Any:
        """float32 [count] of the chosen tokens, from the model's own logits."""
        count = self.count(sequence)
        return view(self._memory, lib.request_logprobs(self._memory.pointer, sequence), FLOAT, count)

    def top_ids(self, sequence: int = 0) -> Any:
        """int32 [count, k], most probable first."""
        k, count = c_size_t(), self.count(sequence)
        at = lib.request_top_ids(self._memory.pointer, sequence, byref(k))
        return view(self._memory, at, INT, count, k.value)

    def top_logprobs(self, sequence: int = 0) -> Any:
        """float32 [count, k]"""
        k, count = c_size_t(), self.count(sequence)
        lib.request_top_ids(self._memory.pointer, sequence, byref(k))
        return view(self._memory, lib.request_top_logprobs(self._memory.pointer, sequence), FLOAT, count, k.value)

    def logits(self, sequence: int = 0) -> Any:
        """float32 [count, V]: what token i was chosen from."""
        vocab, count = c_size_t(), self.count(sequence)
        at = lib.request_logits(self._memory.pointer, sequence, byref(vocab))
        return view(self._memory, at, FLOAT, count, vocab.value)

    def finish(self, sequence: int = 0) -> Optional[str]:
        """None while it runs; "stop_token", "stop_string", "length", "cancelled", "deadline" or "error"."""
        return _FINISH[lib.request_finish(self._memory.pointer, sequence)]

    def _token(self, sequence: int, i: int, start: int) -> Tuple[Token, int]:
        pointer, at, end, text, logprob = self._memory.pointer, c_void_p(), start, "", None
        lib.request_tokens(pointer, sequence, byref(at))
        ids = at.value or 0  # published tokens have a place
        ends = lib.request_text_ends(pointer, sequence)
        if ends:
            end = ctypes.c_uint32.from_address(ends + 4 * i).value
            text = ctypes.string_at(lib.request_text(pointer, sequence, None) + start, end - start).decode(
                "utf-8", "replace")
        logprobs = lib.request_logprobs(pointer, sequence)
        if logprobs:
            logprob = ctypes.c_float.from_address(logprobs + 4 * i).value
        return Token(c_int32.from_address(ids + 4 * i).value, text, logprob), end

    def stream(self, sequence: int = 0) -> Iterator[Token]:
        """Tokens of one completion as they come, to its end.

        Raises what the request as a whole failed with; one's own cancel() and a deadline are no failures.
        """
        given, start = 0, 0
        while True:
            finished = self.finished  # asked first: then the count below is final
            count = self.count(sequence)
            while given < count:
                token, start = self._token(sequence, given, start)
                given += 1
                yield token
                if self._kept is None:  # closed meanwhile
                    return
            if finished:
                break
            if self.n > 1 and self.finish(sequence) in ("stop_token", "stop_string", "length"):
                if self.count(sequence) == given:
                    return  # this completion ended before the others
                continue
            self.wait()
        try:
            self.check()
        except (errors.Cancelled, errors.DeadlinePassed) as error:
            if error.number == _CANCELLED and not self._cancelled:
                raise

    def __iter__(self) -> Iterator[Token]:
        return self.stream(0)


class Score(_Results):
    """Log-probabilities of a given sequence; complete when Client.score returns."""

    tokens = _Results.prompt
    logprobs = _Results.prompt_logprobs
    top_ids = _Results.prompt_top_ids
    top_logprobs = _Results.prompt_top_logprobs
    logits = _Results.prompt_logits


def _ids(values: Sequence[int], field: str) -> Any:
    """A C array; values that do not fit raise here instead of wrapping."""
    numbers = [int(value) for value in values]
    for number in numbers:
        if not 0 <= number <= 0x7FFFFFFF:
            raise errors.make(f"{number} is no token id", 1, "invalid", field)
    return (c_int32 * max(1, len(numbers)))(*numbers)


def _milliseconds(seconds: Optional[float]) -> int:
    return -1 if seconds is None else max(1, int(seconds * 1000))


def _priority(word: str) -> int:
    """enum mamba2_priority"""
    words = ("normal", "low", "high")
    if word not in words:
        raise ValueError(f"priority is one of {', '.join(words)}, not {word!r}")
    return words.index(word)


def _form(prompt: Optional[Prompt], messages: Optional[Messages], prefix: Optional[str],
          suffix: Optional[str]) -> Tuple[int, bytes]:
    """enum mamba2_form and the payload of the one of the three that is given."""
    if (prompt is not None) + (messages is not None) + (prefix is not None or suffix is not None) != 1:
        raise TypeError("give one of prompt, tokens, messages, or prefix and suffix")
    if messages is not None:
        return _CHAT, json.dumps([dict(message) for message in messages], ensure_ascii=False).encode()
    if prompt is None:
        return _FILL, json.dumps({"prefix": prefix or "", "suffix": suffix or ""}, ensure_ascii=False).encode()
    return _TEXT, prompt.encode() if isinstance(prompt, str) else prompt


def _put_prompt(options: Any, prompt: Optional[Prompt], tokens: Optional[Sequence[int]],
                messages: Optional[Messages] = None, prefix: Optional[str] = None,
                suffix: Optional[str] = None) -> Any:
    """Returns what must live until the call."""
    if tokens is not None:
        if any(other is not None for other in (prompt, messages, prefix, suffix)):
            raise TypeError("give one of prompt, tokens, messages, or prefix and suffix")
        array = _ids(tokens, "tokens")
        options.tokens, options.n_tokens = array, len(tokens)
        return array
    options.form, text = _form(prompt, messages, prefix, suffix)
    options.prompt, options.prompt_bytes = text, len(text)
    return text


def _progress(function: Optional[Callable[[int, int, str], None]]) -> Any:
    """A C callback that calls function(done, total, what); keep it until the call that takes it returns."""
    def forward(_: Any, done: int, total: int, what: Optional[bytes]) -> None:
        if function is not None:
            function(done, total, (what or b"").decode("utf-8", "replace"))

    return Progress(forward)


class Client:
    """A connection to the daemon.

    control: the control endpoint (administrators).  timeout: seconds that an answer may take, None for ever;
    connect_timeout: and the daemon to be there.
    """

    def __init__(self, runtime_dir: Optional[str] = None, *, control: bool = False, timeout: Optional[float] = 60.0,
                 connect_timeout: Optional[float] = 10.0) -> None:
        self._pointer: Optional[c_void_p] = None
        options = Options(ctypes.sizeof(Options), runtime_dir.encode() if runtime_dir is not None else None,
                          int(control), _milliseconds(timeout), _milliseconds(connect_timeout))
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
        if getattr(self, "_pointer", None):
            self.close()

    def _handle(self) -> c_void_p:
        if not self._pointer:
            raise ValueError("the client is closed")
        return self._pointer

    # ---- generate and score ----

    def generate(self, model: str, prompt: Optional[Prompt] = None, *, tokens: Optional[Sequence[int]] = None,
                 max_tokens: Optional[int] = None, n: int = 1, temperature: Optional[float] = None,
                 top_k: Optional[int] = None, top_p: Optional[float] = None, min_p: Optional[float] = None,
                 repetition_penalty: Optional[float] = None, presence_penalty: Optional[float] = None,
                 frequency_penalty: Optional[float] = None, logit_bias: Optional[Mapping[int, float]] = None,
                 seed: Optional[int] = None, stop: Union[str, Sequence[str], None] = None,
                 stop_tokens: Optional[Sequence[int]] = None, ignore_eos: bool = False, logprobs: Optional[int] = None,
                 echo: bool = False, logits: bool = False, special: bool = False,
                 deadline_ms: Optional[int] = None, messages: Optional[Messages] = None,
                 prefix: Optional[str] = None, suffix: Optional[str] = None, priority: str = "normal") -> Request:
        """Continue a prompt: text, or token ids.  Returns when the daemon has accepted it.

        Models whose tokenizer has a template (show tells) also answer messages=[{"role": "user", "content": "..."}]
        and fill in what belongs between prefix and suffix; Unsupported for others.

        priority, "low", "normal" or "high", is the order among your own requests; it moves nobody else's.
        What is None takes the variant's default.  logprobs: 0 for the chosen token's, k for the k most probable too.
        """
        o = GenerateOptions()
        lib.generate_options_init_size(byref(o), ctypes.sizeof(o))
        o.model = model.encode()
        keep = [_put_prompt(o, prompt, tokens, messages, prefix, suffix)]
        given = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
                 "repetition_penalty": repetition_penalty, "presence_penalty": presence_penalty,
                 "frequency_penalty": frequency_penalty, "seed": seed, "logprobs": logprobs,
                 "deadline_ms": deadline_ms}
        for name, value in given.items():
            if value is not None:
                setattr(o, name, value)
        o.priority = _priority(priority)
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
            array = _ids(stop_tokens, "stop_tokens")
            o.stop_tokens, o.n_stop_tokens = array, len(stop_tokens)
            keep.append(array)
        pointer = c_void_p()
        check(lib.generate(self._handle(), byref(o), byref(pointer)), self._pointer)
        return Request(self, Memory(pointer), n)

    def score(self, model: str, prompt: Optional[Prompt] = None, *, tokens: Optional[Sequence[int]] = None,
              top: int = 0, logits: bool = False, special: bool = False, deadline_ms: Optional[int] = None,
              messages: Optional[Messages] = None, prefix: Optional[str] = None,
              suffix: Optional[str] = None) -> Score:
        """Log-probabilities of a given text, sequence of ids, conversation or gap; waits for all of them."""
        o = ScoreOptions()
        lib.score_options_init_size(byref(o), ctypes.sizeof(o))
        o.model = model.encode()
        keep = _put_prompt(o, prompt, tokens, messages, prefix, suffix)
        o.top, o.logits, o.special = top, logits, special
        if deadline_ms is not None:
            o.deadline_ms = deadline_ms
        pointer = c_void_p()
        check(lib.score(self._handle(), byref(o), byref(pointer)), self._pointer)
        del keep
        return Score(self, Memory(pointer)).result()

    def tokenize(self, model: str, text: Optional[str] = None, *, special: bool = False,
                 messages: Optional[Messages] = None, prefix: Optional[str] = None,
                 suffix: Optional[str] = None) -> List[int]:
        """Ids of a text, or those that messages or a gap become (see generate)."""
        (form, data), ids, count = _form(text, messages, prefix, suffix), c_void_p(), c_size_t()
        if form == _TEXT:
            number = lib.tokenize(self._handle(), model.encode(), data, len(data), special, byref(ids), byref(count))
        else:
            number = lib.tokenize_form(self._handle(), model.encode(), form, data, len(data), byref(ids), byref(count))
        check(number, self._pointer)
        try:
            return builtins.list((c_int32 * count.value).from_address(ids.value or 0)) if count.value else []
        finally:
            lib.free(ids)

    def detokenize(self, model: str, tokens: Sequence[int]) -> str:
        text, size = c_void_p(), c_size_t()
        check(lib.detokenize(self._handle(), model.encode(), _ids(tokens, "tokens"), len(tokens), byref(text),
                             byref(size)), self._pointer)
        try:
            return ctypes.string_at(text.value or 0, size.value).decode("utf-8", "replace") if size.value else ""
        finally:
            lib.free(text)

    def cancel(self, number: int) -> None:
        """Stop a request by its number: one's own, or on the control endpoint anyone's."""
        check(lib.cancel(self._handle(), number), self._pointer)

    # ---- questions and orders; common/PROTOCOL.md says what the dictionaries hold ----

    def _ask(self, function: Callable[..., int], *arguments: Any) -> Dict[str, Any]:
        text = c_void_p()
        check(function(self._handle(), *arguments, byref(text)), self._pointer)
        try:
            answer = json.loads(ctypes.string_at(text.value or 0))
        finally:
            lib.free(text)
        for envelope in ("id", "key", "event"):
            answer.pop(envelope, None)
        return answer

    def show(self, model: str) -> Dict[str, Any]:
        """{"variant": {...}}"""
        return self._ask(lib.show, model.encode())

    def status(self) -> Dict[str, Any]:
        return self._ask(lib.status)

    def ps(self) -> Dict[str, Any]:
        return self._ask(lib.ps)

    def load(self, model: str, progress: Optional[Callable[[int, int, str], None]] = None, *, dry_run: bool = False,
             pin: bool = False) -> Dict[str, Any]:
        """Make a variant resident.  progress(done, total, what) is called on this thread.  Control endpoint, as all
        that follow.  dry_run: only say what would happen.  pin: it never leaves by itself."""
        if not (dry_run or pin):
            return self._ask(lib.load, model.encode(), _progress(progress), None)
        return self._ask(lib.load_with, model.encode(), (1 if dry_run else 0) | (2 if pin else 0), _progress(progress),
                         None)

    def unload(self, model: str, wait_s: Optional[int] = None) -> Dict[str, Any]:
        return self._ask(lib.unload, model.encode(), -1 if wait_s is None else wait_s)

    def register(self, yaml: str, *, source: Optional[str] = None, replace: bool = False) -> Dict[str, Any]:
        """yaml: the text of a variant file; source: the absolute path it came from."""
        data = yaml.encode()
        return self._ask(lib.register, data, len(data), source.encode() if source is not None else None, int(replace))

    def verify(self, model: str, *, record: bool = False, progress: Optional[Callable[[int, int, str], None]] = None
               ) -> Dict[str, Any]:
        """Read every file of a variant again: {"state": ..., "files": [...]}.  record: what is there becomes the
        record."""
        return self._ask(lib.verify, model.encode(), int(record), _progress(progress), None)

    def remove(self, model: str) -> Dict[str, Any]:
        return self._ask(lib.remove, model.encode())

    def reload(self) -> Dict[str, Any]:
        return self._ask(lib.reload)

    def drain(self, wait_s: Optional[int] = None, *, stop_daemon: bool = False, resume: bool = False) -> Dict[str, Any]:
        return self._ask(lib.drain, -1 if wait_s is None else wait_s, int(stop_daemon), int(resume))

    def list(self) -> Dict[str, Any]:
        """{"variants": [...]}: those this user may use."""
        return self._ask(lib.list)
