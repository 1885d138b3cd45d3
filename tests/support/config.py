"""The config.yaml of a test's proxy."""

from __future__ import annotations

from typing import Any

PLUGIN = "litellm_otel_plugin.plugin"


def models(provider_url: str) -> list[dict[str, Any]]:
    """``mock`` speaks OpenAI to the mock provider, ``claude`` Anthropic; ``canned`` reaches no provider at all."""
    openai = {"api_key": "sk-provider", "api_base": f"{provider_url}/v1", "num_retries": 0}
    return [
        {"model_name": "mock", "litellm_params": {"model": "openai/mock", **openai}},
        {"model_name": "realtime", "litellm_params": {"model": "openai/gpt-4o-realtime-preview", **openai}},
        {
            "model_name": "unreachable",
            "litellm_params": {
                **openai,
                "model": "openai/gpt-4o-realtime-preview",
                "api_base": "http://127.0.0.1:9/v1",
            },
        },
        {"model_name": "embed", "litellm_params": {"model": "openai/embed", **openai}},
        {
            "model_name": "claude",
            "litellm_params": {
                "model": "anthropic/claude-mock",
                "api_key": "sk-ant-provider",
                "api_base": provider_url,
                "num_retries": 0,
            },
        },
        {
            "model_name": "canned",
            "litellm_params": {"model": "openai/canned", "api_key": "x", "mock_response": "Canned."},
        },
        {"model_name": "threaded", "litellm_params": {"model": "threaded/mock"}},
    ]


def config(provider_url: str, *callbacks: str, **more: Any) -> dict[str, Any]:
    """A whole config.yaml. ``more`` is merged into its sections."""
    document: dict[str, Any] = {
        "model_list": models(provider_url),
        "litellm_settings": {
            "callbacks": list(callbacks),
            "num_retries": 0,
            "custom_provider_map": [
                {"provider": "threaded", "custom_handler": "tests.support.threaded_provider.threaded"}
            ],
        },
        # A deployment that has just failed is asked again: the next test scripts its own failure.
        "router_settings": {"disable_cooldowns": True, "num_retries": 0},
        "general_settings": {},
        # OpenAI's own API stands behind batches, files, threads, assistants and the OpenAI pass-through.
        "files_settings": [
            {"custom_llm_provider": "openai", "api_base": f"{provider_url}/v1", "api_key": "sk-provider"}
        ],
        "assistant_settings": {
            "custom_llm_provider": "openai",
            "litellm_params": {"api_key": "sk-provider", "api_base": f"{provider_url}/v1"},
        },
    }
    for section, settings in more.items():
        document[section] = {**document.get(section, {}), **settings} if isinstance(settings, dict) else settings
    return document


def provider_environment(provider_url: str) -> dict[str, str]:
    return {
        "OPENAI_API_KEY": "sk-provider",
        "OPENAI_API_BASE": f"{provider_url}/v1",
        "OPENAI_BASE_URL": f"{provider_url}/v1",
        "ANTHROPIC_API_KEY": "sk-ant-provider",
        "ANTHROPIC_API_BASE": provider_url,
    }
