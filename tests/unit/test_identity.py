"""What each backend is shown of a caller: what its own logger's configuration promotes, whatever the others' does."""

from __future__ import annotations

import functools
import gc
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import baggage, context
from opentelemetry.context import Context

from tests.support.folding import Call, alone, gateway, model_call, root_of, tree, worded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

pytestmark = pytest.mark.filterwarnings("ignore")  # LiteLLM's imports warn of its own affairs

NAMES = ("otel", "arize", "langfuse_otel", "signoz")
TEAM = "litellm.team.metadata"
KEY_HASH = "litellm.api_key.hash"

# ``callback_settings: otel:``, which LiteLLM's presets do not read.
SETTINGS: dict[str, dict[str, Any]] = {
    "of the team": {"baggage_team_metadata_keys": ["cost_center"]},
    "keys of the team": {
        "baggage_promoted_keys": ["litellm.team.id", "litellm.team.metadata"],
        "baggage_team_metadata_keys": ["cost_center"],
    },
    "fewer keys": {"baggage_promoted_keys": ["litellm.team.id"]},
    "none": {"baggage_promoted_keys": [], "baggage_metadata_keys": []},
    "other keys": {"baggage_promoted_keys": ["litellm.end_user", "litellm.team.id"]},
    "metadata": {"baggage_metadata_keys": ["requester_metadata.feature", "user_api_key_user_id"]},
}
# What the presets read too.
VARIABLES = {
    "LITELLM_OTEL_BAGGAGE_TEAM_METADATA_KEYS": "tier",
    "LITELLM_OTEL_BAGGAGE_METADATA_KEYS": "user_api_key_alias",
}
NOTHING = {"LITELLM_OTEL_BAGGAGE_PROMOTED_KEYS": ",", "LITELLM_OTEL_BAGGAGE_METADATA_KEYS": ","}
CONTENT = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "span_only"}
SHORT_VALUES = {"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "6"}


@cache
def expected(name: str, setting: str, call: Call = Call(), **environment: str) -> dict[str, Any]:  # noqa: B008 - frozen
    """What LiteLLM itself sends to a callback's backend with these settings where it is the only one."""
    return worded(alone(name, call, environment, SETTINGS[setting]))


def promoted(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name.startswith(("litellm.", "gen_ai.", "http."))}


def known_names(names: Sequence[str]) -> list[str]:
    from litellm.integrations.otel.presets import PRESET_BY_CALLBACK  # noqa: PLC0415 - the SDK, for these tests only

    return [name for name in names if name == "otel" or name in PRESET_BY_CALLBACK]


@pytest.mark.contract
def test_litellms_presets_do_not_read_the_settings_of_otel() -> None:
    with_settings = expected("arize", "of the team")
    assert with_settings == worded(alone("arize", Call()))
    assert TEAM not in str(with_settings)
    assert TEAM in str(expected("otel", "of the team"))


@pytest.mark.contract
@pytest.mark.parametrize(
    "environment", [{}, VARIABLES, NOTHING, SHORT_VALUES], ids=["", "variables", "nothing", "short values"]
)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("order", [1, -1])
def test_each_backend_is_shown_what_its_own_logger_promotes(
    setting: str, environment: Mapping[str, str], order: int
) -> None:
    names = known_names(NAMES)[::order]
    own = {name: expected(name, setting, **environment) for name in names}
    with gateway(*names, environment=environment, settings=SETTINGS[setting]) as proxy:
        proxy.start(*names)
        proxy.request()
        for name in names:
            assert worded(proxy.spans_of(name)) == own[name], name
            assert tree(proxy.spans_of(name)) == tree(proxy.spans_of("otel")), name


@pytest.mark.contract
@pytest.mark.parametrize(
    "call", [Call(messages=40, tools=30), Call(fails=True), Call(is_of_mcp_tool=True)], ids=["large", "failed", "tool"]
)
@pytest.mark.parametrize("setting", ["of the team", "fewer keys"])
def test_what_fits_on_a_span_is_as_much_as_alone(setting: str, call: Call) -> None:
    names = known_names(NAMES)
    own = {name: expected(name, setting, call, **CONTENT) for name in names}
    with gateway(*names, environment=CONTENT, settings=SETTINGS[setting]) as proxy:
        proxy.start(*names)
        proxy.request(call)
        for name in names:
            assert worded(proxy.spans_of(name)) == own[name], name


@pytest.mark.contract
@pytest.mark.parametrize("setting", ["of the team", "fewer keys"])
@pytest.mark.parametrize("name", ["arize", "langfuse_otel"])
def test_a_logger_that_is_built_during_a_request_shows_of_its_caller_what_it_promotes(name: str, setting: str) -> None:
    own = worded(alone(name, Call(), VARIABLES, SETTINGS[setting]))
    with gateway("otel", name, environment=VARIABLES, settings=SETTINGS[setting]) as proxy:
        proxy.start("otel")
        proxy.request(asked=[name], meanwhile=lambda: proxy.build(name))
        seen = worded(proxy.spans_of(name))
        root = root_of(proxy.spans_of(name)).name
        # Of a logger in no list, LiteLLM does not ask what Langfuse's class adds to the root.
        own[root]["attributes"] = promoted(own[root]["attributes"])
        seen[root]["attributes"] = promoted(seen[root]["attributes"])
        assert seen == own


@contextmanager
def sent_by_caller(**entries: str) -> Iterator[None]:
    """Baggage of the caller's, as it is in the context of a request whose trace is continued."""
    token = context.attach(
        functools.reduce(lambda into, each: baggage.set_baggage(each[0], each[1], into), entries.items(), Context())
    )
    try:
        yield
    finally:
        context.detach(token)


@pytest.mark.parametrize("setting", ["other keys", "none"])
def test_of_what_the_caller_sends_each_backend_is_shown_what_its_logger_lets_through(setting: str) -> None:
    sent = {"litellm.end_user": "forged", KEY_HASH: "forged", "litellm.metadata.own": "mine", "other": "mine"}
    with sent_by_caller(**sent):
        own = {name: worded(alone(name, Call(), settings=SETTINGS[setting])) for name in ("otel", "arize")}
        with gateway("otel", "arize", settings=SETTINGS[setting]) as proxy:
            proxy.start("otel", "arize")
            proxy.request()
            for name, words in own.items():
                assert worded(proxy.spans_of(name)) == words, name
    assert own["otel"] != own["arize"]
    assert "forged" in str(own["arize"])


@pytest.mark.contract
@pytest.mark.parametrize("setting", ["of the team", "fewer keys"])
def test_a_tenants_own_copy_of_a_call_is_as_its_logger_would_have_made_it(setting: str) -> None:
    call = Call(account="a tenant's")
    own = expected("arize", setting, call, **VARIABLES)
    with gateway("otel", "arize", environment=VARIABLES, settings=SETTINGS[setting]) as proxy:
        proxy.start("otel", "arize")
        proxy.request(call)
        assert worded(proxy.spans_of("arize")) == own
        assert model_call(proxy.spans_of("arize")).parent is None


def test_a_providers_request_carries_nothing_of_what_is_noted_beside_the_baggage() -> None:
    seen: list[Mapping[str, object]] = []
    with gateway("otel", "arize", settings=SETTINGS["none"]) as proxy:
        proxy.start("otel", "arize")
        proxy.request(meanwhile=lambda: seen.append(baggage.get_all()))
    assert seen == [{}]


def test_nothing_is_noted_where_all_configurations_agree() -> None:
    settings = {"baggage_team_metadata_keys": ["tier"], "deployment_environment": "prod"}
    noted: list[int] = []
    with gateway("otel", "arize", environment=VARIABLES, settings=settings) as proxy:
        proxy.start("otel", "arize")
        assert proxy.folding is not None
        notes = proxy.folding.backends.vocabularies
        proxy.request(meanwhile=lambda: noted.append(len(notes._open)))
        assert noted == [0]


def test_nothing_is_left_of_spans_that_were_noted() -> None:
    with gateway("otel", "arize", settings=SETTINGS["fewer keys"]) as proxy:
        proxy.start("otel", "arize")
        proxy.requests(*[()] * 10)
        assert proxy.folding is not None
        notes = proxy.folding.backends.vocabularies
        assert len(proxy.spans_of("arize")) == 40
        proxy.forget()
        gc.collect()
        assert (len(notes._open), len(notes._ended)) == (0, 0)
