"""LiteLLM's v2 loggers, folded: one of ours records, and each of LiteLLM's says where to and in which words.

A folded logger stays where LiteLLM keeps it, so that LiteLLM finds it again, lists it and can remove it, and still
does what its own class adds to the SERVER span. It records nothing itself.
"""

from __future__ import annotations

import functools
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from pydantic import ValidationError

from litellm_otel_plugin import seams
from litellm_otel_plugin.backends.accounts import innermost
from litellm_otel_plugin.backends.folding import GENERIC_CALLBACK, EarlySpans, Site
from litellm_otel_plugin.backends.resources import own_resource
from litellm_otel_plugin.backends.retiring import shut_down_aside
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.seams import SeamMissing
from litellm_otel_plugin.upstream.access import module, put, take
from litellm_otel_plugin.upstream.exporters import (
    is_placeholder,
    lacks_credentials,
    leave_the_environment_to_the_operator,
    processors_of,
    stamps_identity,
    traces_endpoint,
)
from litellm_otel_plugin.upstream.identity import Identities
from litellm_otel_plugin.upstream.loggers import (
    LISTS_OF_A_LOGGER,
    add_callback,
    adopt_provider,
    as_v2_logger,
    in_memory_loggers,
    listed_loggers,
    otel_settings,
)
from litellm_otel_plugin.upstream.members import EveryRequest, FoldedLogger, StandIn, is_listed, name_of
from litellm_otel_plugin.upstream.quiet import QuietKinds
from litellm_otel_plugin.upstream.routes import Routes
from litellm_otel_plugin.upstream.wording import Wordings, remember_how_data_are_made, show_langfuse_its_root

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.sdk.trace import ReadableSpan

    from litellm_otel_plugin.backends.folding import AskingRequest, Backends
    from litellm_otel_plugin.backends.resources import OwnResource


class Folding:
    """The one logger, and LiteLLM's that are folded into it."""

    def __init__(
        self, backends: Backends, request: Callable[[], AskingRequest | None], say: Callable[[str], None]
    ) -> None:
        self.backends = backends
        self._request = request
        self._say = say
        self._lock = threading.RLock()
        self._build: Any = None
        self._one: Any = None
        self._folded: list[Any] = []
        # Of those, the ones that the operator's own code made: `otel` does not name them.
        self._made_by_operator: list[Any] = []
        self._quiet_kinds = QuietKinds(lambda: self.logger().tracer_provider)
        self._identities = Identities(backends.vocabularies)
        self._wordings = Wordings(backends.vocabularies, self._identities, self._is_wanted)
        self._routes = Routes(backends.vocabularies, self._identities, lambda: tuple(self._folded), self._is_wanted)

    def install(self) -> None:
        """From now on, every logger that LiteLLM builds is folded the moment it exists."""
        _look_for_what_is_used()
        remember_how_data_are_made()
        leave_the_environment_to_the_operator()
        show_langfuse_its_root(self._wordings.stamp_for_langfuse)
        self._build = take(seams.BUILD_LOGGER)

        @functools.wraps(self._build)
        def build_otel_v2_logger(config: Any, callback_name: str | None = None, **more: Any) -> Any:
            if more.get("tracer_provider") is not None:  # somebody's own, to somebody's own provider
                return self._build(config=config, callback_name=callback_name, **more)
            return self._fold(config, callback_name, more)

        put(seams.BUILD_LOGGER, build_otel_v2_logger)
        with suppress(SeamMissing):
            self._tell_otel_apart()

    def renew_locks(self) -> None:
        """In a forked child: whoever held one in the parent is not here."""
        self._lock = threading.RLock()
        self.backends.renew_locks()

    def logger(self) -> Any:
        """The one that records, built as if the operator had listed ``otel``, without an exporter of its own."""
        with self._lock:
            if self._one is None:
                one = self._build(**_of_the_one_logger(*self._generic()))
                self._wordings.speak_plainly_through(one, self._routes.finish_copies)
                one._tenant_tracers = self._routes  # noqa: SLF001
                one.records = True  # LiteLLM takes loggers for the same one where all such attributes are equal
                self._identities.follow(one)
                self._learn_what_presets_promote()
                one.tracer_provider.add_span_processor(self.backends.vocabularies)
                one.tracer_provider.add_span_processor(self._identities)
                one.tracer_provider.add_span_processor(EarlySpans(self._request))
                self._one = one
            return self._one

    def publishable(self) -> Any:
        """The one logger, once LiteLLM has built its callbacks: registered, and with a backend where one is named."""
        one = self.logger()
        for logger in list(in_memory_loggers()):
            if self._is_unfolded(logger):
                self._fold_late(logger)
        for logger in listed_loggers():
            if self._is_unfolded(logger):
                self._fold_operators(logger)
        if not self._folded:
            config, _ = self._generic()
            for spec in config.exporters:
                self._add_backend(EveryRequest(), config, spec)
            # LiteLLM builds a team's logger in another way where it finds none to stand beside.
            if all(each is not one for each in in_memory_loggers()):
                in_memory_loggers().append(one)
            # With these it compares the accounts that tenants name.
            one.config = one.config.model_copy(update={"exporters": config.exporters})
        add_callback(one, LISTS_OF_A_LOGGER)
        proxy = sys.modules.get(seams.PROXY_MODULE)
        # A logger of the earlier tracing can hold the slot.
        if proxy is not None:
            proxy.open_telemetry_logger = one  # type: ignore[attr-defined]  # a module's variable
        return one

    def in_words_of(self, span: ReadableSpan, callback_name: str | None) -> ReadableSpan:
        """An ended span as a tenant's backend of this kind is to see it."""
        vocabularies = self.backends.vocabularies
        return vocabularies.of(span, self._wordings.vocabulary_of(callback_name))

    def _fold(self, config: Any, callback_name: str | None, more: Mapping[str, Any]) -> Any:
        with self._lock:
            one = self.logger()
            # Metrics and events are recorded by the one that records the spans.
            silent = config.model_copy(update={"enable_metrics": False, "enable_events": False})
            more = {**more, "tracer_provider": one.tracer_provider}
            logger = self._build(config=silent, callback_name=callback_name, **more)
            logger.config = config
            self._take_in(logger)
            return logger

    def _is_unfolded(self, logger: Any) -> bool:
        known = [self._one, *self._folded, *self._made_by_operator]
        return as_v2_logger(logger) is not None and not _is_one_of(logger, known)

    def _fold_operators(self, logger: Any) -> None:
        """Fold a logger that is listed as an object: one that the operator's own code made."""
        name = f"the {type(logger).__name__} among the callbacks"
        provider = logger.tracer_provider
        if isinstance(provider, TracerProvider) and provider is trace.get_tracer_provider():
            self._made_by_operator.append(logger)
            logger.__class__ = self._quiet_kinds.of(type(logger))
            self._say(f"{name} writes to the provider that was already set: it records nothing of its own there")
        elif stamps_identity(provider):
            self._made_by_operator.append(logger)
            self._fold_late(logger)
            self._say(f"{name} is one more backend: its exporters are kept, not what else its provider does")
        else:
            self._say(f"{name} has a provider of its own: it is left as it is")

    def _fold_late(self, logger: Any) -> None:
        """Fold a logger that was built before there was anything to fold it into."""
        with contained("folding a logger"):
            provider, one = logger.tracer_provider, self.logger()
            adopt_provider(logger, one.tracer_provider)  # what its own class may record is recorded there
            logger._emitter._event_recorder = None  # noqa: SLF001 - the one that records the spans records events
            self._take_in(logger)
            if provider not in (one.tracer_provider, trace.get_tracer_provider()):
                shut_down_aside(provider)

    def _take_in(self, logger: Any) -> None:
        with self._lock:
            if type(logger).log_pre_api_call is not take(seams.V2_LOGGER).log_pre_api_call:
                # LiteLLM has its first logger told of hand-offs, wherever that is listed, and that is the one now.
                add_callback(logger, ("input_callback",))
            logger.__class__ = self._quiet_kinds.of(type(logger))
            config = logger.config
            own = [spec for spec in config.exporters if spec.owner is not None]
            logger._tenant_tracers = take(seams.ROUTE_CACHE)(  # noqa: SLF001 - without what is not this logger's own
                config.model_copy(update={"exporters": own}), logger.callback_name, _tracer_name()
            )
            vocabulary = self._wordings.learn(logger)
            self._folded.append(logger)
            for spec in config.exporters:
                owner = spec.owner.value if spec.owner is not None else None
                # A preset without a backend of its own words what goes to the operator's collector.
                if owner is None and own:
                    self._add_backend(StandIn(logger, self._generic_logger), self._generic()[0], spec)
                elif owner is None and logger.callback_name is None:
                    self._add_backend(FoldedLogger(logger, None, None), config, spec)
                else:
                    self._add_backend(FoldedLogger(logger, owner, vocabulary), config, spec)

    def _generic_logger(self) -> Any:
        """The folded logger that `otel` names, if LiteLLM has built one."""
        own = self._made_by_operator
        return next((each for each in self._folded if each.callback_name is None and not _is_one_of(each, own)), None)

    def _tell_otel_apart(self) -> None:
        """Where LiteLLM is asked for ``otel`` and has a preset's logger, it takes that for both."""
        original = take(seams.FACTORY)

        @functools.wraps(original)
        def init_custom_logger(logging_integration: str, *args: Any, **kwargs: Any) -> Any:
            generic = self._generic_logger()
            if logging_integration != GENERIC_CALLBACK or not self._folded or generic is not None:
                found = original(logging_integration, *args, **kwargs)
                return generic if logging_integration == GENERIC_CALLBACK and generic is not None else found
            config, settings = self._generic()
            logger = self._fold(config, None, {"settings": settings})
            in_memory_loggers().append(logger)
            with suppress(SeamMissing):
                take(seams.AUTO_PHOENIX)(in_memory_loggers())
            return logger

        put(seams.FACTORY, init_custom_logger)

    def _generic(self) -> tuple[Any, dict[str, Any]]:
        """The configuration that ``otel`` has: what the environment and ``callback_settings`` say."""
        from litellm.integrations.otel.model.config import OpenTelemetryV2Config  # noqa: PLC0415 - see the package

        settings = otel_settings()
        try:
            return OpenTelemetryV2Config(**settings), settings
        except ValidationError as error:
            fields = ", ".join(sorted({str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}))
            self._say(f"callback_settings.otel is left out: it cannot be read ({fields})")
            return OpenTelemetryV2Config(), {}

    def _learn_what_presets_promote(self) -> None:
        """They go by the environment alone: one that is built later is known to the spans that are open by then."""
        from litellm.integrations.otel.model.config import OpenTelemetryV2Config  # noqa: PLC0415 - as above

        with suppress(ValidationError):  # then no preset can be built either
            self._identities.learn(OpenTelemetryV2Config())

    def _add_backend(self, member: Any, config: Any, spec: Any) -> None:
        if is_placeholder(spec):
            return
        if lacks_credentials(spec):
            reason = "there are no credentials for it. Keys and teams that bring their own are served"
            self._say(f"the backend {member.name} gets nothing of yours: {reason}")
            return
        try:
            change = self._resource_change(config)
            processors = processors_of(config, spec, change)
        except Exception as error:  # noqa: BLE001 - whatever an exporter refuses to be built with
            reason = f"LiteLLM cannot build its exporter ({type(error).__name__})"
            self._say(f"the backend {member.name} cannot be used: {reason}")
            return
        for processor in processors:
            kind = type(innermost(processor))
            if kind is SpanProcessor:
                continue  # it was refused, and that is said
            owner = spec.owner.value if spec.owner is not None else None
            site = Site(
                owner, spec.kind, traces_endpoint(spec), (owner, spec.kind, spec.endpoint, str(spec.options), kind)
            )
            self.backends.add(self.logger().tracer_provider, member, processor, site, change)

    def _resource_change(self, config: Any) -> OwnResource | None:
        """How what a logger says of this process differs from what the one logger says."""
        plain, own = _said_of_process(self.logger().config), _said_of_process(config)
        return own_resource(plain, own, insisted=frozenset(config.resource_attributes))

    def _is_wanted(self, logger: Any) -> bool:
        """Whether the request that this code runs for concerns a folded logger."""
        if is_listed(logger) or logger.callback_name in take(seams.REQUEST_BACKENDS)():
            return True
        request = self._request()
        return request is not None and name_of(logger) in (request.asked_callbacks or ())


def _said_of_process(config: Any) -> dict[str, Any]:
    """What a logger says of this process; but for the id of it that is made up where the configuration has none."""
    said = dict(take(seams.RESOURCE)(config).attributes)
    if SERVICE_INSTANCE_ID not in config.resource_attributes:
        said.pop(SERVICE_INSTANCE_ID, None)
    return said


def _look_for_what_is_used() -> None:
    """Nothing is put in place where a part of it would be missing."""
    used = {
        seams.BUILD_LOGGER: (),
        seams.V2_LOGGER: ("seed_request_identity", "_seed_identity_baggage"),
        seams.EMITTER: ("finish_span",),
        seams.ROUTE_CACHE: ("route_for", "release", "_credential_headers", "_project_headers"),
        seams.SERVICE_NAME: (),
        seams.REQUEST_BACKENDS: (),
        seams.OVERRIDDEN: (),
        seams.PROMOTED: (),
        seams.IDENTITY: ("from_user_api_key_auth",),
        seams.ROOT: (),
        seams.SPAN_DATA: ("from_standard_logging_payload",),
        seams.LANGFUSE_ROOT: (),
        seams.PROVIDER: (),
        seams.BAGGAGE: (),
        seams.RESOURCE: (),
        seams.PRESETS: (),
    }
    for seam, methods in used.items():
        found = take(seam)
        if not all(hasattr(found, method) for method in methods):
            raise SeamMissing(seam)


def _is_one_of(logger: Any, loggers: list[Any]) -> bool:
    return any(logger is each for each in loggers)


def _of_the_one_logger(config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """How the one logger is built: as the generic one, but for what is to reach the operator's collector alone."""
    hidden = settings.get("turn_off_message_logging") is True or settings.get("message_logging") is False
    mine = {
        "exporters": [type(config.exporters[0])()],
        "resource_attributes": {},
        # LiteLLM would take the content off before the presets' twins are worded.
        **({"capture_message_content": "no_content"} if hidden else {}),
    }
    kept = {name: value for name, value in settings.items() if not name.endswith("message_logging")}
    return {"config": config.model_copy(update=mine), "settings": kept}


def _tracer_name() -> str:
    return str(module(seams.LOGGER_MODULE).LITELLM_TRACER_NAME)
