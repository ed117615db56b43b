"""Bad configuration: exit status 78, one message with every problem and its fix, and nothing served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from integration.containers import TOKEN, proxy_environment, run_once

REQUIRED = ("DATA_INGESTION_SERVICE_URL", "AKTO_API_TOKEN")


def refused(env: dict[str, str], command: list[str] | None = None, **options: Any) -> str:
    """The message with which a start with `env` is refused."""
    status, out, err = run_once(command or [], env, **options)
    assert status == 78, f"exit status {status}\n{err}"
    assert out == ""
    assert "Traceback" not in err
    assert "Uvicorn running" not in err
    assert err.startswith("guarded-litellm: not started, ")
    assert TOKEN not in err
    return err


def wrong(**env: str) -> str:
    return refused(proxy_environment() | env)


def test_all_problems_come_in_one_message() -> None:
    message = refused(
        {"SYNC_MODE": "maybe", "TIMEOUT": "soon", "UNREACHABLE_FALLBACK": "fail"}, ["--config", "/no.yaml"]
    )
    assert "6 problems" in message
    for part in (*REQUIRED, "SYNC_MODE='maybe'", "TIMEOUT='soon'", "UNREACHABLE_FALLBACK='fail'", "/no.yaml"):
        assert part in message


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("value", ["", "   "])
def test_empty_means_missing_for_what_is_required(name: str, value: str) -> None:
    message = wrong(**{name: value})
    assert "1 problem " in message
    assert f"{name} is missing." in message


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("DATA_INGESTION_SERVICE_URL", "akto.example.com", "is not an http or https address"),
        ("DATA_INGESTION_SERVICE_URL", "ftp://akto.example.com", "is not an http or https address"),
        ("DATA_INGESTION_SERVICE_URL", "http://akto example", "is not an http or https address"),
        ("DATA_INGESTION_SERVICE_URL", "http://u:p4ss@akto.example.com", "carries a query, a fragment or a user name"),
        ("AKTO_API_TOKEN", "Bearer abc", "no HTTP header can carry"),
        ("LITELLM_URL", "https://", "has no host in it"),
        ("TIMEOUT", "0", "is not a number of seconds"),
        ("TIMEOUT", "nan", "is not a number of seconds"),
        ("FORWARD_HEADERS", "x-ok, Authorization", "carries credentials"),
        ("AKTO_ACCOUNT_ID", "me", "is not a whole number"),
        ("RESPONSE_GUARDRAILS", "maybe", "neither true nor false"),
        ("VALIDATE_LAST_USER_MESSAGE_ONLY", "newest", "neither true nor false"),
        ("UNCHECKED_ROUTES", "sometimes", "Use allow or deny"),
        ("STREAM_GUARD", "chunk", "Use buffer or window"),
        ("PAYLOAD_SHAPE", "string", "Use body or bare"),
        ("MAX_CHECK_CHARACTERS", "2e6", "is not a whole number"),
        ("MCP_INGEST_PATH", "mcp", "is not the path of a URL"),
    ],
)
def test_a_malformed_value_is_named_with_its_fix(name: str, value: str, part: str) -> None:
    message = wrong(**{name: value})
    assert "1 problem " in message
    assert name in message
    assert part in message
    assert "p4ss" not in message


def test_a_value_and_its_file_exclude_each_other() -> None:
    assert "AKTO_API_TOKEN and AKTO_API_TOKEN_FILE are both set." in wrong(AKTO_API_TOKEN_FILE="/run/secrets/token")


def test_an_unreadable_secret_file_is_named_and_not_called_missing(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("secret")
    secret.chmod(0o600)
    env = proxy_environment() | {"AKTO_API_TOKEN": "", "AKTO_API_TOKEN_FILE": "/run/secrets/token"}
    message = refused(env, volumes=[f"{tmp_path}:/run/secrets:ro"], user="12345:0", cap_drop=["ALL"])
    assert "1 problem " in message
    assert "AKTO_API_TOKEN_FILE names /run/secrets/token, which user 12345 cannot read: Permission denied" in message


def test_a_missing_config_is_named() -> None:
    for command in (
        ["--config", "/etc/litellm/no.yaml"],
        ["--config=/etc/litellm/no.yaml"],
        ["-c", "/etc/litellm/no.yaml"],
    ):
        assert "The config /etc/litellm/no.yaml does not exist." in refused(proxy_environment(), command)
    assert "The config /x/no.yaml does not exist." in wrong(CONFIG_FILE_PATH="/x/no.yaml")


def test_a_missing_config_is_named_where_litellm_would_serve_another(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model_list: []\n")
    tmp_path.chmod(0o755)
    env = proxy_environment() | {"CONFIG_FILE_PATH": "/etc/litellm/config.yaml"}
    message = refused(env, ["--config", "/x/no.yaml"], volumes=[f"{tmp_path}:/etc/litellm:ro"])
    assert "The config /x/no.yaml does not exist." in message


@pytest.mark.parametrize("option", ["--config", "-c"])
def test_a_config_option_without_a_file_is_named(option: str) -> None:
    assert "--config is given without a file." in refused(proxy_environment(), [option])


def test_no_room_for_the_copy_of_the_config_is_a_problem_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"model_list: [{{model_name: {'x' * 100_000}}}]\n")
    tmp_path.chmod(0o755)
    options = {"volumes": [f"{tmp_path}:/etc/litellm:ro"], "tmpfs": {"/tmp": "size=16k"}, "read_only": True}
    environment = proxy_environment() | {"STARTUP_PROBE": "off"}
    message = refused(environment, ["--config", "/etc/litellm/config.yaml"], **options)
    assert "The config cannot be copied to /tmp: no space left on device." in message


def test_a_config_that_litellm_would_ignore_is_refused() -> None:
    assert "which LiteLLM ignores" in wrong(CONFIG_FILE_PATH="/etc/litellm/config.txt")


def test_an_unreadable_config_is_named_with_owner_and_mode(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("model_list: []\n")
    config.chmod(0o600)
    options = {"volumes": [f"{tmp_path}:/etc/litellm:ro"], "user": "12345:0", "cap_drop": ["ALL"]}
    tmp_path.chmod(0o755)
    message = refused(proxy_environment(), ["--config", "/etc/litellm/config.yaml"], **options)
    assert "/etc/litellm/config.yaml cannot be read: permission denied for user 12345" in message
    assert "it belongs to user 0 with mode 0600" in message

    tmp_path.chmod(0o700)
    message = refused(proxy_environment(), ["--config", "/etc/litellm/config.yaml"], **options)
    assert "the directory /etc/litellm belongs to user 0 with mode 0700" in message
    tmp_path.chmod(0o755)
    assert "Mount the file itself there" in refused(proxy_environment(), ["--config", "/etc/litellm"], **options)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("model_list:\n  - api_key: sk-very-secret\n bad: [", "is not valid YAML: line 3, column 2"),
        ("", "is empty"),
        ("- a\n- b\n", "is not a mapping at the top level"),
        ("litellm_settings: [1]\n", "litellm_settings in /etc/litellm/config.yaml is not a mapping"),
        ("litellm_settings:\n  callbacks: {a: b}\n", "is neither a list nor a name"),
        ("include: extra.yaml\n", "include in /etc/litellm/config.yaml is not a list"),
        ("include: [no.yaml]\n", "/etc/litellm/no.yaml, included by /etc/litellm/config.yaml, does not exist"),
        ("a:\n\tkey: sk-very-secret\n", "line 2, column 1: found a tab that cannot start any token."),
        (
            "litellm_settings: {callbacks: [prometheus]}\n",
            "callbacks in /etc/litellm/config.yaml has prometheus, but the Python package prometheus_client is not",
        ),
    ],
    ids=["invalid", "empty", "list", "settings", "callbacks", "include string", "include missing", "tab", "package"],
)
def test_a_config_that_cannot_be_used_is_explained_without_quoting_it(tmp_path: Path, text: str, part: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text)
    config.chmod(0o644)
    tmp_path.chmod(0o755)
    message = refused(
        proxy_environment(), ["--config", "/etc/litellm/config.yaml"], volumes=[f"{tmp_path}:/etc/litellm:ro"]
    )
    assert part in message
    assert "sk-very-secret" not in message


def test_variables_of_a_dot_env_file_count_and_an_unreadable_one_is_named(tmp_path: Path) -> None:
    dot_env = tmp_path / ".env"
    dot_env.write_text("SYNC_MODE=perhaps\nTIMEOUT=soon\n")
    dot_env.chmod(0o644)
    options = {"volumes": [f"{dot_env}:/app/.env:ro"], "user": "12345:0", "cap_drop": ["ALL"]}
    message = refused(proxy_environment() | {"TIMEOUT": "5"}, **options)
    assert "SYNC_MODE='perhaps'" in message
    assert "TIMEOUT" not in message, "a variable of the container comes before one of the file"
    dot_env.chmod(0o600)
    assert "The file /app/.env cannot be read by user 12345" in refused(proxy_environment(), **options)
