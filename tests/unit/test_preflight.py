"""Everything that can be wrong before the start, found together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher import config as config_module
from launcher import preflight
from launcher.arguments import parse
from launcher.config import CALLBACK, ConfigError
from launcher.preflight import NotReady, Plan, check, temporary_directory
from unit.samples import REQUIRED


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables with which the proxy can be started."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    return {**REQUIRED, "TMPDIR": str(temporary)}


def config(tmp_path: Path, name: str = "config.yaml", callback: str = "otel") -> Path:
    """A config with one callback."""
    path = tmp_path / name
    path.write_text(f"litellm_settings: {{callbacks: [{callback}]}}\n")
    return path


def callbacks_of(plan: Plan) -> list[str]:
    """The callbacks LiteLLM is given."""
    assert plan.config is not None
    return list(plan.config["litellm_settings"]["callbacks"])


def problems_of(command_line: list[str], environment: dict[str, str]) -> list[str]:
    """What is wrong."""
    with pytest.raises(NotReady) as caught:
        check(parse(command_line), environment)
    assert all(problem.fix for problem in caught.value.problems)
    return [problem.what for problem in caught.value.problems]


def test_without_a_config_one_with_the_guard_is_made(environment: dict[str, str]) -> None:
    plan = check(parse([]), environment)
    assert plan.source.path is None
    assert plan.config == {"litellm_settings": {"callbacks": [CALLBACK]}}
    assert plan.settings.service_url == REQUIRED["DATA_INGESTION_SERVICE_URL"]
    assert plan.temporary == Path(environment["TMPDIR"])


def test_the_config_of_the_command_line_is_used(environment: dict[str, str], tmp_path: Path) -> None:
    path = config(tmp_path)
    plan = check(parse(["litellm", "--port", "4000", "--config", str(path)]), environment)
    assert plan.source.path == path
    assert callbacks_of(plan) == [CALLBACK, "otel"]


@pytest.mark.parametrize("name", ["config.yaml", "config.yml", "CONFIG.YAML"])
def test_config_file_path_comes_before_the_command_line(environment: dict[str, str], tmp_path: Path, name: str) -> None:
    environment["CONFIG_FILE_PATH"] = str(config(tmp_path, name, "from.environment"))
    given = config(tmp_path, "given.yaml", "from.command_line")
    plan = check(parse(["--config", str(given)]), environment)
    assert callbacks_of(plan) == [CALLBACK, "from.environment"]


def test_an_empty_config_file_path_means_unset(environment: dict[str, str], tmp_path: Path) -> None:
    plan = check(parse(["--config", str(config(tmp_path))]), {**environment, "CONFIG_FILE_PATH": ""})
    assert callbacks_of(plan) == [CALLBACK, "otel"]


@pytest.mark.parametrize("name", ["config.json", "config", "config.yaml.bak"])
def test_a_config_file_path_that_litellm_would_ignore_is_a_problem(
    environment: dict[str, str], tmp_path: Path, name: str
) -> None:
    environment["CONFIG_FILE_PATH"] = str(config(tmp_path, name))
    (problem,) = problems_of([], environment)
    assert "CONFIG_FILE_PATH" in problem
    assert name in problem


def test_the_name_of_a_config_on_the_command_line_is_free(environment: dict[str, str], tmp_path: Path) -> None:
    plan = check(parse(["--config", str(config(tmp_path, "litellm.conf"))]), environment)
    assert callbacks_of(plan) == [CALLBACK, "otel"]


def test_a_missing_config_is_a_problem_wherever_it_was_named(environment: dict[str, str], tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.yaml")
    (on_command_line,) = problems_of(["--config", gone], environment)
    (in_environment,) = problems_of([], {**environment, "CONFIG_FILE_PATH": gone})
    assert gone in on_command_line
    assert gone in in_environment


def test_a_second_config_that_litellm_would_stop_at_is_a_problem(environment: dict[str, str], tmp_path: Path) -> None:
    """It serves that of CONFIG_FILE_PATH, and reads the other all the same."""
    gone, served = str(tmp_path / "gone.yaml"), str(config(tmp_path, "served.yaml"))
    by_environment = {**environment, "CONFIG_FILE_PATH": served}
    assert problems_of(["--config", gone], by_environment) == [f"The config {gone} does not exist."]
    (tmp_path / "empty.yaml").write_text("")
    (problem,) = problems_of(["--config", str(tmp_path / "empty.yaml")], by_environment)
    assert "empty.yaml is empty" in problem
    for same in (served, str(config(tmp_path, "other.yaml", "from.the.other"))):
        assert callbacks_of(check(parse(["--config", same]), by_environment)) == [CALLBACK, "otel"]


def test_two_configs_that_are_not_there_are_two_problems_and_one_named_twice_is_one(
    environment: dict[str, str], tmp_path: Path
) -> None:
    gone = str(tmp_path / "gone.yaml")
    by_environment = {**environment, "CONFIG_FILE_PATH": gone}
    assert len(problems_of(["--config", str(tmp_path / "lost.yaml")], by_environment)) == 2
    assert len(problems_of(["--config", gone], by_environment)) == 1


@pytest.mark.parametrize(
    "command_line",
    [["--config"], ["-c"], ["litellm", "--config"], ["--model", "m", "-c"], ["--config="], ["-c", "--port", "4000"]],
)
def test_a_config_option_without_a_file_is_a_problem(environment: dict[str, str], command_line: list[str]) -> None:
    assert problems_of(command_line, environment) == ["--config is given without a file."]


def test_beside_config_file_path_an_empty_name_means_none_as_in_litellm(
    environment: dict[str, str], tmp_path: Path
) -> None:
    environment["CONFIG_FILE_PATH"] = str(config(tmp_path))
    assert callbacks_of(check(parse(["--config="]), environment)) == [CALLBACK, "otel"]
    assert problems_of(["--config"], environment) == ["--config is given without a file."]


def test_a_package_that_a_callback_lacks_is_a_problem(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_module, "_PROMETHEUS_PACKAGE", "no_such_package")
    (problem,) = problems_of(["--config", str(config(tmp_path, callback="prometheus"))], environment)
    assert "no_such_package" in problem


def test_a_config_in_a_bucket_is_left_to_litellm(environment: dict[str, str], tmp_path: Path) -> None:
    environment["LITELLM_CONFIG_BUCKET_NAME"] = "configs"
    plan = check(parse(["--config", str(tmp_path / "gone.yaml")]), environment)
    assert plan.config is None
    assert plan.source.path is None
    assert plan.without_file == "in bucket configs"


def test_a_model_on_the_command_line_without_a_config_is_left_to_litellm(environment: dict[str, str]) -> None:
    plan = check(parse(["--model", "gpt-4o"]), environment)
    assert plan.config is None
    assert plan.without_file is not None


def test_a_model_beside_a_config_changes_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    path = str(config(tmp_path))
    by_argument = check(parse(["--model", "gpt-4o", "--config", path]), environment)
    by_environment = check(parse(["--model", "gpt-4o"]), {**environment, "CONFIG_FILE_PATH": path})
    assert callbacks_of(by_argument) == callbacks_of(by_environment) == [CALLBACK, "otel"]
    assert by_argument.without_file is None


def test_all_problems_are_found_together(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_TEMPORARY", (str(tmp_path / "nowhere"),))
    environment |= {"AKTO_API_TOKEN": "", "TIMEOUT": "soon", "TMPDIR": str(tmp_path / "gone")}
    problems = problems_of(["--config", str(tmp_path / "gone.yaml")], environment)
    assert len(problems) == 4
    for part in ("AKTO_API_TOKEN", "TIMEOUT", "gone.yaml", "nowhere"):
        assert any(part in problem for problem in problems)


@pytest.mark.parametrize(("mode", "is_read"), [(None, True), ("DEV", True), ("PRODUCTION", False)])
def test_a_dot_env_file_counts_where_litellm_reads_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str | None, is_read: bool
) -> None:
    (tmp_path / ".env").write_text("GUARDED_OF_A_FILE=1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {} if mode is None else {"LITELLM_MODE": mode})
    preflight.load_dot_env()
    assert ("GUARDED_OF_A_FILE" in os.environ) is is_read


def test_the_token_is_in_no_problem(environment: dict[str, str]) -> None:
    environment |= {"AKTO_API_TOKEN": "Bearer hunter2", "TIMEOUT": "soon"}
    assert "hunter2" not in " ".join(problems_of([], environment))


class TestTemporaryDirectory:
    """Where the private copy can be written."""

    def test_the_one_the_environment_names_comes_first(self, tmp_path: Path) -> None:
        assert temporary_directory({"TMPDIR": str(tmp_path)}) == tmp_path

    @pytest.mark.parametrize("named", ["gone", "file"])
    def test_the_next_one_is_taken_when_it_cannot_be_written_to(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
    ) -> None:
        (tmp_path / "file").write_text("")
        (tmp_path / "second").mkdir()
        monkeypatch.setattr(preflight, "_TEMPORARY", (str(tmp_path / "first"), str(tmp_path / "second")))
        assert temporary_directory({"TMPDIR": str(tmp_path / named)}) == tmp_path / "second"

    def test_an_empty_variable_means_unset(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(preflight, "_TEMPORARY", (str(tmp_path),))
        assert temporary_directory({"TMPDIR": ""}) == temporary_directory({}) == tmp_path

    def test_without_any_the_operator_is_told_what_was_tried(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(preflight, "_TEMPORARY", (str(tmp_path / "first"), str(tmp_path / "second")))
        with pytest.raises(ConfigError) as caught:
            temporary_directory({"TMPDIR": str(tmp_path / "gone")})
        for name in ("gone", "first", "second"):
            assert str(tmp_path / name) in caught.value.what
        assert "tmpfs" in caught.value.fix

    def test_trying_leaves_nothing_behind(self, tmp_path: Path) -> None:
        temporary_directory({"TMPDIR": str(tmp_path)})
        assert list(tmp_path.iterdir()) == []
