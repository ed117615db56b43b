"""How a container starts: which words are guarded, what is run untouched, and who ends up as PID 1."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import requests

from integration.containers import GuardedProxy, MockAkto, MockLlm, proxy_environment, run_once


def test_another_command_is_run_untouched_and_silent() -> None:
    assert run_once(["echo", "Hello X"]) == (0, "Hello X\n", "")
    assert run_once(["python", "-c", "print('from python')"]) == (0, "from python\n", "")
    assert run_once(["sh", "-c", "exit 3"]) == (3, "", "")


@pytest.mark.parametrize("option", ["--version", "-v"])
def test_version_needs_no_variable(option: str) -> None:
    status, out, _ = run_once([option])
    assert status == 0
    assert "LiteLLM" in out


def test_help_needs_no_variable() -> None:
    status, out, _ = run_once(["--help"])
    assert status == 0
    assert "--config" in out


def test_an_unknown_word_gets_the_error_of_the_base() -> None:
    status, out, err = run_once(["no-such-command"])
    assert status != 0
    assert "DATA_INGESTION_SERVICE_URL" not in out + err


def test_the_gateway_is_unknown_to_the_older_base_which_says_so_itself() -> None:
    status, out, err = run_once(["gateway"], {"LITELLM_LOCAL_MODEL_COST_MAP": "True"})
    assert (status, out) == (2, "")
    # "Unknown command: gateway", and before 1.96 "unexpected extra argument (gateway)".
    assert "gateway" in err
    assert "guarded-litellm" not in err


@pytest.mark.parametrize("own", ["", "own:hook"])
def test_a_command_that_may_start_litellm_has_the_guard_whatever_the_environment_says(own: str) -> None:
    env = {"LITELLM_WORKER_STARTUP_HOOKS": own, "PYTHONPATH": "/own"}
    for command in (["sh", "-c"], ["/bin/sh", "-c"]):
        _, out, _ = run_once([*command, 'echo "$LITELLM_WORKER_STARTUP_HOOKS $PYTHONPATH"'], env)
        assert out == f"{GUARD_HOOK}{own and ','}{own} /opt/akto/hook.zip:/own\n"
    _, out, _ = run_once(["sh", "-c", 'echo "$LITELLM_WORKER_STARTUP_HOOKS $PYTHONPATH"'])
    assert out == f"{GUARD_HOOK} /opt/akto/hook.zip\n"


UNIFIED_ENTRYPOINT = """#!/bin/sh
echo "unified: $*"
echo "CONFIG_FILE_PATH=${CONFIG_FILE_PATH-}"
echo "hooks: $LITELLM_WORKER_STARTUP_HOOKS"
"""
GUARD_HOOK = "akto_guardrails.worker_startup:ensure_guarded"


@pytest.fixture
def unified(tmp_path: Path) -> dict[str, Any]:
    """Mounts that make the container look like the newest base, whose one entrypoint takes component words."""
    script = tmp_path / "docker-entrypoint.sh"
    script.write_text(UNIFIED_ENTRYPOINT)
    script.chmod(0o755)
    config = tmp_path / "config.yaml"
    config.write_text("model_list: []\n")
    config.chmod(0o644)
    return {
        "volumes": [f"{script}:/app/docker-entrypoint.sh:ro", f"{config}:/app/config.yaml:ro"],
    }


@pytest.mark.parametrize("word", ["migrations", "backend", "ui", "metrics", "collector"])
def test_component_words_that_serve_no_model_go_to_the_base_untouched(unified: dict[str, Any], word: str) -> None:
    status, out, err = run_once([word, "--flag", "a b"], **unified)
    assert (status, err) == (0, "")
    assert out == f"unified: {word} --flag a b\nCONFIG_FILE_PATH=\nhooks: \n"
    _, out, _ = run_once([word], {"LITELLM_WORKER_STARTUP_HOOKS": f"{GUARD_HOOK},own:hook"}, **unified)
    assert out.endswith("hooks: own:hook\n")


@pytest.mark.parametrize("word", ["litellm", "proxy"])
def test_words_for_the_proxy_are_guarded_and_handed_on(unified: dict[str, Any], word: str) -> None:
    assert run_once([word, "--config", "/app/config.yaml"], **unified)[0] == 78
    status, out, err = run_once([word, "--config", "/app/config.yaml"], proxy_environment(), **unified)
    assert status == 0, err
    assert out.startswith(f"unified: {word} --config /tmp/guarded-litellm-")
    assert f"hooks: {GUARD_HOOK}\n" in out
    assert "config=/app/config.yaml" in err


@pytest.mark.parametrize(("command", "component"), [(["gateway", "--port", "4000"], ""), ([], "gateway")])
def test_the_gateway_gets_its_config_by_the_environment(
    unified: dict[str, Any], command: list[str], component: str
) -> None:
    env = {"LITELLM_COMPONENT": component, "CONFIG_FILE_PATH": "/app/config.yaml"}
    assert run_once(command, env, **unified)[0] == 78
    status, out, err = run_once(command, proxy_environment() | env, **unified)
    assert status == 0, err
    assert out.startswith(f"unified: {' '.join(command)}".rstrip())
    assert "CONFIG_FILE_PATH=/tmp/guarded-litellm-" in out


def test_a_component_from_the_environment_that_serves_no_model_is_not_guarded(unified: dict[str, Any]) -> None:
    status, out, err = run_once([], {"LITELLM_COMPONENT": "migrations"}, **unified)
    assert (status, err) == (0, "")
    assert out == "unified: \nCONFIG_FILE_PATH=\nhooks: \n"


@pytest.mark.parametrize("command", [[], ["--config", "/app/config.yaml"]])
def test_a_component_does_not_open_a_way_past_the_guard_where_the_base_ignores_it(
    unified: dict[str, Any], command: list[str]
) -> None:
    """The older base knows no components, and no base looks at them when there are options."""
    assert run_once(command, {"LITELLM_COMPONENT": "backend"})[0] == 78
    if command:
        assert run_once(command, {"LITELLM_COMPONENT": "backend"}, **unified)[0] == 78


def test_litellms_collector_runs_without_the_guards_settings() -> None:
    env = {name: text for name, text in proxy_environment().items() if name.startswith("LITELLM")}
    with pytest.raises(requests.exceptions.RequestException):
        # It is still running after longer than the guard would have needed to refuse.
        run_once(["python", "-m", "litellm.proxy.collector"], env, seconds=15)


def test_litellm_is_pid_1_and_stops_cleanly_and_starts_again(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    proxy: GuardedProxy = start_proxy()
    container = proxy.container.get_wrapped_container()
    command = container.exec_run(["cat", "/proc/1/cmdline"]).output.split(b"\0")
    assert any(word.endswith(b"bin/litellm") for word in command), command
    assert not any(TOKEN_IN_COMMAND in word for word in command)

    began = time.monotonic()
    container.stop(timeout=30)
    assert time.monotonic() - began < 15
    container.reload()
    assert container.attrs["State"]["ExitCode"] in (0, 143)
    assert "GuardrailsHandler stopped" in proxy.guard_log()

    container.start()
    proxy.wait_until_ready("/health/readiness", 120)
    assert proxy.chat("please zebra-block").status_code == 403
    copies = container.exec_run(["sh", "-c", "ls -d /tmp/*guarded-litellm-config-*"]).output.decode().split()
    assert len(copies) == 1, "the first start's copy of the config is gone"


TOKEN_IN_COMMAND = proxy_environment()["AKTO_API_TOKEN"].encode()


def test_every_worker_is_guarded(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    proxy = start_proxy(command=["--config", "/etc/litellm/config.yaml", "--num_workers", "2"])
    deadline = time.monotonic() + 60
    while proxy.logs().count("GuardrailsHandler initialized") < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert proxy.logs().count("GuardrailsHandler initialized | sync_mode=True") == 2
    assert {proxy.chat("please zebra-block").status_code for _ in range(20)} == {403}
    assert len(akto.calls("check")) == 20
    assert llm.requests() == []


def test_the_init_line_comes_once(proxy: GuardedProxy) -> None:
    assert proxy.logs().count("GuardrailsHandler initialized | sync_mode=True") == 1


HARDENED = {
    "read_only": True,
    "user": "65534:65534",
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
}


@pytest.mark.parametrize(
    "options",
    [{**HARDENED, "tmpfs": ["/tmp"]}, {**HARDENED, "user": "12345:0"}],
    ids=["tmpfs at /tmp", "only /dev/shm, arbitrary user"],
)
def test_a_hardened_container_is_guarded(
    start_proxy: Any, akto: MockAkto, llm: MockLlm, options: dict[str, Any]
) -> None:
    proxy: GuardedProxy = start_proxy(**options)
    assert proxy.chat("please zebra-block").status_code == 403
    assert proxy.chat("hello").status_code == 200


def test_nothing_writable_is_one_clear_message() -> None:
    status, _, err = run_once(
        ["--port", "4000"],
        proxy_environment(),
        read_only=True,
        user="12345:0",
        ipc_mode="private",
        shm_size=0,
        tmpfs={"/dev/shm": "ro"},
    )
    assert status == 78
    assert "--tmpfs /tmp" in err
    assert "Traceback" not in err


def test_the_images_own_files_are_readable_for_everybody_and_writable_for_nobody_else() -> None:
    listing = run_once(["sh", "-c", "find /opt/akto ! -user 0 -o -perm /022 -o ! -perm -444"])
    assert listing == (0, "", "")
