"""The private copy of the config that LiteLLM is pointed at."""

from __future__ import annotations

import os
import runpy
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import akto_guardrails
import launcher
from launcher.config import Source, injected, read
from launcher.private_copy import _PREFIX, write_private
from unit.samples import config_file


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """The directory private copies are made in."""
    directory = tmp_path / "private"
    directory.mkdir()
    return directory


class TestPrivateCopy:
    """What LiteLLM is pointed at."""

    def test_only_this_user_can_read_it_whatever_the_umask(self, private: Path) -> None:
        before = os.umask(0)
        try:
            copy = write_private({"a": 1}, Source(None, {}), private)
        finally:
            os.umask(before)
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
        assert copy.parent.parent == private

    def test_references_to_the_environment_are_kept_as_they_are(
        self, mounted: Path, private: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-secret")
        source = read(config_file(mounted, "general_settings:\n  master_key: os.environ/LITELLM_MASTER_KEY\n"))
        text = write_private(injected(source), source, private).read_text()
        assert "master_key: os.environ/LITELLM_MASTER_KEY" in text
        assert "sk-secret" not in text

    def test_every_value_keeps_its_type_and_its_text(self, mounted: Path, private: Path) -> None:
        text = """
model_list: &models
  - {version: "1.10", api_version: "2024-02-01", date: 2024-02-01, on: off, yes: "yes", code: "0123", octal: 0o17}
again: *models
null_text: "null"
nothing: ~
number: 1.0
big: 123456789012345678901234567890
other scripts: "Gr\u00fc\u00df Gott \u641c\u7d22 \U0001f600"
lines: |
  one
    two: three

long: "%s"
colon: "a: b # c"
""" % ("word " * 60)
        source = read(config_file(mounted, text))
        copy = write_private(source.content, source, private)
        assert yaml.safe_load(copy.read_text(encoding="utf-8")) == yaml.safe_load(text)

    def test_keys_keep_their_order(self, private: Path) -> None:
        copy = write_private({"z": 1, "a": 2, "m": 3}, Source(None, {}), private)
        assert list(yaml.safe_load(copy.read_text())) == ["z", "a", "m"]

    def test_the_mounted_files_are_not_touched(self, mounted: Path, private: Path) -> None:
        path = config_file(mounted, "model_list: []  # kept\n")
        source = read(path)
        write_private(injected(source), source, private)
        assert path.read_text() == "model_list: []  # kept\n"
        assert sorted(each.name for each in mounted.iterdir()) == ["config.yaml"]

    def test_what_lies_beside_the_config_lies_beside_the_copy(self, mounted: Path, private: Path) -> None:
        (mounted / "my_auth.py").write_text("async def auth(): ...\n")
        config_file(mounted, "x = 1\n", "callbacks/logger.py")
        source = read(config_file(mounted))
        beside = write_private(injected(source), source, private).parent
        assert (beside / "my_auth.py").read_text() == "async def auth(): ...\n"
        assert (beside / "callbacks" / "logger.py").read_text() == "x = 1\n"

    def test_a_relative_path_is_linked_as_well(
        self, mounted: Path, private: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (mounted / "my_auth.py").write_text("a = 1\n")
        config_file(mounted)
        monkeypatch.chdir(mounted)
        source = read(Path("config.yaml"))
        copy = write_private(injected(source), source, private)
        monkeypatch.chdir("/")
        assert (copy.parent / "my_auth.py").read_text() == "a = 1\n"

    def test_files_as_kubernetes_mounts_them_are_linked(self, mounted: Path, private: Path) -> None:
        config_file(mounted, "model_list: []\n", "..2026_01_01/config.yaml")
        config_file(mounted, "a = 1\n", "..2026_01_01/my_auth.py")
        (mounted / "..data").symlink_to("..2026_01_01")
        (mounted / "config.yaml").symlink_to("..data/config.yaml")
        (mounted / "my_auth.py").symlink_to("..data/my_auth.py")
        source = read(mounted / "config.yaml")
        beside = write_private(injected(source), source, private).parent
        assert (beside / "my_auth.py").read_text() == "a = 1\n"

    def test_the_copy_is_the_only_config_and_nothing_shadows_the_guard(self, mounted: Path, private: Path) -> None:
        for name in ("akto_guardrails.py", ".hidden", "__pycache__/x.pyc", "config.yaml", "other.py"):
            config_file(mounted, "model_list: [shadow]\n", name)
        source = read(config_file(mounted, "model_list: [ours]\n", "proxy.yaml"))
        copy = write_private(injected(source), source, private)
        assert not copy.is_symlink()
        assert yaml.safe_load(copy.read_text())["model_list"] == ["ours"]
        beside = {each.name: each for each in copy.parent.iterdir()}
        assert sorted(beside) == [".hidden", "akto_guardrails.py", "config.yaml", "other.py", "proxy.yaml"]
        assert "shadow" not in beside["akto_guardrails.py"].read_text()

    @pytest.mark.parametrize("with_a_file", [True, False])
    def test_the_guard_beside_the_copy_is_the_very_one_of_its_package(
        self, mounted: Path, private: Path, monkeypatch: pytest.MonkeyPatch, with_a_file: bool
    ) -> None:
        """LiteLLM 1.83 runs a file of this name beside the config, and imports no package."""
        source = read(config_file(mounted)) if with_a_file else Source(None, {})
        beside = write_private(injected(source), source, private).parent / "akto_guardrails.py"
        guard = object()
        monkeypatch.setitem(vars(akto_guardrails), "proxy_handler_instance", guard)
        assert runpy.run_path(str(beside))["proxy_handler_instance"] is guard

    def test_a_directory_that_may_not_be_listed_has_nothing_to_link(
        self, mounted: Path, private: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(_: Path) -> None:
            raise PermissionError(13, "Permission denied")

        source = read(config_file(mounted))
        monkeypatch.setattr(Path, "iterdir", refused)  # root may list every directory
        assert write_private(injected(source), source, private).exists()

    def test_every_copy_has_a_directory_of_its_own(self, private: Path) -> None:
        copies = {write_private({"a": 1}, Source(None, {}), private).parent for _ in range(3)}
        assert len(copies) == 3


def started_elsewhere(private: Path, program: str) -> subprocess.Popen[bytes]:
    """A start of another container with the same directory, which has made its copy and become `program`."""
    code = (
        "import os, pathlib, sys; from launcher.config import Source; from launcher.private_copy import write_private;"
        "write_private({'a': 1}, Source(None, {}), pathlib.Path(sys.argv[1]));"
        "os.execvp('sh', ['sh', '-c', sys.argv[2]])"
    )
    path = os.pathsep.join(str(Path(str(package.__file__)).parents[1]) for package in (launcher, akto_guardrails))
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(private), f"echo; {program}"],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"
    return process


def test_the_copies_of_programs_that_have_ended_are_removed(mounted: Path, private: Path) -> None:
    (mounted / "my_auth.py").write_text("a = 1\n")
    source = read(config_file(mounted))
    with started_elsewhere(private, "exit") as ended:
        ended.wait(10)
        assert len(list(private.iterdir())) == 1
    with started_elsewhere(private, "exec cat") as running:
        (other,) = private.iterdir()
        copy = write_private(injected(source), source, private)
        assert set(private.iterdir()) == {other, copy.parent}
        running.communicate()
    newest = write_private(injected(source), source, private)
    assert set(private.iterdir()) == {copy.parent, newest.parent}, "this process lives"
    assert (mounted / "my_auth.py").exists()


def test_what_others_have_there_is_left_alone(private: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    names = {f"{_PREFIX}link", f"{_PREFIX}file", "guarded-litellm-config-another-host-x", "guarded-litellm-reports-0"}
    (private / f"{_PREFIX}link").symlink_to(elsewhere)
    (private / f"{_PREFIX}file").write_text("")
    (private / "guarded-litellm-config-another-host-x").mkdir()
    (private / "guarded-litellm-reports-0").mkdir()
    copy = write_private({"a": 1}, Source(None, {}), private)
    assert {each.name for each in private.iterdir()} == {*names, copy.parent.name}
    assert elsewhere.exists()
