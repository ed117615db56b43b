"""The shapes people deploy LiteLLM in, each with its own command, environment, mounts, user and root file system.

Compose files, `docker run` lines and two generations of Helm charts. What serves models is guarded, with exactly one
check for a request; everything else is run as the base runs it, without a variable of the guard.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import docker
import pytest
import yaml
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from integration.containers import (
    IMAGE,
    MASTER_KEY,
    TEST_LABEL,
    GuardedProxy,
    MockAkto,
    MockLlm,
    base_image,
    chat_body,
    proxy_config,
    proxy_environment,
    run_once,
)

ROOT: Final = Path(__file__).resolve().parents[2]
# A config as operators have it: without a Python module beside it, so that the file alone can be mounted.
CONFIG: Final = proxy_config(general_settings={"master_key": "os.environ/LITELLM_MASTER_KEY"})
CHART_CONFIG: Final = proxy_config(general_settings={"master_key": "os.environ/PROXY_MASTER_KEY"})
CHART: Final = {"HOST": "0.0.0.0", "PORT": "4000", "PROXY_MASTER_KEY": MASTER_KEY, "DISABLE_SCHEMA_UPDATE": "true"}
BY_ENVIRONMENT: Final = {"CONFIG_FILE_PATH": "/app/config/config.yaml", "NUM_WORKERS": "1"}
HARDENED: Final = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}
NO_INTERNET: Final = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}

SERVING: Final[dict[str, dict[str, Any]]] = {
    "1 litellm-helm": {
        "config": CHART_CONFIG,
        "command": ["--config", "/etc/litellm/config.yaml"],
        "mounted_at": "/etc/litellm/config.yaml",
        "env": CHART,
    },
    "1 litellm-helm, older: the whole directory": {
        "config": CHART_CONFIG,
        "command": ["--config", "/etc/litellm/config.yaml"],
        "env": CHART,
    },
    "2 litellm-helm, hardened": {
        "config": CHART_CONFIG,
        "command": ["--config", "/etc/litellm/config.yaml", "--num_workers", "4"],
        "mounted_at": "/etc/litellm/config.yaml",
        "env": CHART,
        "user": "1000",
        "tmpfs": ["/tmp", "/.cache", "/.npm"],
        **HARDENED,
    },
    # The stand-in has no supervisord, which older bases start for this; here it is seen to be no hindrance.
    "3 separateHealthApp": {
        "config": CHART_CONFIG,
        "command": ["--config", "/etc/litellm/config.yaml"],
        "mounted_at": "/etc/litellm/config.yaml",
        "env": {**CHART, "SEPARATE_HEALTH_APP": "1", "SEPARATE_HEALTH_PORT": "8081"},
    },
    "6 monolith of the new chart": {
        "base": "unified",
        "command": ["proxy", "--port", "4000", "--config", "/app/config/config.yaml"],
        "mounted_at": "/app/config",
        "env": BY_ENVIRONMENT,
    },
    "7 gateway of the new chart": {
        "base": "unified",
        "command": ["gateway", "--host", "0.0.0.0", "--port", "4000"],
        "mounted_at": "/app/config",
        "env": BY_ENVIRONMENT,
    },
    "7 gateway, named by the environment": {
        "base": "unified",
        "command": None,
        "mounted_at": "/app/config",
        "env": {**BY_ENVIRONMENT, "LITELLM_COMPONENT": "gateway"},
    },
    "11 command: litellm": {
        "entrypoint": "litellm",
        "command": ["--config", "/etc/litellm/config.yaml"],
        "mounted_at": "/etc/litellm/config.yaml",
    },
    "11 command: a shell that sources secrets": {
        "entrypoint": ["/bin/sh", "-lc"],
        "command": [". /etc/litellm/key; exec /app/.venv/bin/litellm --config /etc/litellm/config.yaml"],
        "files": {"key": "export MODEL_KEY=from-the-vault\n"},
    },
    "12 compose of LiteLLM": {
        "command": ["--config=/app/config.yaml"],
        "mounted_at": "/app/config.yaml",
        "mode": "rw",
    },
    "14 compose, hardened, without /tmp": {
        "command": ["--config", "/app/config.yaml"],
        "mounted_at": "/app/config.yaml",
        "env": {
            "HTTP_PROXY": "http://squid:3128",
            "HTTPS_PROXY": "http://squid:3128",
            "NO_PROXY": "mock-akto,mock-llm,127.0.0.1,localhost",
        },
        "user": "101:101",
        "tmpfs": ["/.npm", "/nonexistent", "/app/cache", "/app/migrations"],
        **HARDENED,
    },
    "15 docker run -c": {"command": ["-c", "/etc/litellm/config.yaml"]},
    "15 docker run litellm": {"command": ["litellm", "--config", "/etc/litellm/config.yaml"]},
    "15 docker run, non-root base": {"base": "nonroot", "command": ["--config", "/etc/litellm/config.yaml"]},
    "15 docker run, non-root base, any user of the root group": {
        "base": "nonroot",
        "command": ["--config", "/etc/litellm/config.yaml"],
        "user": "12345:0",
        **HARDENED,
    },
    "15 docker run, unified base, as the old one": {
        "base": "unified",
        "command": ["--config", "/etc/litellm/config.yaml"],
    },
}


@pytest.fixture(scope="module")
def image_on() -> Callable[[str | None], str]:
    """The guarded image on another form of the stand-in base, built when it is asked for."""
    built: dict[str, str] = {}

    def on(form: str | None) -> str:
        if form is None:
            return IMAGE
        if form not in built:
            release = _release_of(base_image())
            base = _output([str(ROOT / "image/base/form.sh"), form, release])
            built[form] = f"{TEST_LABEL}-{form}"
            subprocess.run([ROOT / "image/build.sh", built[form], base], check=True, capture_output=True)
        return built[form]

    return on


def _release_of(base: str) -> str:
    script = "import importlib.metadata as m; print(m.version('litellm'))"
    output = docker.from_env().containers.run(base, ["-c", script], entrypoint="python", remove=True)
    return output.decode().strip()


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("shape", SERVING)
def test_a_shape_that_serves_models_is_guarded(
    start_proxy: Any, image_on: Callable[[str | None], str], akto: MockAkto, llm: MockLlm, shape: str
) -> None:
    options = {"config": CONFIG, **SERVING[shape]}
    proxy: GuardedProxy = start_proxy(image=image_on(options.pop("base", None)), **options)

    assert_guarded_once(proxy, akto, llm)


def assert_guarded_once(proxy: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    """A blocked request stops before the model, an allowed one gets there, each with one check and one record."""

    def ask(text: str) -> int:
        return proxy.post("/v1/chat/completions", chat_body(text), key=MASTER_KEY).status_code

    assert ask("zebra-block") == 403
    assert llm.requests() == []
    assert len(akto.calls("check")) == 1
    assert ask("hello") == 200
    assert len(llm.requests()) == 1
    assert len(akto.calls("check")) == 2
    akto.wait_for("record", 2)


def test_13_compose_quickstart_without_a_config_is_guarded(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    """Its models come from a database, which there is none of here: what may pass gets "no such model"."""
    proxy: GuardedProxy = start_proxy(command=None)
    statuses = [
        proxy.post("/v1/chat/completions", chat_body(text), key=MASTER_KEY).status_code
        for text in ("zebra-block", "hello")
    ]
    assert statuses == [403, 400]
    assert len(akto.calls("check")) == 2


# What is run in place of the proxy, with the entrypoint or past it: exit status and output are the base's own.
UNTOUCHED: Final[dict[str, dict[str, Any]]] = {
    "4 migrations job of litellm-helm": {
        "entrypoint": "python",
        "command": ["-m", "litellm.proxy.prisma_migration"],
        "env": {"DATABASE_URL": "postgresql://u:p@127.0.0.1:1/d", "DISABLE_SCHEMA_UPDATE": "true"},
    },
    "5 migrations job of the new chart": {
        "base": "unified",
        "command": ["migrations"],
        "env": {"DATABASE_URL": "postgresql://u:p@127.0.0.1:1/d"},
    },
    "8 backend": {"base": "unified", "command": ["backend", "--port", "4001"]},
    "8 ui": {"base": "unified", "command": ["ui"]},
    "9 metrics sidecar": {"base": "unified", "command": ["metrics", "--help"], "env": BY_ENVIRONMENT},
    "10 test pod of the chart": {"command": ["python", "-c", "print('Hello  X')"]},
    "a component without a word": {"base": "unified", "command": [], "env": {"LITELLM_COMPONENT": "migrations"}},
    "a shell": {"command": ["sh", "-c", "echo out; echo err >&2; exit 3"]},
    "a word nobody knows": {"base": "unified", "command": ["nosuchword"]},
}


@pytest.mark.parametrize("shape", UNTOUCHED)
def test_what_serves_no_model_is_run_as_the_base_runs_it(image_on: Callable[[str | None], str], shape: str) -> None:
    options = dict(UNTOUCHED[shape])
    command, form = options.pop("command"), options.pop("base", None)
    env = NO_INTERNET | options.pop("env", {})
    guarded = run_once(command, env, image=image_on(form), **options)
    assert "guarded-litellm" not in guarded[2]
    if form is None and "entrypoint" not in options:
        # The older base knows options of the proxy alone, and would run `litellm python -c ...`.
        assert guarded == run_once(command[1:], env, entrypoint=command[0])
        return
    base = docker.from_env().images.get(image_on(form)).labels["org.opencontainers.image.base.name"]
    # Lines on stderr have the time in them.
    assert guarded[:2] == run_once(command, env, image=base, **options)[:2]


@pytest.mark.parametrize("option", ["--version", "--help"])
@pytest.mark.parametrize("form", ["nonroot", "unified"])
def test_information_needs_no_variable_on_any_base(
    image_on: Callable[[str | None], str], form: str, option: str
) -> None:
    status, out, err = run_once([option], NO_INTERNET, image=image_on(form))
    assert status == 0, err
    assert "LiteLLM" in out or "--config" in out


@pytest.mark.parametrize("form", ["nonroot", "unified"])
def test_a_guarded_word_without_its_variables_is_refused_on_any_base(
    image_on: Callable[[str | None], str], form: str
) -> None:
    assert run_once([], image=image_on(form))[0] == 78


@pytest.mark.parametrize("server", ["uvicorn", "gunicorn"])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_worker_of_every_server_is_guarded(
    start_proxy: Any, akto: MockAkto, llm: MockLlm, server: str, workers: int
) -> None:
    how = ["--run_gunicorn"] if server == "gunicorn" else []
    command = ["--config", "/etc/litellm/config.yaml", "--num_workers", str(workers), *how]
    proxy: GuardedProxy = start_proxy(command=command, config=CONFIG)
    wait_for_lines(proxy, "GuardrailsHandler initialized | sync_mode=True", workers)
    statuses = {
        proxy.post("/v1/chat/completions", chat_body("zebra-block"), key=MASTER_KEY).status_code for _ in range(20)
    }
    assert statuses == {403}
    assert len(akto.calls("check")) == 20
    assert llm.requests() == []
    assert proxy.logs().count("GuardrailsHandler initialized") == workers


def wait_for_lines(proxy: GuardedProxy, line: str, count: int) -> None:
    deadline = time.monotonic() + 120
    while proxy.logs().count(line) < count and time.monotonic() < deadline:
        time.sleep(0.5)
    assert proxy.logs().count(line) == count


def test_a_config_in_a_bucket_is_guarded(
    start_proxy: Any, network: Network, akto: MockAkto, llm: MockLlm, tmp_path: Path
) -> None:
    """LiteLLM reads it past the mounted file, so that the second layer alone guards."""
    (tmp_path / "configs").mkdir(mode=0o755)
    (tmp_path / "configs/live.yaml").write_text(yaml.safe_dump(CONFIG))
    tmp_path.chmod(0o755)
    bucket = DockerContainer(base_image(), entrypoint="python", labels={TEST_LABEL: "1"})
    bucket.with_command(["-m", "http.server", "--directory", "/bucket", "9000"]).with_network(network)
    bucket.with_network_aliases("mock-s3").with_volume_mapping(str(tmp_path), "/bucket", "ro")
    with bucket:
        proxy: GuardedProxy = start_proxy(
            config=proxy_config(model_list=[]),
            env={
                "LITELLM_CONFIG_BUCKET_NAME": "configs",
                "LITELLM_CONFIG_BUCKET_OBJECT_KEY": "live.yaml",
                "AWS_ENDPOINT_URL_S3": "http://mock-s3:9000",
                "AWS_ACCESS_KEY_ID": "id",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_REGION_NAME": "us-east-1",
                "AWS_DEFAULT_REGION": "us-east-1",
            },
        )
    assert "config=in bucket configs; guarded in each worker" in proxy.logs()
    assert_guarded_once(proxy, akto, llm)


READINESS: Final = """
import time, urllib.request
while True:
    try:
        print(urllib.request.urlopen("http://127.0.0.1:4000/health/readiness").status)
        break
    except OSError:
        time.sleep(0.5)
"""


def test_without_a_network_it_starts_and_says_what_is_missing() -> None:
    container = docker.from_env().containers.run(
        IMAGE, [], environment=proxy_environment(), network_mode="none", detach=True, labels={TEST_LABEL: "1"}
    )
    try:
        assert container.exec_run(["timeout", "60", "python3", "-c", READINESS]).output.strip() == b"200"
        logs = container.logs().decode()
        assert "guarded-litellm: warning | Akto at mock-akto:8080 cannot be reached" in logs
        assert "GuardrailsHandler initialized | sync_mode=True" in logs
    finally:
        container.remove(force=True)
