"""The operator's config: read, flattened, with the callback injected."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher import config as config_module
from launcher.config import CALLBACK, ConfigError, Source, injected, read, require_packages, shadows_the_guard
from unit.samples import config_file

DOCUMENTED = "custom_hooks.proxy_handler_instance"
AKTOS_FILE = "import httpx\n\n\nclass GuardrailsHandler(CustomLogger):\n    pass\n"
OWN_FILE = "class MyLogger(CustomLogger):\n    pass  # not a GuardrailsHandler\n"


@pytest.fixture(autouse=True)
def no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment of the tests says."""
    for name in ("DATABASE_URL", "DATABASE_HOST", "STORE_MODEL_IN_DB"):
        monkeypatch.delenv(name, raising=False)


def callbacks_of(path: Path) -> list[Any]:
    """The callbacks LiteLLM gets for the config at `path`."""
    return injected(read(path))["litellm_settings"]["callbacks"]


def error_of(path: Path) -> ConfigError:
    """What is wrong with the config at `path`."""
    with pytest.raises(ConfigError) as caught:
        injected(read(path))
    return caught.value


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("", [CALLBACK]),
        ("litellm_settings:\n", [CALLBACK]),
        ("litellm_settings: {}\n", [CALLBACK]),
        ("litellm_settings: {callbacks: }\n", [CALLBACK]),
        ("litellm_settings: {callbacks: []}\n", [CALLBACK]),
        ("litellm_settings: {callbacks: my.logger}\n", [CALLBACK, "my.logger"]),
        ("litellm_settings: {callbacks: [prometheus, my.logger]}\n", [CALLBACK, "prometheus", "my.logger"]),
        (f"litellm_settings: {{callbacks: {CALLBACK}}}\n", [CALLBACK]),
        (f"litellm_settings: {{callbacks: [otel, {CALLBACK}, {CALLBACK}]}}\n", [CALLBACK, "otel"]),
        (f"litellm_settings: {{callbacks: {DOCUMENTED}}}\n", [CALLBACK]),
        (f"litellm_settings: {{callbacks: [otel, {DOCUMENTED}, {CALLBACK}]}}\n", [CALLBACK, "otel"]),
        ("litellm_settings: {callbacks: [custom_hooks.another]}\n", [CALLBACK, "custom_hooks.another"]),
    ],
)
def test_every_form_of_callbacks_becomes_a_list_with_one_guard_in_front(
    mounted: Path, settings: str, expected: list[str]
) -> None:
    assert callbacks_of(config_file(mounted, f"model_list: []\n{settings}")) == expected


def test_without_a_config_one_is_made_that_holds_the_guard_only() -> None:
    guard_only = {"litellm_settings": {"callbacks": ["akto_guardrails.proxy_handler_instance"]}}
    assert injected(Source(None, {})) == guard_only


@pytest.mark.parametrize(
    ("value", "expected"), [("my.logger", [CALLBACK, "my.logger"]), (CALLBACK, [CALLBACK]), (DOCUMENTED, [CALLBACK])]
)
def test_a_reference_that_stands_alone_is_resolved_since_litellm_resolves_none_in_a_list(
    mounted: Path, monkeypatch: pytest.MonkeyPatch, value: str, expected: list[str]
) -> None:
    monkeypatch.setenv("MY_CALLBACK", value)
    assert callbacks_of(config_file(mounted, "litellm_settings: {callbacks: os.environ/MY_CALLBACK}\n")) == expected


def test_a_reference_to_a_variable_that_is_not_set_is_a_problem(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_CALLBACK", raising=False)
    error = error_of(config_file(mounted, "litellm_settings: {callbacks: os.environ/MY_CALLBACK}\n"))
    assert "MY_CALLBACK" in error.what


def test_everything_else_in_the_config_stays(mounted: Path) -> None:
    text = """
model_list:
  - model_name: gpt
    litellm_params: {model: openai/gpt-4o-mini, api_key: os.environ/OPENAI_API_KEY}
litellm_settings: {drop_params: true, callbacks: [otel], success_callback: [langfuse]}
general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}
"""
    expected = yaml.safe_load(text)
    expected["litellm_settings"]["callbacks"] = [CALLBACK, "otel"]
    assert injected(read(config_file(mounted, text))) == expected


@pytest.mark.parametrize("value", ["7", "true", "{a: b}"])
def test_callbacks_of_another_kind_are_refused(mounted: Path, value: str) -> None:
    error = error_of(config_file(mounted, f"litellm_settings: {{callbacks: {value}}}\n"))
    assert "callbacks" in error.what
    assert error.fix


@pytest.mark.parametrize("value", ["[]", "text", "7"])
def test_settings_that_are_no_mapping_are_refused(mounted: Path, value: str) -> None:
    assert "litellm_settings" in error_of(config_file(mounted, f"litellm_settings: {value}\nmodel_list: []\n")).what


class TestDocumentedCallback:
    """The callback Akto's documentation names, and whose file it is."""

    TEXT = f"litellm_settings: {{callbacks: [{DOCUMENTED}, otel]}}\n"

    def test_without_a_file_it_means_this_guard(self, mounted: Path) -> None:
        assert callbacks_of(config_file(mounted, self.TEXT)) == [CALLBACK, "otel"]

    def test_with_aktos_file_it_means_this_guard(self, mounted: Path) -> None:
        (mounted / "custom_hooks.py").write_text(AKTOS_FILE)
        assert callbacks_of(config_file(mounted, self.TEXT)) == [CALLBACK, "otel"]

    def test_with_a_file_of_the_operators_own_it_stays(self, mounted: Path) -> None:
        (mounted / "custom_hooks.py").write_text(OWN_FILE)
        assert callbacks_of(config_file(mounted, self.TEXT)) == [CALLBACK, DOCUMENTED, "otel"]

    def test_a_file_that_is_not_utf8_is_still_told_apart(self, mounted: Path) -> None:
        (mounted / "custom_hooks.py").write_bytes(b"# caf\xe9\n" + AKTOS_FILE.encode())
        assert callbacks_of(config_file(mounted, self.TEXT)) == [CALLBACK, "otel"]

    def test_a_file_in_another_directory_does_not_count(self, mounted: Path) -> None:
        (mounted / "custom_hooks.py").write_text(OWN_FILE)
        assert callbacks_of(config_file(mounted / "below", self.TEXT)) == [CALLBACK, "otel"]

    def test_what_cannot_be_read_is_taken_for_the_operators_own(self, mounted: Path) -> None:
        (mounted / "custom_hooks.py").mkdir()
        assert callbacks_of(config_file(mounted, self.TEXT)) == [CALLBACK, DOCUMENTED, "otel"]


class TestInclude:
    """Included files, merged as LiteLLM merges them."""

    def test_lists_are_extended_and_everything_else_is_replaced(self, mounted: Path) -> None:
        config_file(mounted, "model_list: [b]\nlitellm_settings: {callbacks: [otel]}\nextra: 1\n", "more.yaml")
        root = "include: [more.yaml]\nmodel_list: [a]\nlitellm_settings: {drop_params: true, callbacks: [my.logger]}\n"
        assert injected(read(config_file(mounted, root))) == {
            "model_list": ["a", "b"],
            "litellm_settings": {"callbacks": [CALLBACK, "otel"]},
            "extra": 1,
        }

    def test_later_files_win_over_earlier_ones_and_nested_ones_come_last(self, mounted: Path) -> None:
        config_file(mounted, "include: [nested.yaml]\nmodel_list: [1]\nwinner: first\n", "first.yaml")
        config_file(mounted, "model_list: [2]\nwinner: second\n", "second.yaml")
        config_file(mounted, "model_list: [3]\nwinner: nested\n", "nested.yaml")
        source = read(config_file(mounted, "include: [first.yaml, second.yaml]\nmodel_list: [0]\n"))
        assert source.content == {"model_list": [0, 1, 2, 3], "winner": "nested"}

    def test_a_name_is_looked_up_beside_the_file_that_includes_it(self, mounted: Path) -> None:
        config_file(mounted, "include: [models.yaml]\nmodel_list: [b]\n", "below/team.yaml")
        config_file(mounted, "model_list: [beside]\n", "below/models.yaml")
        config_file(mounted, "model_list: [root]\n", "models.yaml")
        source = read(config_file(mounted, "include: [below/team.yaml]\nmodel_list: [a]\n"))
        assert source.content["model_list"] == ["a", "b", "beside"]

    def test_failing_that_it_is_looked_up_beside_the_root_config(self, mounted: Path) -> None:
        config_file(mounted, "include: [models.yaml]\nmodel_list: [b]\n", "below/team.yaml")
        config_file(mounted, "model_list: [root]\n", "models.yaml")
        source = read(config_file(mounted, "include: [below/team.yaml]\nmodel_list: [a]\n"))
        assert source.content["model_list"] == ["a", "b", "root"]

    def test_an_absolute_name_is_taken_as_it_is(self, mounted: Path, tmp_path: Path) -> None:
        elsewhere = config_file(tmp_path, "model_list: [b]\n", "elsewhere.yaml")
        source = read(config_file(mounted, f"include: ['{elsewhere}']\nmodel_list: [a]\n"))
        assert source.content["model_list"] == ["a", "b"]

    def test_each_file_is_taken_once_even_in_a_circle(self, mounted: Path) -> None:
        config_file(mounted, "include: [config.yaml, b.yaml, ./b.yaml]\nmodel_list: [b]\n", "b.yaml")
        source = read(config_file(mounted, "include: [b.yaml, b.yaml]\nmodel_list: [a]\n"))
        assert source.content == {"model_list": ["a", "b"]}

    def test_the_outcome_includes_nothing_any_more(self, mounted: Path) -> None:
        config_file(mounted, "model_list: [b]\n", "more.yaml")
        source = read(config_file(mounted, "include: [more.yaml]\nmodel_list: [a]\n"))
        assert "include" not in injected(source)

    @pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}\n"])
    def test_an_included_file_may_be_empty(self, mounted: Path, text: str) -> None:
        config_file(mounted, text, "more.yaml")
        source = read(config_file(mounted, "include: [more.yaml]\nmodel_list: [a]\n"))
        assert source.content == {"model_list": ["a"]}

    @pytest.mark.parametrize("value", ["more.yaml", "{a: b}", "[7]", "[more.yaml, {a: b}]"])
    def test_what_is_no_list_of_names_is_refused(self, mounted: Path, value: str) -> None:
        error = error_of(config_file(mounted, f"include: {value}\n"))
        assert "include" in error.what
        assert str(mounted) in error.what

    def test_a_missing_file_is_named_with_the_one_that_includes_it(self, mounted: Path) -> None:
        config_file(mounted, "include: [gone.yaml]\nmodel_list: []\n", "more.yaml")
        error = error_of(config_file(mounted, "include: [more.yaml]\n"))
        gone, more = mounted / "gone.yaml", mounted / "more.yaml"
        assert error.what == f"The file {gone}, included by {more}, does not exist."
        assert error.fix == f"Mount it there, too, or correct include in {more}."


class TestUnreadable:
    """Configs that cannot be used, and what the operator is told."""

    def test_a_missing_file(self, mounted: Path) -> None:
        error = error_of(mounted / "config.yaml")
        assert error.what == f"The config {mounted / 'config.yaml'} does not exist."
        assert "Mount" in error.fix

    def test_a_directory(self, mounted: Path) -> None:
        error = error_of(mounted)
        assert "cannot be read" in error.what
        assert "belongs to" not in error.what
        assert "directory" in error.fix

    def test_a_file_that_is_not_text(self, mounted: Path) -> None:
        path = mounted / "config.yaml"
        path.write_bytes(b"key: \xff\xfe")
        error = error_of(path)
        assert "not UTF-8 text (byte 5)" in error.what
        assert "UTF-8" in error.fix

    def test_a_file_this_user_may_not_read(self, mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*_: object, **__: object) -> str:
            raise PermissionError(13, "Permission denied")

        path = config_file(mounted)
        path.chmod(0)
        monkeypatch.setattr(Path, "read_text", refused)  # root may read every file
        error = error_of(path)
        assert f"user {os.getuid()}" in error.what
        assert "0000" in error.what
        assert "chmod" in error.fix

    def test_a_mapping_without_entries_is_a_config(self, mounted: Path) -> None:
        assert injected(read(config_file(mounted, "{}")))["litellm_settings"] == {"callbacks": [CALLBACK]}

    @pytest.mark.parametrize("text", ["", "\n# only a comment\n"])
    def test_an_empty_file(self, mounted: Path, text: str) -> None:
        assert "is empty" in error_of(config_file(mounted, text)).what

    @pytest.mark.parametrize("text", ["a: !!bool abc", "a: !!timestamp abc", "a: !!int abc", "a: 2026-13-01"])
    def test_a_value_that_is_not_what_its_tag_says(self, mounted: Path, text: str) -> None:
        assert "not valid YAML" in error_of(config_file(mounted, text)).what

    @pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n", "7\n", "[]\n", "false\n"])
    def test_a_file_without_a_mapping_at_the_top(self, mounted: Path, text: str) -> None:
        assert "not a mapping" in error_of(config_file(mounted, text)).what

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("a: 1\nkey: [sk-hunter2\nb: 2\n", "line 3, column 2"),
            ("a: 1\n\tkey: sk-hunter2\n", "line 2, column 1"),
            ("a: 1\nkey: 'sk-hunter2\n", "line 3, column 1"),
            ("a: 1\n  key: sk-hunter2: x\n", "line 2, column 6"),
            ("a: 1\nkey: *sk-hunter2\n", "line 2, column 6"),
            ("a: 1\nkey: !sk-hunter2 x\n", "line 2, column 6"),
            ("a: 1\nkey: !hunter2\n", "line 2, column 6"),
            ("a: 1\nkey: @hunter2\n", "line 2, column 6"),
            ("a: 1\nkey: &hunter2 1\nb: &hunter2 2\n", "line 3, column 4"),
        ],
        ids=["list", "tab", "quote", "colon", "alias", "tag", "tag-alone", "at", "anchor-twice"],
    )
    def test_invalid_yaml_is_told_by_line_and_column_without_the_text(
        self, mounted: Path, text: str, place: str
    ) -> None:
        error = error_of(config_file(mounted, text))
        assert place in error.what
        assert "not valid YAML" in error.what
        assert "hunter2" not in f"{error.what} {error.fix} {error}"

    def test_a_tab_is_named_and_what_to_put_in_its_place(self, mounted: Path) -> None:
        path = config_file(mounted, "model_list:\n  - model_name: gpt\n\tlitellm_params: {}\n")
        error = error_of(path)
        assert error.what == (
            f"The config {path} is not valid YAML: line 3, column 1: found a tab that cannot start any token."
        )
        assert error.fix == "Indent with spaces: YAML takes no tabs there."

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("a: [1\nb: 2\n", "expected ',' or ']', but got ':'."),
            ("a: 1\nkey: @hunter2\n", "found character '@' that cannot start any token."),
            ('a: "b" hunter2\n', "expected <block end>, but found '<scalar>'."),
            ("key: *hunter2\n", "found undefined alias."),
            ("key: !<'> hunter2\n", 'could not determine a constructor for the tag "\'".'),
            ("key: !<\\'hunter2\\'> x\n", "expected URI, but found '\\\\'."),
        ],
    )
    def test_what_is_wrong_is_told_to_its_end_where_that_quotes_no_text(
        self, mounted: Path, text: str, words: str
    ) -> None:
        assert error_of(config_file(mounted, text)).what.endswith(words)

    @pytest.mark.parametrize(
        "text", ["key: \x00hunter2\n", "expires: 2024-13-45\nkey: hunter2\n"], ids=["control-character", "date"]
    )
    def test_what_the_parser_chokes_on_is_a_problem_like_any_other(self, mounted: Path, text: str) -> None:
        error = error_of(config_file(mounted, text))
        assert "not valid YAML" in error.what
        assert "hunter2" not in str(error)

    def test_the_cause_of_an_error_is_not_shown_with_it(self, mounted: Path) -> None:
        error = error_of(config_file(mounted, "key: [sk-hunter2\n"))
        assert error.__suppress_context__


class TestPackages:
    """Callbacks of LiteLLM's for which the base may lack a package."""

    @pytest.fixture
    def without_prometheus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(config_module, "_PROMETHEUS_PACKAGE", "no_such_package")

    @pytest.mark.usefixtures("without_prometheus")
    @pytest.mark.parametrize(
        "setting",
        [
            "callbacks: [otel, prometheus]",
            "callbacks: prometheus",
            "success_callback: [prometheus]",
            "service_callback: [prometheus_system]",
        ],
    )
    def test_one_that_litellm_would_stop_without_is_named(self, mounted: Path, setting: str) -> None:
        path = config_file(mounted, f"litellm_settings: {{{setting}}}\n")
        with pytest.raises(ConfigError) as caught:
            require_packages(read(path))
        assert f"litellm_settings.{setting.partition(':')[0]} in {path} has prometheus" in caught.value.what
        assert "no_such_package is not in the image" in caught.value.what
        assert "on a base that has no_such_package" in caught.value.fix

    @pytest.mark.usefixtures("without_prometheus")
    @pytest.mark.parametrize(
        "setting",
        [
            "callbacks: [otel]",
            "failure_callback: [prometheus]",
            "callbacks: {a: b}",
            "success_callback: prometheus",
        ],
    )
    def test_others_need_none(self, mounted: Path, setting: str) -> None:
        require_packages(read(config_file(mounted, f"litellm_settings: {{{setting}}}\n")))
        require_packages(read(config_file(mounted, "litellm_settings: [1]\n")))

    def test_with_the_package_nothing_is_said(self, mounted: Path) -> None:
        require_packages(read(config_file(mounted, "litellm_settings: {callbacks: [prometheus]}\n")))


def test_a_module_that_would_shadow_the_guard_is_named(mounted: Path) -> None:
    source = read(config_file(mounted))
    assert shadows_the_guard(source) is None
    (mounted / "akto_guardrails.py").write_text("")
    assert shadows_the_guard(source) == mounted / "akto_guardrails.py"
    assert shadows_the_guard(Source(None, {})) is None


DATABASES = (
    "general_settings: {database_url: os.environ/MY_DATABASE}\n",
    "general_settings: {store_model_in_db: true}\n",
    "environment_variables: {DATABASE_URL: postgresql://db/litellm}\n",
)


class TestDatabase:
    """Callbacks that the file does not have may be in the database: LiteLLM takes from it what the file leaves open."""

    @pytest.fixture(params=["DATABASE_URL", "DATABASE_HOST", "STORE_MODEL_IN_DB", *DATABASES])
    def settings(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        """A config that has a database."""
        if request.param in DATABASES:
            return str(request.param)
        monkeypatch.setenv(request.param, "db")
        return "general_settings: {}\n"

    @pytest.mark.parametrize("more", ["", "litellm_settings: {drop_params: true}\n"])
    def test_they_are_left_open(self, mounted: Path, settings: str, more: str) -> None:
        source = read(config_file(mounted, settings + more))
        assert injected(source) == source.content

    @pytest.mark.parametrize("value", ["[otel]", "[]", "", "otel"])
    def test_a_file_that_has_them_gets_the_guard(self, mounted: Path, settings: str, value: str) -> None:
        path = config_file(mounted, f"{settings}litellm_settings:\n  callbacks: {value}\n")
        assert callbacks_of(path) == [CALLBACK, *(["otel"] if "otel" in value else [])]
