"""LiteLLM's earlier loggers beside folded ones: which give way, and which stay and are named."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from litellm_otel_plugin import seams, startup, upstream
from litellm_otel_plugin.backends.folding import Backend, Backends
from litellm_otel_plugin.hooks import OtelPlugin
from litellm_otel_plugin.installation import Installation
from litellm_otel_plugin.settings import Settings
from tests.support import patience
from tests.support.folding import COLLECTOR, HOSTS, VARIABLES, Gateway, gateway, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opentelemetry.sdk.trace import TracerProvider

pytestmark = pytest.mark.filterwarnings("ignore")  # LiteLLM's imports warn of its own affairs

LOGFIRE = {"LOGFIRE_TOKEN": "token", "LOGFIRE_BASE_URL": "http://logfire.test"}
# Lists of LiteLLM's that look as if they had loggers of requests.
OF_NO_REQUEST = {"_known_custom_logger_compatible_callbacks", "audit_log_callbacks"}
RETIRING = "litellm-otel-plugin-retire"
TAKEN_OUT = (
    "LiteLLM's earlier langfuse_otel logger is taken out: its copy would go to a backend that gets whole traces already"
)
LOGFIRE_STAYS = "LiteLLM's earlier tracing runs beside this: logfire"


@dataclass
class Watched:
    """LiteLLM's callbacks, with an eye on its earlier loggers."""

    proxy: Gateway
    installation: Installation
    built: list[Any] = field(default_factory=list)
    shut_down: list[tuple[int, str]] = field(default_factory=list)

    def start(self, *names: str) -> None:
        self.proxy.start(*names)
        assert self.installation.earlier is not None
        self.installation.earlier.start()

    def ask_for(self, name: str) -> Any:
        return upstream.take(seams.FACTORY)(name, internal_usage_cache=None, llm_router=None)

    def is_shut_down(self, logger: Any) -> bool:
        """Whether a logger's provider is, once, by a thread that has nothing else to do."""
        for thread in threading.enumerate():
            if thread.name == RETIRING:
                thread.join(10)
        by = [thread for provider, thread in self.shut_down if provider == id(logger._tracer_provider)]
        assert by in ([], [RETIRING])
        return bool(by)


@contextmanager
def watching(
    *variables_of: str,
    environment: Mapping[str, str] | None = None,
    arrange: Callable[[pytest.MonkeyPatch], None] = lambda _: None,
) -> Iterator[Watched]:
    built: list[Any] = []
    shut_down: list[tuple[int, str]] = []

    def keep_books(patch: pytest.MonkeyPatch) -> None:
        arrange(patch)
        earlier: Any = upstream.take(seams.EARLIER_LOGGER)
        initialise = earlier.__init__

        def initialise_and_note(self: Any, *args: Any, **kwargs: Any) -> None:
            initialise(self, *args, **kwargs)
            built.append(self)

        patch.setattr(earlier, "__init__", initialise_and_note)
        provider_class: Any = upstream.module("opentelemetry.sdk.trace").TracerProvider
        shut = provider_class.shutdown

        def shut_and_note(self: TracerProvider) -> None:
            shut_down.append((id(self), threading.current_thread().name))
            shut(self)

        patch.setattr(provider_class, "shutdown", shut_and_note)

    with gateway(*variables_of, environment=environment, arrange=keep_books) as proxy:
        installation = Installation(OtelPlugin(), Settings(), None, folding=proxy.folding)
        startup._watch_earlier_loggers(installation)
        yield Watched(proxy, installation, built, shut_down)


def lists_of_litellm() -> dict[str, list[Any]]:
    import litellm  # noqa: PLC0415 - the SDK, for these tests only

    named = {name: value for name, value in vars(litellm).items() if name.endswith(("_callback", "callbacks"))}
    lists = {name: value for name, value in named.items() if isinstance(value, list) and name not in OF_NO_REQUEST}
    return {**lists, "in memory": upstream.module(seams.LOGGING_MODULE)._in_memory_loggers}


def lists_with(logger: Any) -> set[str]:
    return {name for name, entries in lists_of_litellm().items() if any(each is logger for each in entries)}


@pytest.fixture
def publish_for_good(monkeypatch: pytest.MonkeyPatch) -> Callable[[Watched], None]:
    """Make the published provider the global one, which the earlier loggers take where there is one."""

    def publish(watched: Watched) -> None:
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", watched.proxy.published.tracer_provider)

    return publish


# --- at start --------------------------------------------------------------------------------------------------------


def test_an_earlier_logger_of_a_fed_backend_is_taken_out_of_every_list_and_shut_down() -> None:
    with watching() as watched:
        earlier = watched.ask_for("langfuse_otel")
        assert isinstance(earlier, upstream.take(seams.EARLIER_LOGGER))
        watched.proxy.start("otel")
        lists = lists_of_litellm()
        assert {"callbacks", "service_callback", "_async_failure_callback", "in memory"} <= set(lists)
        others = {name: list(entries) for name, entries in lists.items()}
        for entries in lists.values():
            entries[:0] = [earlier, "a name", earlier]
        assert watched.installation.earlier is not None
        watched.installation.earlier.start()
        without = {name: [each for each in entries if each is not earlier] for name, entries in others.items()}
        assert lists == {name: ["a name", *entries] for name, entries in without.items()}
        assert watched.is_shut_down(earlier)
        assert watched.installation.notes == [TAKEN_OUT]
        assert watched.ask_for("langfuse_otel") is None
        assert watched.built == [earlier]


def test_what_an_earlier_logger_measures_with_is_shut_down_too() -> None:
    environment = {"LITELLM_OTEL_INTEGRATION_ENABLE_METRICS": "true"}
    with watching(environment=environment) as watched:
        meters = watched.ask_for("langfuse_otel")._meter_provider
        assert not meters._shutdown
        watched.start("otel")
        assert watched.is_shut_down(watched.built[0])
        assert meters._shutdown


def test_an_earlier_logger_of_a_backend_that_v2_does_not_cover_stays_and_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with watching("arize_phoenix", environment=LOGFIRE) as watched:
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", trace.NoOpTracerProvider())
        monkeypatch.setattr(trace, "set_tracer_provider", lambda _: None)
        watched.start("logfire", "otel", "arize_phoenix")
        (logfire,) = watched.built
        assert {"callbacks", "in memory", "_async_success_callback"} <= lists_with(logfire)
        assert watched.installation.notes == [LOGFIRE_STAYS]
        assert watched.ask_for("logfire") is logfire
        assert watched.shut_down == []
        logfire._tracer_provider.shutdown()


# --- later -----------------------------------------------------------------------------------------------------------


def test_one_that_is_built_later_gives_way_at_once_and_is_not_built_again() -> None:
    with watching() as watched:
        watched.start("otel")
        assert [watched.ask_for("langfuse_otel") for _ in range(3)] == [None] * 3
        (earlier,) = watched.built
        assert lists_with(earlier) == set()
        assert watched.is_shut_down(earlier)
        assert watched.installation.notes == [TAKEN_OUT]
        watched.proxy.request()
        assert set(tree(watched.proxy.at(COLLECTOR)).values()) == {1}


def test_credentials_that_come_later_lead_to_the_v2_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    with watching() as watched:
        watched.start("otel")
        assert watched.ask_for("langfuse_otel") is None
        for name, value in VARIABLES["langfuse_otel"].items():
            monkeypatch.setenv(name, value)
        watched.proxy.enlist(watched.proxy.build("langfuse_otel"))
        watched.proxy.request()
        assert tree(watched.proxy.at(HOSTS["langfuse_otel"])) == tree(watched.proxy.at(COLLECTOR))


def test_a_preset_that_fails_later_is_passed_over_as_litellm_does() -> None:
    with watching() as watched:
        watched.start("otel")
        assert watched.ask_for("langfuse_otel") is None

        def fail(*_: Any) -> None:
            raise ValueError

        upstream.put(seams.CONSTRUCT, fail)
        assert watched.ask_for("langfuse_otel") is None


def test_one_that_writes_nowhere_stays_until_v2_feeds_its_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    with watching("arize_phoenix", environment={"OTEL_EXPORTER_OTLP_ENDPOINT": ""}) as watched:
        watched.start("arize_phoenix")
        earlier = watched.ask_for("langfuse_otel")
        assert watched.ask_for("langfuse_otel") is earlier
        assert watched.installation.notes == ["LiteLLM's earlier tracing runs beside this: langfuse_otel"]
        for name, value in VARIABLES["langfuse_otel"].items():
            monkeypatch.setenv(name, value)
        assert upstream.v2_loggers()
        assert watched.ask_for("langfuse_otel") in upstream.v2_loggers()
        assert lists_with(earlier) == set()
        assert watched.is_shut_down(earlier)


def test_one_that_v2_does_not_cover_writes_to_its_own_backend_alone(
    publish_for_good: Callable[[Watched], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LOGFIRE.items():
        monkeypatch.setenv(name, value)
    with watching() as watched:
        watched.start("otel")
        publish_for_good(watched)
        logfire = watched.ask_for("logfire")
        assert logfire is watched.ask_for("logfire")
        assert watched.built == [logfire]
        assert watched.installation.notes == [LOGFIRE_STAYS]
        own = logfire._tracer_provider
        assert own is not watched.proxy.published.tracer_provider
        (processor,) = own._active_span_processor._span_processors
        assert processor.span_exporter._endpoint == "http://logfire.test/v1/traces"
        assert logfire.tracer.span_processor is own._active_span_processor
        own.shutdown()


def test_one_that_shares_the_published_provider_leaves_it_open(publish_for_good: Callable[[Watched], None]) -> None:
    with watching() as watched:
        watched.start("otel")
        publish_for_good(watched)
        upstream.put(seams.CONSTRUCT, lambda *_: None)
        assert watched.ask_for("agentops") is None
        assert lists_with(watched.built[0]) == set()
        assert not watched.is_shut_down(watched.built[0])
        watched.proxy.request()
        assert set(tree(watched.proxy.at(COLLECTOR)).values()) == {1}


def test_of_threads_that_ask_at_once_none_gets_an_earlier_logger() -> None:
    threads = 4
    together = threading.Barrier(threads, timeout=patience.SECONDS)

    def meet(patch: pytest.MonkeyPatch) -> None:
        from litellm.integrations.langfuse.langfuse_otel import LangfuseOtelLogger  # noqa: PLC0415 - as above

        configure = LangfuseOtelLogger._create_open_telemetry_config_from_langfuse_env

        def waiting(self: Any) -> Any:
            together.wait()
            return configure(self)

        each = Backends.__iter__

        def each_after_a_while(self: Backends) -> Iterator[Backend]:
            time.sleep(0.05)  # the others' turn, while one logger is being judged
            return each(self)

        patch.setattr(LangfuseOtelLogger, "_create_open_telemetry_config_from_langfuse_env", waiting)
        patch.setattr(Backends, "__iter__", each_after_a_while)

    with watching(arrange=meet) as watched:
        watched.start("otel")
        answers: list[Any] = []
        asking = [
            threading.Thread(target=lambda: answers.append(watched.ask_for("langfuse_otel"))) for _ in range(threads)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert answers == [None] * threads
        assert len(watched.built) == threads
        assert [lists_with(logger) for logger in watched.built] == [set()] * threads
        assert all(watched.is_shut_down(logger) for logger in watched.built)
        assert watched.installation.notes == [TAKEN_OUT]


def test_one_stays_where_the_backend_that_it_writes_to_gets_nothing_any_more() -> None:
    with watching() as watched:
        watched.start("otel")
        watched.proxy.unlist(watched.proxy.built["otel"])
        earlier = watched.ask_for("langfuse_otel")
        assert earlier is not None
        assert watched.installation.notes == ["LiteLLM's earlier tracing runs beside this: langfuse_otel"]
        earlier._tracer_provider.shutdown()


def test_one_gives_way_to_an_exporter_of_the_operators_own_too() -> None:
    with watching() as watched:
        watched.start("otel")
        watched.proxy.unlist(watched.proxy.built["otel"])
        watched.proxy.published.tracer_provider.add_span_processor(
            SimpleSpanProcessor(OTLPSpanExporter(f"http://{COLLECTOR}:4318/v1/traces"))
        )
        assert watched.ask_for("langfuse_otel") is None
        assert watched.installation.notes == [TAKEN_OUT]


def test_without_folding_each_stays_and_is_named() -> None:
    with watching() as watched:
        watched.installation.folding = None
        watched.start("otel")
        earlier = watched.ask_for("langfuse_otel")
        assert watched.ask_for("langfuse_otel") is earlier
        assert watched.installation.notes == ["LiteLLM's earlier tracing runs beside this: langfuse_otel"]
        earlier._tracer_provider.shutdown()


def test_the_phoenix_logger_which_shows_no_provider_is_judged_too() -> None:
    with watching("arize_phoenix") as watched:
        watched.installation.folding = None
        upstream.put(seams.CONSTRUCT, lambda *_: None)
        watched.start("otel")
        assert watched.ask_for("arize_phoenix") is watched.built[0]
        assert watched.installation.notes == ["LiteLLM's earlier tracing runs beside this: arize_phoenix"]
