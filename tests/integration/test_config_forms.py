"""Every form a config comes in ends with exactly one guard, first in the list, and the operator's own parts kept."""

from __future__ import annotations

import re
from typing import Any

import pytest
import requests
import yaml

from integration.containers import (
    AUTH_MODULE,
    MASTER_KEY,
    GuardedProxy,
    MockAkto,
    MockLlm,
    chat_body,
    proxy_config,
)

USER_CALLBACK = """
from litellm.integrations.custom_logger import CustomLogger

class UserCallback(CustomLogger):
    async def async_post_call_response_headers_hook(self, data, user_api_key_dict, response, request_headers=None, **_):
        return {"x-user-callback": "ran"}

instance = UserCallback()
"""
# What Akto publishes, as far as its name goes: a GuardrailsHandler of its own that would check everything again.
AKTO_FILE = """
from litellm.integrations.custom_logger import CustomLogger

class GuardrailsHandler(CustomLogger):
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        raise RuntimeError("Akto's file ran beside the guard")

proxy_handler_instance = GuardrailsHandler()
"""
USER_CUSTOM_HOOKS = USER_CALLBACK.replace("instance = ", "proxy_handler_instance = ")


def with_settings(**settings: Any) -> dict[str, Any]:
    return proxy_config(litellm_settings=settings)


def included(**files: Any) -> dict[str, str]:
    return {name.replace("__", "/") + ".yaml": yaml.safe_dump(content) for name, content in files.items()}


FORMS: dict[str, dict[str, Any]] = {
    "no litellm_settings": {"config": proxy_config()},
    "litellm_settings null": {"config": proxy_config(litellm_settings=None)},
    "callbacks null": {"config": with_settings(callbacks=None)},
    "callbacks a string": {
        "config": with_settings(callbacks="user_callback.instance"),
        "files": {"user_callback.py": USER_CALLBACK},
        "user_callback": True,
    },
    "callbacks a list": {
        "config": with_settings(callbacks=["user_callback.instance"], drop_params=True),
        "files": {"user_callback.py": USER_CALLBACK},
        "user_callback": True,
    },
    "callback in a package beside the config": {
        "config": with_settings(callbacks=["hooks.user_callback.instance"]),
        "files": {"hooks/user_callback.py": USER_CALLBACK},
        "user_callback": True,
    },
    "already injected, twice and not first": {
        "config": with_settings(
            callbacks=[
                "user_callback.instance",
                "akto_guardrails.proxy_handler_instance",
                "akto_guardrails.proxy_handler_instance",
            ]
        ),
        "files": {"user_callback.py": USER_CALLBACK},
        "user_callback": True,
    },
    "the documented callback without its file": {
        "config": with_settings(callbacks=["custom_hooks.proxy_handler_instance"])
    },
    "the documented callback with Akto's file": {
        "config": with_settings(callbacks="custom_hooks.proxy_handler_instance"),
        "files": {"custom_hooks.py": AKTO_FILE},
    },
    "the documented name with the user's own file": {
        "config": with_settings(callbacks=["custom_hooks.proxy_handler_instance"]),
        "files": {"custom_hooks.py": USER_CUSTOM_HOOKS},
        "user_callback": True,
    },
    "an included file with its own litellm_settings": {
        "config": {
            **with_settings(callbacks=["nosuch.module"]),
            "include": ["parts/extra.yaml"],
        },
        "files": included(
            parts__extra={"litellm_settings": {"callbacks": ["user_callback.instance"]}, "include": ["more.yaml"]},
            parts__more={"model_list": [{"model_name": "nested", "litellm_params": {"model": "openai/x"}}]},
        )
        | {"user_callback.py": USER_CALLBACK},
        "user_callback": True,
        "models": {"nested"},
    },
    "a module that shadows the guard's package": {
        "config": proxy_config(),
        "files": {"akto_guardrails.py": "proxy_handler_instance = None\n"},
    },
    "-c": {"command": ["-c", "/etc/litellm/config.yaml"]},
    "--config=": {"command": ["--config=/etc/litellm/config.yaml", "--port", "4000"]},
    "the word litellm": {"command": ["litellm", "--config", "/etc/litellm/config.yaml"]},
    "CONFIG_FILE_PATH": {"command": None, "env": {"CONFIG_FILE_PATH": "/etc/litellm/config.yaml"}},
    "CONFIG_FILE_PATH beats --config": {
        "command": ["--config", "/etc/litellm/other.yaml"],
        "env": {"CONFIG_FILE_PATH": "/etc/litellm/config.yaml"},
        "files": {"other.yaml": yaml.safe_dump(proxy_config(model_list=[]))},
    },
    "CONFIG_FILE_PATH empty": {"env": {"CONFIG_FILE_PATH": ""}},
    "a directory with a space": {
        "command": ["--config", "/etc/litellm/my configs/proxy.yml"],
        "files": {
            "my configs/proxy.yml": yaml.safe_dump(with_settings(callbacks=["user_callback.instance"])),
            "my configs/user_callback.py": USER_CALLBACK,
            "my configs/team_auth.py": None,
        },
        "user_callback": True,
    },
}


def guards_in(callbacks: str) -> list[int]:
    """Places of guards among LiteLLM's own list of its callbacks."""
    entries = re.findall(r"<([\w.]+) object at", callbacks)
    assert entries, callbacks
    return [place for place, name in enumerate(entries) if name.endswith("GuardrailsHandler")]


@pytest.mark.parametrize("form", FORMS)
def test_a_config_form(start_proxy: Any, akto: MockAkto, llm: MockLlm, form: str) -> None:
    options = dict(FORMS[form])
    has_user_callback = options.pop("user_callback", False)
    models = options.pop("models", set())
    options["files"] = {name: AUTH_MODULE if text is None else text for name, text in options.get("files", {}).items()}
    proxy: GuardedProxy = start_proxy(**options)

    assert guards_in(proxy.callbacks()) == [0]
    response = proxy.chat("hello", key="sk.form-agent")
    assert response.status_code == 200, response.text
    assert ("x-user-callback" in response.headers) == has_user_callback
    assert proxy.chat("zebra-block", key="sk.form-agent").status_code == 403
    assert len(llm.requests()) == 1
    checks = akto.calls("check")
    assert len(checks) == 2, "one check for each of the two requests"
    assert '"host":"form-agent"' in checks[0]["body"]["requestHeaders"], "custom_auth beside the config was loaded"
    listed = requests.get(f"{proxy.url}/v1/models", headers={"Authorization": "Bearer sk.form-agent"}, timeout=10)
    assert models <= {model["id"] for model in listed.json()["data"]}


def test_the_copy_is_private_and_keeps_references_and_the_mounted_file_is_untouched(proxy: GuardedProxy) -> None:
    container = proxy.container.get_wrapped_container()

    def shell(command: str) -> str:
        return container.exec_run(["sh", "-c", command]).output.decode().strip()

    (path,) = shell("ls /tmp/guarded-litellm-*/config.yaml").splitlines()
    assert shell(f"stat -c %a:%u {path}") == "600:0"
    assert shell(f"stat -c %a $(dirname {path})") == "700"
    copy = yaml.safe_load(shell(f"cat {path}"))
    assert copy["general_settings"]["master_key"] == "os.environ/LITELLM_MASTER_KEY"
    assert copy["model_list"] == proxy_config()["model_list"]
    assert copy["litellm_settings"]["callbacks"] == ["akto_guardrails.proxy_handler_instance"]
    assert yaml.safe_load(shell("cat /etc/litellm/config.yaml")) == proxy_config()
    for secret in ("akto-token", "sk-master", "model-key"):
        assert secret not in shell(f"cat {path}")


def test_without_a_config_one_is_generated(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    env = {"OPENAI_API_BASE": "http://mock-llm:8081/v1", "OPENAI_API_KEY": "k"}
    proxy = start_proxy(command=None, env=env)
    assert guards_in(proxy.callbacks()) == [0]


def test_a_model_from_the_command_line_is_guarded(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    command = ["--model", "openai/gpt-4o-mini", "--api_base", "http://mock-llm:8081/v1"]
    proxy = start_proxy(command=command, env={"OPENAI_API_KEY": "k"})
    check_master_key_requests(proxy, akto, llm)


def check_master_key_requests(proxy: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    """One allowed and one blocked request, on a proxy without custom_auth."""
    allowed = proxy.post("/v1/chat/completions", chat_body("hello"), key=MASTER_KEY)
    assert allowed.status_code == 200, allowed.text
    assert proxy.post("/v1/chat/completions", chat_body("zebra-block"), key=MASTER_KEY).status_code == 403
    assert len(llm.requests()) == 1
    assert len(akto.calls("check")) == 2


# The second layer: the entrypoint is bypassed, the worker's startup hook guards.


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"callbacks": "user_callback.instance"},
        {"callbacks": ["user_callback.instance"]},
        {"callbacks": ["akto_guardrails.proxy_handler_instance", "user_callback.instance"]},
        {"callbacks": "custom_hooks.proxy_handler_instance"},
    ],
    ids=["no callbacks", "a string", "a list", "listed as well", "Akto's own file"],
)
def test_a_bypassed_entrypoint_is_guarded_all_the_same(
    start_proxy: Any, akto: MockAkto, llm: MockLlm, settings: dict[str, Any]
) -> None:
    proxy = start_proxy(
        config=with_settings(**settings),
        files={"user_callback.py": USER_CALLBACK, "custom_hooks.py": AKTO_FILE},
        entrypoint="litellm",
    )
    assert guards_in(proxy.callbacks()) == [0]
    assert proxy.chat("hello").status_code == 200
    assert proxy.chat("zebra-block").status_code == 403
    assert len(akto.calls("check")) == 2
    assert len(llm.requests()) == 1


def test_a_shell_in_front_and_no_config_at_all_are_guarded(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    line = "exec litellm --model openai/gpt-4o-mini --api_base http://mock-llm:8081/v1"
    proxy = start_proxy(command=["-c", line], entrypoint="/bin/sh", env={"OPENAI_API_KEY": "k"})
    check_master_key_requests(proxy, akto, llm)


def test_a_bypassed_entrypoint_with_bad_settings_does_not_serve(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    proxy = start_proxy(entrypoint="litellm", env={"AKTO_API_TOKEN": ""}, wait=False)
    container = proxy.container.get_wrapped_container()
    assert container.wait(timeout=60)["StatusCode"] != 0
    assert "AKTO_API_TOKEN is missing" in proxy.logs()
    assert "Uvicorn running" not in proxy.logs()


def test_an_operators_own_startup_hook_and_pythonpath_are_kept(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    hook = "def run():\n    print('the operator hook ran', flush=True)\n"
    proxy = start_proxy(
        config=with_settings(callbacks="user_callback.instance"),
        files={"lib/operator_hook.py": hook, "user_callback.py": USER_CALLBACK},
        env={"PYTHONPATH": "/etc/litellm/lib", "LITELLM_WORKER_STARTUP_HOOKS": "operator_hook:run"},
    )
    assert "the operator hook ran" in proxy.logs()
    assert guards_in(proxy.callbacks()) == [0]
    assert proxy.chat("zebra-block").status_code == 403
