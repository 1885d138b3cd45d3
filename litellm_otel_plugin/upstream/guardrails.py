"""LiteLLM's guardrails: each run of one has exactly one span.

LiteLLM runs a guardrail from a dozen places, and makes a span where the guardrail, or a decorator on it, reports to
it. What those places have in common is the guardrail's own hooks. So they are watched, on its class.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Mapping
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from litellm_otel_plugin import seams
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.request.guardrails import ERROR_NAME, SUCCESS, Run, current_run, without_text
from litellm_otel_plugin.request.record import current_record, record_of_context
from litellm_otel_plugin.upstream.access import put, take
from litellm_otel_plugin.upstream.guardrail_texts import text_may_be_shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Self

    from litellm_otel_plugin.request.attempts import Attempt

PRE_CALL_HOOK = "async_pre_call_hook"
CHUNK_HOOK = "async_post_call_streaming_hook"
STREAM_HOOK = "async_post_call_streaming_iterator_hook"
APPLY = "apply_guardrail"
# The argument of a stream's hook that the stream is.
SOURCE = "response"
# A guardrail's hooks, and where in the request each of them is. The last one can be anywhere.
HOOKS: Mapping[str, str | None] = {
    PRE_CALL_HOOK: "pre_call",
    "async_moderation_hook": "during_call",
    "async_post_call_success_hook": "post_call",
    CHUNK_HOOK: "post_call",
    STREAM_HOOK: "post_call",
    APPLY: None,
}
# Their classes have the hooks too, which do nothing there.
_BASES = ("litellm.integrations.custom_logger", "litellm.integrations.custom_guardrail")
# Whose callbacks reject requests without being guardrails: limiters, budgets, checks of access.
_NO_GUARDRAILS_OF = ("litellm", "litellm_enterprise", "litellm_otel_plugin")
_WATCHED = "watched_by_litellm_otel_plugin"


class GuardrailWatch:
    """The watch over the guardrails of this process."""

    def __init__(self) -> None:
        self._kinds: set[type] = set()
        self._guardrail: Any = None
        self._runner: Any = None
        self._emit: Callable[[Mapping[str, Any]], None] | None = None

    def install(self) -> None:
        """Watch LiteLLM's own runner of guardrails, and from the next ``look`` on the guardrails."""
        guardrail, self._runner = take(seams.GUARDRAIL), take(seams.GUARDRAIL_RUNNER)
        self._watch(self._runner)
        self._guardrail = guardrail

    def look(self) -> None:
        """Watch what has been added since: guardrails come at run time too."""
        if self._guardrail is None:
            return
        import litellm  # noqa: PLC0415 - see the package's docstring

        with contained("looking for guardrails"):
            for callback in tuple(litellm.callbacks):
                kind = type(callback)
                if kind not in self._kinds:
                    self._kinds.add(kind)
                    if isinstance(callback, self._guardrail) or _can_act_as_one(callback):
                        self._watch(kind)

    def make_spans(self) -> None:
        """Make each run one span, in LiteLLM's own way."""
        original, data = take(seams.EMIT_GUARDRAIL), take(seams.GUARDRAIL_DATA)
        make_data = data.from_logging_entry

        def emit(entry: Mapping[str, Any]) -> None:
            original(entry if text_may_be_shown() else without_text(entry))

        @functools.wraps(original)
        def emit_guardrail_span(entry: Mapping[str, Any]) -> None:
            run = current_run.get()
            with contained("making a guardrail's span"):
                if run is not None and not run.over:
                    run.entries.append(entry)  # how the run ends is not known yet
                else:
                    emit(entry)

        @functools.wraps(make_data)
        def from_logging_entry(entry: Mapping[str, Any]) -> Any:
            made = make_data(entry)
            name = entry.get(ERROR_NAME)
            return replace(made, error=replace(made.error, error_type=name)) if name and made.error else made

        put(seams.EMIT_GUARDRAIL, emit_guardrail_span)
        data.from_logging_entry = staticmethod(from_logging_entry)
        self._emit = emit

    def begin(self, callback: Any, hook: str, arguments: Mapping[str, Any]) -> Run | None:
        """The run that a hook is called for: a guardrail's hooks call one another within one."""
        guardrail = callback
        if isinstance(callback, self._runner):
            data = arguments.get("data")
            in_data = data.get("guardrail_to_apply") if isinstance(data, Mapping) else None
            guardrail = arguments.get("guardrail_to_apply") or in_data
        outer = current_run.get()
        if guardrail is None or (outer is not None and not outer.over and outer.guardrail is guardrail):
            return outer
        record = current_record()
        open_run = record.guardrails.open_run(guardrail) if record is not None else None
        if open_run is not None and open_run.mode == HOOKS[hook]:
            return open_run
        name = getattr(guardrail, "guardrail_name", None) or type(guardrail).__name__
        # LiteLLM has these report themselves, and not where they find nothing to look at.
        reports_itself = guardrail is not callback or hook == APPLY
        return Run(guardrail, str(name), _mode(hook, arguments), reports_itself=reports_itself)

    def finish(self, run: Run) -> None:
        """Make the run's span."""
        run.over = True
        told = bool(run.entries) or run.blocked
        if not told and isinstance(run.guardrail, self._guardrail):
            quiet = run.reports_itself or run.guardrail.records_own_guardrail_information
            told = run.status != SUCCESS or not quiet
        if told and self._emit is not None:
            self._emit(run.entry())

    def is_a_verdict(self, guardrail: object, error: Exception) -> bool:
        """Whether a guardrail raised this on purpose: LiteLLM's kinds, and those that come with the guardrail."""
        package = _package(type(error))
        own = package == _package(type(guardrail)) and package not in _NO_GUARDRAILS_OF
        return own or bool(self._guardrail._is_guardrail_intervention(error))  # noqa: SLF001

    def _watch(self, kind: type) -> None:
        for each in kind.__mro__:
            for name in HOOKS if each.__module__ not in _BASES else ():
                hook = vars(each).get(name)
                if inspect.isfunction(hook) and _WATCHED not in vars(hook):
                    watched = self._watched(name, hook)
                    vars(watched)[_WATCHED] = True
                    setattr(each, name, watched)

    def _watched(self, name: str, hook: Callable[..., Any]) -> Any:
        if name == STREAM_HOOK:
            return self._watched_stream(hook)
        return self._watched_call(name, _between_pieces(hook) if name == CHUNK_HOOK else hook)

    def _watched_call(self, name: str, hook: Callable[..., Any]) -> Any:
        @functools.wraps(hook)
        async def watched(callback: Any, *args: Any, **kwargs: Any) -> Any:
            with _Step(self, callback, name, kwargs) as step:
                step.answer = await hook(callback, *args, **kwargs)
            return step.answer

        return watched

    def _watched_stream(self, hook: Callable[..., Any]) -> Any:
        @functools.wraps(hook)
        def watched(callback: Any, *args: Any, **kwargs: Any) -> Any:
            step = _Step(self, callback, STREAM_HOOK, kwargs)
            if SOURCE in kwargs:
                kwargs[SOURCE] = _Source(kwargs[SOURCE])
            return _Stream(step, hook(callback, *args, **kwargs))

        return watched


class _Step:
    """One call of a guardrail's hook: what is reported meanwhile belongs to the run."""

    __slots__ = (
        "_began",
        "_context",
        "_hook",
        "_is_outermost",
        "_run",
        "_source",
        "_token",
        "_watch",
        "answer",
        "over",
    )

    def __init__(self, watch: GuardrailWatch, callback: Any, hook: str, arguments: Mapping[str, Any]) -> None:
        self._watch = watch
        self._hook = hook
        self._source = arguments.get(SOURCE)
        self._run: Run | None = None
        self._token: Any = None
        self.answer: Any = None
        self.over = False
        # A stream that nobody reads to its end is ended by the garbage collector, in whatever context that runs.
        self._context = copy_context()
        with contained("noting that a guardrail begins"):
            self._run = watch.begin(callback, hook, arguments)
        self._is_outermost = self._run is not None and current_run.get() is not self._run
        self._began = time.perf_counter()

    def __enter__(self) -> Self:
        if self._is_outermost:
            self._token = current_run.set(self._run)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.leave()
        self.end(error)

    def leave(self) -> None:
        """The context is the caller's again."""
        if self._token is not None:
            with suppress(ValueError):  # a coroutine that nobody awaits to its end, as above
                current_run.reset(self._token)
            self._token = None

    def end(self, error: BaseException | None) -> None:
        """The hook is over, and what it raised is passing."""
        if self._run is not None and not self.over:
            self.over = True
            with contained("noting what a guardrail did"):
                self._context.run(self._end, self._run, error)

    def _end(self, run: Run, error: BaseException | None) -> None:
        # What comes through a stream from the provider, or from another guardrail, is none of this one's doing.
        if error is not None and error is getattr(self._source, "failure", None):
            error = None
        self._withhold(error)
        if self._is_outermost:
            self._conclude(run, error)

    def _conclude(self, run: Run, error: BaseException | None) -> None:
        run.worked(time.perf_counter() - self._began)
        if isinstance(error, Exception):
            run.failed_with(error, deliberately=self._watch.is_a_verdict(run.guardrail, error))
        elif error is not None:
            run.cut_short(error)
        elif self._rejects():
            run.rejected()
        record = current_record()
        if record is not None:
            record.guardrails.blocked = record.guardrails.blocked or run.blocked
        if record is not None and not run.blocked and (self._hook == CHUNK_HOOK or record.guardrails.is_open(run)):
            record.guardrails.keep_open(run, self._watch.finish)
        else:
            self._watch.finish(run)

    def _rejects(self) -> bool:
        return self._hook == PRE_CALL_HOOK and isinstance(self.answer, str | Exception)

    def _withhold(self, error: BaseException | None) -> None:
        record = record_of_context()
        raised = error if error is not None else self.answer if self._rejects() else None
        if record is not None and isinstance(raised, str | Exception) and not text_may_be_shown():
            record.guardrails.withhold(raised)


class _Source:
    """The stream that a guardrail is handed: the provider is busy while the guardrail waits for the next piece."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._pieces: Any = None
        self._resting: list[Attempt] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._pieces is None:
            self._begin()
        _go_on(self._resting)
        try:
            return await anext(self._pieces)
        finally:
            self._resting = _rest(self)

    def _begin(self) -> None:
        self._pieces = aiter(self._stream)
        record = current_record()
        if record is not None:  # one that is made of another is asked before that one is
            record.guardrails.innermost_stream = self


def _between_pieces(hook: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(hook)
    async def judge_piece(*args: Any, **kwargs: Any) -> Any:
        resting = _rest()
        answer = await hook(*args, **kwargs)
        _go_on(resting)
        return answer

    return judge_piece


def _rest(stream: _Source | None = None) -> list[Attempt]:
    """Nobody waits for the provider, unless the stream is not its own; which attempts it was busy with until now."""
    with contained("noting that nobody waits for a provider"):
        record = current_record()
        if record is not None and (stream is None or record.guardrails.innermost_stream is stream):
            return [each for each in record.handoffs.under_way(record.call_id) if each.rest()]
    return []


def _go_on(attempts: Iterable[Attempt]) -> None:
    with contained("noting that a provider is asked for more"):
        for attempt in attempts:
            attempt.go_on()


class _Stream:
    """A guardrail's stream as it is. Between two pieces the context is the reader's: the step is entered for each."""

    def __init__(self, step: _Step, stream: Any) -> None:
        self._step = step
        self._stream = stream
        self._pieces = aiter(stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        with self:
            return await anext(self._pieces)

    def __enter__(self) -> None:
        self._step.__enter__()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._step.leave()
        if error is not None:
            # Nothing is left of it, or of its reader: what it saw until then has passed.
            has_passed = isinstance(error, StopAsyncIteration) or not isinstance(error, Exception)
            self._step.end(None if has_passed else error)

    async def aclose(self) -> None:
        """Its reader left."""
        try:
            with self:
                closing = self._stream.aclose() if hasattr(self._stream, "aclose") else None
                if inspect.isawaitable(closing):
                    await closing
        finally:
            self._step.end(None)

    def __del__(self) -> None:
        self._step.end(None)


def _can_act_as_one(callback: Any) -> bool:
    """Whether a callback that is no guardrail may do a guardrail's work: an operator's own, or one that says so."""
    return _package(type(callback)) not in _NO_GUARDRAILS_OF or (
        getattr(callback, "enforces_request_content", False) is True
    )


def _mode(hook: str, arguments: Mapping[str, Any]) -> str | None:
    mode = HOOKS[hook]
    # An MCP tool's call goes through the same hooks.
    return mode.replace("_call", "_mcp_call") if mode and "mcp" in str(arguments.get("call_type")) else mode


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]
