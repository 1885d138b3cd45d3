"""The guardrails of one request: which runs are under way, what is said of each, and which failures they caused.

A run is what one guardrail does at one place: before the call, beside it, on the answer, on the whole of a stream.
Whatever it reports meanwhile, to LiteLLM or to nobody, becomes one entry, and one span.
"""

from __future__ import annotations

import re
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from litellm_otel_plugin.request.errors import exception_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SUCCESS, INTERVENED, FAILED = "success", "guardrail_intervened", "guardrail_failed_to_respond"
# What is said of a run that reported several times: the gravest of it.
_GRAVITY = {INTERVENED: 2, FAILED: 1}
ALLOW, MASK, BLOCK = "allow", "mask", "block"
# LiteLLM's exceptions by which a guardrail has a request go another way.
_ACTIONS = {"SensitiveDataRouteException": "reroute", "ModifyResponseException": "replace"}
# In place of an answer LiteLLM's own guardrails report one of these.
_VERDICTS = frozenset({ALLOW, MASK, "deny"})
# A word that a guardrail chose for what it did, and not a sentence that it read.
_WORD = re.compile(r"[\w.-]{1,64}")
# Beside LiteLLM's names of an entry.
ERROR_NAME = "litellm_otel_plugin_error_name"
# What an exception was raised from can have been raised from something, and so on: envelopes are two or three deep.
LONGEST_CHAIN = 20
# LiteLLM makes exceptions of its own that quote a guardrail's. A text shorter than this, or a single word such as the
# name of a model, can be in any message.
SHORTEST_QUOTATION = 8


@dataclass(slots=True, eq=False)
class Run:
    """One guardrail at work at one place."""

    guardrail: object
    name: str
    mode: str | None
    reports_itself: bool = False
    started_at: float = field(default_factory=time.time)
    ended_at: float = 0.0
    seconds: float = 0.0
    entries: list[Mapping[str, Any]] = field(default_factory=list)
    blocked: bool = False
    status: str = SUCCESS
    action: str = ALLOW
    error_name: str | None = None
    categories: tuple[str, ...] = ()
    over: bool = False

    def worked(self, seconds: float) -> None:
        """Add a stretch of work that ends now."""
        self.ended_at = time.time()
        self.seconds += seconds

    def failed_with(self, error: BaseException, *, deliberately: bool) -> None:
        """It raised: a verdict, or a failure of its own. Either way the request does not go on as it was."""
        self.blocked = True
        self.status = INTERVENED if deliberately else FAILED
        self.action = _ACTIONS.get(type(error).__name__, BLOCK)
        self.error_name = exception_name(error)
        entity = getattr(error, "entity_type", None)
        self.categories = (entity,) if isinstance(entity, str) else ()

    def cut_short(self, error: BaseException) -> None:
        """It was not let finish, so that it has no verdict."""
        self.status, self.action, self.error_name = FAILED, "none", type(error).__name__

    def rejected(self) -> None:
        """It answered with a rejection in place of raising one."""
        self.blocked, self.status, self.action = True, INTERVENED, BLOCK

    def entry(self) -> dict[str, Any]:
        """What is said of the run, in LiteLLM's words."""
        told = self._merged() if self.entries else {}
        if not told:
            told = {"start_time": self.started_at, "end_time": self.ended_at, "guardrail_status": self.status}
        elif self.status != SUCCESS and told.get("guardrail_status") != INTERVENED:
            told["guardrail_status"] = self.status
        if self.mode is not None:
            told["guardrail_mode"] = self.mode
        told["guardrail_name"] = told.get("guardrail_name") or self.name
        if told.get("duration") is None:
            told["duration"] = self.seconds
        if not told.get("guardrail_action"):
            told["guardrail_action"] = self._action(told)
        if not told.get("violation_categories") and self.categories:
            told["violation_categories"] = list(self.categories)
        if self.error_name is not None:
            told[ERROR_NAME] = self.error_name
        return told

    def _action(self, told: Mapping[str, Any]) -> str:
        if self.status != SUCCESS:
            return self.action
        if told.get("guardrail_status") in _GRAVITY:
            return BLOCK
        response = told.get("guardrail_response")
        if isinstance(response, str) and response in _VERDICTS:
            return response
        return MASK if told.get("masked_entity_count") else ALLOW

    def _merged(self) -> dict[str, Any]:
        gravest = max(self.entries, key=lambda entry: _GRAVITY.get(str(entry.get("guardrail_status")), 0))
        merged = dict(gravest)
        for key, of_all in (
            ("start_time", min),
            ("end_time", max),
            ("duration", sum),
            ("guardrail_cost", sum),
        ):
            values = [entry[key] for entry in self.entries if isinstance(entry.get(key), int | float)]
            if values:
                merged[key] = of_all(values)
        return merged


@dataclass(slots=True, eq=False)
class Guardrails:
    """What a request has to remember of its guardrails."""

    blocked: bool = False
    # Of the streams that guardrails are handed, each made of the next, the one that comes from the provider.
    innermost_stream: object = None
    # By id, so that none of them is kept alive; with the type, for an id is given again.
    _withheld: dict[int, type] = field(default_factory=dict)
    _texts: set[str] = field(default_factory=set)
    _open: dict[int, tuple[Run, Callable[[Run], None]]] = field(default_factory=dict)

    def open_run(self, guardrail: object) -> Run | None:
        """The run of a guardrail that is handed a stream piece by piece, where one is under way."""
        found = self._open.get(id(guardrail))
        return found[0] if found is not None and not found[0].over else None

    def is_open(self, run: Run) -> bool:
        """Whether it is held open."""
        return self.open_run(run.guardrail) is run

    def keep_open(self, run: Run, finish: Callable[[Run], None]) -> None:
        """Hold a run open until the last piece of the stream."""
        self._open[id(run.guardrail)] = (run, finish)

    def finish(self) -> None:
        """The response is complete, and so is what was held open."""
        self.innermost_stream = None
        while self._open:
            _, (run, finish) = self._open.popitem()
            if not run.over:
                finish(run)

    def withhold(self, rejection: BaseException | str) -> None:
        """A guardrail raised this, or answered with it in place of raising: its text can quote what was blocked."""
        if isinstance(rejection, BaseException):
            self._withheld[id(rejection)] = type(rejection)
            told = (str(rejection), getattr(rejection, "message", None), getattr(rejection, "detail", None))
            self._texts.update(_strings(told))
        else:
            self._texts.update(_strings(rejection))

    def caused(self, error: BaseException) -> bool:
        """Whether an exception is one of a guardrail's whose text is withheld, was raised from one, or quotes one."""
        if not self._withheld and not self._texts:
            return False
        return any(
            self._withheld.get(id(cause)) is type(cause) or self._is_quoted_in(str(cause)) for cause in _causes(error)
        )

    def _is_quoted_in(self, text: str) -> bool:
        return text in self._texts or any(
            len(withheld) >= SHORTEST_QUOTATION and not _WORD.fullmatch(withheld) and withheld in text
            for withheld in self._texts
        )


current_run: ContextVar[Run | None] = ContextVar("litellm_otel_plugin_guardrail", default=None)


def without_text(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry without what a guardrail read or wrote: of its response the verdict, or numbers and booleans."""
    told = dict(entry)
    response = told.pop("guardrail_response", None)
    if isinstance(response, str):
        if response in _VERDICTS:
            told["guardrail_response"] = response
    elif bare := _without_strings(response):
        told["guardrail_response"] = bare
    action = told.get("guardrail_action")
    if action is not None and not _WORD.fullmatch(str(action)):
        told["guardrail_action"] = BLOCK if told.get("guardrail_status") in _GRAVITY else ALLOW
    return told


def _without_strings(value: object) -> Any:
    """Numbers and booleans by name; of what lies deeper, how much there is: a key can be a word that was found."""
    if not isinstance(value, dict):
        return value if isinstance(value, bool | int | float) else _amount(value)
    named = {key: each for key, each in value.items() if isinstance(key, str) and _WORD.fullmatch(key)}
    bare = {key: each if isinstance(each, bool | int | float) else _amount(each) for key, each in named.items()}
    return {key: each for key, each in bare.items() if each is not None}


def _amount(value: object) -> int | None:
    return len(value) if isinstance(value, dict | list | tuple) and value else None


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, dict):
        yield from _strings(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)


def _causes(error: BaseException) -> Iterator[BaseException]:
    waiting: list[object] = [error]
    seen = 0
    while waiting and seen < LONGEST_CHAIN:
        cause = waiting.pop()
        if isinstance(cause, BaseException):
            seen += 1
            yield cause
            waiting += [cause.__cause__, cause.__context__, getattr(cause, "original_exception", None)]
