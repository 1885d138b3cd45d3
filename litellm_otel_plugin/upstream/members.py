"""LiteLLM's loggers as members of the backends that they would have written to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litellm_otel_plugin import seams
from litellm_otel_plugin.backends.folding import GENERIC_CALLBACK
from litellm_otel_plugin.upstream.access import take
from litellm_otel_plugin.upstream.loggers import FOR_EVERY_REQUEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from litellm_otel_plugin.backends.vocabularies import Vocabulary


class FoldedLogger:
    """One of LiteLLM's loggers, as a member of the backends that it would have written to."""

    def __init__(self, logger: Any, owner: str | None, vocabulary: Vocabulary | None) -> None:
        self.logger = logger
        self.name = name_of(logger)
        self.owner = owner
        self.vocabulary = vocabulary

    def is_listed(self) -> bool:
        """Whether it is among the callbacks for every request."""
        return is_listed(self.logger)

    def is_overridden(self) -> bool:
        """Whether this request's team has an account of its own at the backend, instead of the operator's."""
        return self.owner in take(seams.OVERRIDDEN)()


class StandIn(FoldedLogger):
    """A preset's logger where it feeds the operator's collector too: as long as `otel` is not listed for that."""

    def __init__(self, logger: Any, generic: Callable[[], Any]) -> None:
        super().__init__(logger, None, None)
        self._generic = generic

    def is_listed(self) -> bool:
        """Whether it is among the callbacks for every request, and `otel` is not: any request can have that built."""
        generic = self._generic()
        return super().is_listed() and (generic is None or not is_listed(generic))


class EveryRequest:
    """Where no callback of LiteLLM's names a backend: the one that the environment names is for every request."""

    name = GENERIC_CALLBACK
    owner = None
    vocabulary = None

    def is_listed(self) -> bool:
        """Always."""
        return True

    def is_overridden(self) -> bool:
        """Never: it is no preset's."""
        return False


def name_of(logger: Any) -> str:
    """A logger's callback, as an operator writes it."""
    return logger.callback_name or GENERIC_CALLBACK


def is_listed(logger: Any) -> bool:
    """Whether LiteLLM has it among the callbacks for every request."""
    import litellm  # noqa: PLC0415 - see the package's docstring

    name = name_of(logger)
    return any(
        logger in callbacks or name in callbacks
        for callbacks in (getattr(litellm, each, ()) for each in FOR_EVERY_REQUEST)
    )
