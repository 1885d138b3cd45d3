from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litellm_otel_plugin.settings import ENVIRONMENT_PREFIX, Settings, SettingsError, load_settings, unknown_names

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "hunter2-do-not-print-me"


@pytest.fixture(autouse=True)
def _only_what_a_test_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(ENVIRONMENT_PREFIX):
            monkeypatch.delenv(name)


def load(yaml_section: object = None) -> Settings:
    return load_settings(os.environ, yaml_section)


def test_defaults() -> None:
    assert load().model_dump() == {
        "enabled": True,
        "console": "auto",
        "http_semconv": "stable",
        "server_timing": False,
        "propagate": False,
        "remote_parent": "continue",
        "log_correlation": True,
        "fold": True,
        "delivery": "shared",
        "queue_bytes": 64 * 1024 * 1024,
        "tenants_max": 10_000,
        "export_proxy": None,
        "shutdown_seconds": 5.0,
        "strict": False,
    }


def test_environment_wins_over_yaml_and_yaml_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_OTEL_PLUGIN_SHUTDOWN_SECONDS", "7")
    settings = load({"shutdown_seconds": 3, "http_semconv": "dup"})
    assert (settings.shutdown_seconds, settings.http_semconv) == (7.0, "dup")


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_OTEL_PLUGIN_SHUTDOWN_SECONDS", "")
    assert load({"shutdown_seconds": 3}).shutdown_seconds == 3.0


@pytest.mark.parametrize(("value", "read"), [(True, "on"), (False, "off"), ("Auto", "auto"), (" ON ", "on")])
def test_yaml_reads_on_and_off_as_booleans(value: object, read: str) -> None:
    assert load({"console": value}).console == read


@pytest.mark.parametrize(
    ("environment", "yaml_section", "named"),
    [
        ({"SHUTDOWN_SECONDS": SECRET}, None, ["LITELLM_OTEL_PLUGIN_SHUTDOWN_SECONDS"]),
        ({"SHUTDOWN_SECONDS": "-1"}, None, ["LITELLM_OTEL_PLUGIN_SHUTDOWN_SECONDS"]),
        ({"SHUTDOWN_SECONDS": "inf"}, None, ["LITELLM_OTEL_PLUGIN_SHUTDOWN_SECONDS"]),
        ({"SHUTDOWN_SECONDS": "nan"}, None, ["LITELLM_OTEL_PLUGIN_SHUTDOWN_SECONDS"]),
        ({"SHUTDOWN_SECONDS": "301"}, None, ["LITELLM_OTEL_PLUGIN_SHUTDOWN_SECONDS"]),
        ({"CONSOLE": SECRET, "HTTP_SEMCONV": SECRET}, None, ["PLUGIN_CONSOLE", "PLUGIN_HTTP_SEMCONV"]),
        ({"ENABLED": SECRET}, {"console": SECRET}, ["PLUGIN_ENABLED", "callback_settings.otel_plugin.console"]),
        ({}, {"http_semconv": {"nested": SECRET}}, ["callback_settings.otel_plugin.http_semconv"]),
        ({}, SECRET, ["callback_settings.otel_plugin"]),
        ({"CONSOLE": SECRET}, [SECRET], ["callback_settings.otel_plugin", "PLUGIN_CONSOLE"]),
    ],
)
def test_one_message_names_every_problem_and_shows_no_value(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], yaml_section: object, named: list[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"{ENVIRONMENT_PREFIX}{name}", value)
    with pytest.raises(SettingsError) as refused:
        load(yaml_section)
    message = str(refused.value)
    assert SECRET not in message
    assert len(message.splitlines()) == 1 + len(named)
    for name in named:
        assert name in message
    # Nor does a traceback show it: pydantic's own error, which does, is not chained.
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None or refused.value.__suppress_context__


def test_unknown_names_are_found_in_both_places() -> None:
    environment = {"LITELLM_OTEL_PLUGIN_CONSOL": "on", "LITELLM_OTEL_PLUGIN_CONSOLE": "on", "LITELLM_OTEL_V2": "true"}
    assert unknown_names(environment, {"queue_bites": 1, "enabled": True}) == [
        "LITELLM_OTEL_PLUGIN_CONSOL",
        "callback_settings.otel_plugin.queue_bites",
    ]


def test_unknown_names_do_not_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_OTEL_PLUGIN_FROM_THE_FUTURE", "1")
    assert load({"also_from_the_future": 1}).enabled


def _sections() -> Iterator[st.SearchStrategy[Any]]:
    yield st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())
    yield st.dictionaries(st.sampled_from([*Settings.model_fields, "other"]) | st.text(), st.text() | st.integers())


@given(st.one_of(*_sections()))
def test_any_section_is_read_or_refused_with_one_error(section: object) -> None:
    try:
        settings = load(section)
    except SettingsError:
        return
    assert 0 <= settings.shutdown_seconds <= 300


def test_switching_it_off_needs_no_other_setting_to_be_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_OTEL_PLUGIN_CONSOLE", "nonsense")
    monkeypatch.setenv("LITELLM_OTEL_PLUGIN_ENABLED", "false")
    assert not load({"shutdown_seconds": "nonsense"}).enabled
    monkeypatch.delenv("LITELLM_OTEL_PLUGIN_ENABLED")
    assert not load({"enabled": False}).enabled
    with pytest.raises(SettingsError):
        load({"enabled": True})


def test_a_name_with_nothing_behind_it_is_a_default() -> None:
    assert load({"console": None, "shutdown_seconds": None}) == load()


def test_a_boolean_is_no_number_of_seconds() -> None:
    with pytest.raises(SettingsError, match="shutdown_seconds"):
        load({"shutdown_seconds": True})


def test_the_readmes_table_is_every_setting_and_no_other() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    documented = re.findall(r"^\| `LITELLM_OTEL_PLUGIN_([A-Z_]+)` \|", readme, flags=re.MULTILINE)
    assert sorted(name.lower() for name in documented) == sorted(Settings.model_fields)
