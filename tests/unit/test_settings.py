"""The environment variables: defaults, spellings, and what a wrong value is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from akto_guardrails.problem import Problem, report
from akto_guardrails.settings import SettingsError, load_settings
from unit.samples import REQUIRED, settings


def problems_of(environment: dict[str, str]) -> list[str]:
    """What is said to be wrong with the required variables changed by `environment`."""
    with pytest.raises(SettingsError) as caught:
        load_settings({**REQUIRED, **environment})
    return [problem.what for problem in caught.value.problems]


def test_the_two_required_variables_are_enough_and_everything_else_has_the_documented_default() -> None:
    found = settings()
    assert found.service_url == "https://akto.test"
    assert found.api_token == "raw-token"
    assert found.default_collection == "localhost:4000"
    assert found.sync_mode is True
    assert found.timeout == 5.0
    assert found.unreachable_fallback == "fail_open"
    assert found.fail_closed is False
    assert found.trust_client_agent_name is True
    assert found.forward_headers == frozenset()
    assert (found.account_id, found.vxlan_id, found.context_source) == ("1000000", "0", "AGENTIC")


@pytest.mark.parametrize("blank", ["", "   ", "\t\n"])
def test_a_blank_value_means_unset(blank: str) -> None:
    names = (
        "LITELLM_URL",
        "SYNC_MODE",
        "TIMEOUT",
        "UNREACHABLE_FALLBACK",
        "RESPONSE_GUARDRAILS",
        "VALIDATE_LAST_USER_MESSAGE_ONLY",
        "TRUST_CLIENT_AGENT_NAME",
        "FORWARD_HEADERS",
        "UNCHECKED_ROUTES",
        "AKTO_ACCOUNT_ID",
        "AKTO_VXLAN_ID",
        "AKTO_CONTEXT_SOURCE",
        "AKTO_API_TOKEN_FILE",
        "AKTO_CA_BUNDLE",
        "MAX_CHECKS_AT_ONCE",
        "MAX_QUEUED_RECORDS",
        "MAX_QUEUED_BYTES",
        "SHUTDOWN_FLUSH_SECONDS",
        "SPOOL_DIR",
        "MAX_SPOOLED_BYTES",
    )
    assert settings(**dict.fromkeys(names, blank)) == settings()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((spelling, True) for spelling in ("true", "TRUE", "True", "1", "yes", "on", " true ", "On\n")),
        *((spelling, False) for spelling in ("false", "FALSE", "0", "no", "off", " Off ")),
    ],
)
@pytest.mark.parametrize("name", ["SYNC_MODE", "TRUST_CLIENT_AGENT_NAME"])
def test_booleans_have_many_spellings(name: str, value: str, expected: bool) -> None:
    assert getattr(settings(**{name: value}), name.lower()) is expected


@pytest.mark.parametrize("value", ["maybe", "tru", "2", "enabled"])
def test_a_boolean_that_is_neither_true_nor_false_is_refused(value: str) -> None:
    (problem,) = problems_of({"SYNC_MODE": value})
    assert "SYNC_MODE" in problem
    assert value in problem


@pytest.mark.parametrize("name", ["DATA_INGESTION_SERVICE_URL", "AKTO_API_TOKEN"])
@pytest.mark.parametrize("value", ["", "  "])
def test_a_required_variable_without_a_value_is_missing(name: str, value: str) -> None:
    assert problems_of({name: value}) == [f"{name} is missing."]


def test_all_problems_are_reported_together_each_with_a_fix() -> None:
    wrong = {
        "SYNC_MODE": "maybe",
        "TIMEOUT": "soon",
        "UNREACHABLE_FALLBACK": "shrug",
        "LITELLM_URL": "http://",
        "AKTO_ACCOUNT_ID": "one",
        "FORWARD_HEADERS": "cookie",
    }
    with pytest.raises(SettingsError) as caught:
        load_settings(wrong)
    text = " ".join(problem.what for problem in caught.value.problems)
    for name in ("DATA_INGESTION_SERVICE_URL", "AKTO_API_TOKEN", *wrong):
        assert name in text
    assert len(caught.value.problems) == len(wrong) + 2
    assert all(problem.fix for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("https://akto.test/", "https://akto.test"),
        ("https://akto.test//", "https://akto.test"),
        ("http://10.0.0.1:9000", "http://10.0.0.1:9000"),
        ("https://akto.test/ingest/", "https://akto.test/ingest"),
        (" https://akto.test ", "https://akto.test"),
    ],
)
def test_a_trailing_slash_of_the_service_address_is_dropped_and_a_path_is_kept(value: str, expected: str) -> None:
    assert settings(DATA_INGESTION_SERVICE_URL=value).service_url == expected


@pytest.mark.parametrize(
    "value",
    [
        "akto.test",
        "ftp://akto.test",
        "https://",
        "https://akto.test:port",
        "https://akto .test",
        "https://akto..test",
        f"https://{'a' * 64}.test",
        "https://akto\\.test",
        "https://akto.test/?token=1",
        "https://akto.test/?",
        "https://akto.test#",
        "https://akto.test/#part",
        "https://user@akto.test",
        "https://user:secret@akto.test",
    ],
)
def test_a_service_address_that_cannot_be_called_as_it_stands_is_refused(value: str) -> None:
    (problem,) = problems_of({"DATA_INGESTION_SERVICE_URL": value})
    assert "DATA_INGESTION_SERVICE_URL" in problem
    assert "secret" not in problem


def test_an_address_with_the_services_own_path_is_refused() -> None:
    for value in ("https://akto.test/api/http-proxy", "https://akto.test/ingest/api/http-proxy/"):
        (problem,) = problems_of({"DATA_INGESTION_SERVICE_URL": value})
        assert "/api/http-proxy" in problem


@pytest.mark.parametrize("name", ["AKTO_API_TOKEN", "DATA_INGESTION_SERVICE_URL", "SYNC_MODE"])
@pytest.mark.parametrize("quote", ["'", '"'])
def test_quotes_around_a_value_are_named(name: str, quote: str) -> None:
    """`docker run --env-file` takes them for a part of it."""
    (problem,) = problems_of({name: f"{quote}true{quote}"})
    assert problem == f"{name} has quotes around it."


def test_a_secret_in_place_of_the_name_of_its_file_is_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        settings(AKTO_API_TOKEN="", AKTO_API_TOKEN_FILE="s3cret")
    assert "AKTO_API_TOKEN_FILE" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("token", ["Bearer s3cret", "s3cret\u00e9", "s3\ncret", "s3\x7fcret"])
def test_a_token_no_header_can_carry_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(AKTO_API_TOKEN=token)
    (problem,) = caught.value.problems
    assert "AKTO_API_TOKEN" in problem.what
    assert "s3" not in f"{problem.what} {problem.fix} {caught.value}"


def test_a_token_of_any_other_characters_is_taken_as_it_is() -> None:
    assert settings(AKTO_API_TOKEN="!eyJ0.eyJ1-_~").api_token == "!eyJ0.eyJ1-_~"


def test_the_token_is_not_in_the_representation_of_the_settings() -> None:
    assert "raw-token" not in repr(settings())


def test_a_file_gives_the_value_trimmed(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("  from-file\n")
    assert settings(AKTO_API_TOKEN="", AKTO_API_TOKEN_FILE=str(secret)).api_token == "from-file"


def test_the_byte_order_mark_of_a_file_is_no_part_of_the_value(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_bytes(b"\xef\xbb\xbffrom-file\r\n")
    assert settings(AKTO_API_TOKEN="", AKTO_API_TOKEN_FILE=str(secret)).api_token == "from-file"
    secret.write_bytes(b"\xef\xbb\xbffalse")
    assert settings(SYNC_MODE_FILE=str(secret)).sync_mode is False


def test_any_variable_can_come_from_a_file(tmp_path: Path) -> None:
    mode = tmp_path / "mode"
    mode.write_text("false\n")
    assert settings(SYNC_MODE_FILE=str(mode)).sync_mode is False


def test_value_and_file_together_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("from-file")
    (problem,) = problems_of({"AKTO_API_TOKEN_FILE": str(secret)})
    assert problem == "AKTO_API_TOKEN and AKTO_API_TOKEN_FILE are both set."


@pytest.mark.parametrize("content", [None, b"\xff\xfe token"])
def test_a_file_that_cannot_be_read_is_one_problem_and_named(tmp_path: Path, content: bytes | None) -> None:
    secret = tmp_path / "token"
    if content is not None:
        secret.write_bytes(content)
    (problem,) = problems_of({"AKTO_API_TOKEN": "", "AKTO_API_TOKEN_FILE": str(secret)})
    assert "AKTO_API_TOKEN_FILE" in problem
    assert str(secret) in problem


def test_an_empty_file_for_a_required_variable_is_named(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("\n")
    (problem,) = problems_of({"AKTO_API_TOKEN": "", "AKTO_API_TOKEN_FILE": str(secret)})
    assert str(secret) in problem
    assert "empty" in problem


@pytest.mark.parametrize(("value", "expected"), [("5", 5.0), ("0.25", 0.25), (" 2 ", 2.0), ("600", 600.0)])
def test_the_timeout_is_a_number_of_seconds(value: str, expected: float) -> None:
    assert settings(TIMEOUT=value).timeout == expected


@pytest.mark.parametrize("value", ["0", "-1", "abc", "5s", "nan", "inf", "600.1"])
def test_a_timeout_no_call_could_keep_is_refused(value: str) -> None:
    (problem,) = problems_of({"TIMEOUT": value})
    assert "TIMEOUT" in problem


@pytest.mark.parametrize(("value", "expected"), [("0", 0.0), ("0.0", 0.0), ("600", 600.0)])
def test_a_stop_may_wait_for_nothing(value: str, expected: float) -> None:
    assert settings(SHUTDOWN_FLUSH_SECONDS=value).shutdown_flush_seconds == expected


@pytest.mark.parametrize("value", ["-1", "abc", "nan", "600.1"])
def test_a_wait_at_the_end_that_is_none_is_refused(value: str) -> None:
    (problem,) = problems_of({"SHUTDOWN_FLUSH_SECONDS": value})
    assert "SHUTDOWN_FLUSH_SECONDS" in problem
    assert "not below 0 and at most 600" in problem


@pytest.mark.parametrize(
    ("value", "closed"), [("fail_open", False), ("fail_closed", True), ("FAIL_CLOSED", True), (" fail_closed ", True)]
)
def test_the_fallback_decides_whether_requests_without_a_verdict_are_refused(value: str, closed: bool) -> None:
    assert settings(UNREACHABLE_FALLBACK=value).fail_closed is closed


@pytest.mark.parametrize("value", ["closed", "true", "fail-closed"])
def test_an_unknown_fallback_is_refused(value: str) -> None:
    (problem,) = problems_of({"UNREACHABLE_FALLBACK": value})
    assert "UNREACHABLE_FALLBACK" in problem


def test_forwarded_headers_are_a_comma_list_in_any_case() -> None:
    found = settings(FORWARD_HEADERS=" X-Tenant, x-app ,,X-Tenant").forward_headers
    assert found == {"x-tenant", "x-app"}


@pytest.mark.parametrize("value", ["x tenant", "x-app:", "\u00e9"])
def test_what_is_not_a_header_name_is_refused(value: str) -> None:
    (problem,) = problems_of({"FORWARD_HEADERS": f"x-ok,{value}"})
    assert "FORWARD_HEADERS" in problem


@pytest.mark.parametrize(
    "value",
    [
        *("Authorization", "cookie", "X-Api-Key", "api-key", "proxy-authorization", "set-cookie"),
        *("ocp-apim-subscription-key", "x-goog-api-key", "x-litellm-api-key"),
    ],
)
def test_headers_that_carry_credentials_are_refused(value: str) -> None:
    (problem,) = problems_of({"FORWARD_HEADERS": f"x-ok,{value}"})
    assert value.lower() in problem


@pytest.mark.parametrize("name", ["AKTO_ACCOUNT_ID", "AKTO_VXLAN_ID"])
@pytest.mark.parametrize("value", ["abc", "-1", "1.5", "\u0661"])
def test_ids_are_whole_numbers(name: str, value: str) -> None:
    (problem,) = problems_of({name: value})
    assert name in problem


def test_the_context_source_is_sent_in_upper_case() -> None:
    assert settings(AKTO_CONTEXT_SOURCE="agentic").context_source == "AGENTIC"
    (problem,) = problems_of({"AKTO_CONTEXT_SOURCE": "two words"})
    assert "AKTO_CONTEXT_SOURCE" in problem


def test_user_and_password_of_the_proxy_address_do_not_become_part_of_the_collection() -> None:
    assert settings(LITELLM_URL="https://me:secret@llm.example.com:8443/v1").default_collection == (
        "llm.example.com:8443"
    )


@pytest.mark.parametrize("value", ["http://", "http:// host", "http://llm.example.com:x"])
def test_a_proxy_address_without_a_host_is_refused(value: str) -> None:
    (problem,) = problems_of({"LITELLM_URL": value})
    assert "LITELLM_URL" in problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RESPONSE_GUARDRAILS", "maybe"),
        ("VALIDATE_LAST_USER_MESSAGE_ONLY", "never"),
        ("UNCHECKED_ROUTES", "sometimes"),
        ("STREAM_GUARD", "chunk"),
        ("PAYLOAD_SHAPE", "string"),
        ("MAX_CHECK_CHARACTERS", "2e6"),
        ("MCP_INGEST_PATH", "mcp"),
        ("NON_MCP_TOOL_PATH_PREFIX", "/tool s"),
    ],
)
def test_words_that_are_not_known_are_refused_and_not_ignored(name: str, value: str) -> None:
    (problem,) = problems_of({name: value})
    assert name in problem


def test_switching_off_what_is_off_anyway_is_fine() -> None:
    off = {"RESPONSE_GUARDRAILS": "false", "VALIDATE_LAST_USER_MESSAGE_ONLY": "0", "UNCHECKED_ROUTES": "ALLOW"}
    more = {"STREAM_GUARD": "Buffer", "PAYLOAD_SHAPE": "BODY", "MCP_INGEST_PATH": "/mcp/"}
    assert settings(**off, **more) == settings()


def test_what_is_switched_on_is_on() -> None:
    on = settings(
        RESPONSE_GUARDRAILS="yes",
        STREAM_GUARD="window",
        VALIDATE_LAST_USER_MESSAGE_ONLY="true",
        UNCHECKED_ROUTES="deny",
        PAYLOAD_SHAPE="bare",
        MAX_CHECK_CHARACTERS="500000",
        MCP_INGEST_PATH="/gateway/mcp",
        NON_MCP_TOOL_PATH_PREFIX="/tools",
    )
    assert (on.response_guardrails, on.stream_guard, on.last_user_message_only) == (True, "window", True)
    assert (on.unchecked_routes, on.payload_shape, on.most_checked_characters) == ("deny", "bare", 500_000)
    assert (on.mcp_path, on.tool_path_prefix) == ("/gateway/mcp", "/tools")


def test_the_report_numbers_every_problem_and_puts_its_fix_below() -> None:
    text = report((Problem("A is wrong.", "Mend A."), Problem("B is missing.", "Set B.")))
    assert text.splitlines() == [
        "guarded-litellm: not started, 2 problems with the configuration:",
        "  1. A is wrong.",
        "     Mend A.",
        "  2. B is missing.",
        "     Set B.",
    ]


def test_a_report_of_one_problem_is_in_the_singular() -> None:
    assert "1 problem with" in report((Problem("A is wrong.", "Mend A."),))


def test_bounds_of_nothing_are_refused() -> None:
    names = ("MAX_CHECKS_AT_ONCE", "MAX_QUEUED_RECORDS", "MAX_QUEUED_BYTES", "MAX_SPOOLED_BYTES")
    assert problems_of(dict.fromkeys(names, "0")) == [f"{name}=0 leaves no room." for name in names]
    assert len(problems_of(dict.fromkeys(names, "many"))) == 4


def test_a_spool_directory_has_to_be_there_and_writable(tmp_path: Path) -> None:
    assert settings(SPOOL_DIR=str(tmp_path)).spool_directory == str(tmp_path)
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "file"):
        (what,) = problems_of({"SPOOL_DIR": str(path)})
        assert what.startswith(f"SPOOL_DIR names {path}, which is not a directory")


def test_a_ca_bundle_has_to_hold_certificates(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for path in (tmp_path / "missing.pem", tmp_path / "empty.pem"):
        (what,) = problems_of({"AKTO_CA_BUNDLE": str(path)})
        assert what.startswith(f"AKTO_CA_BUNDLE names {path}, from which user")
        assert "None" not in what
