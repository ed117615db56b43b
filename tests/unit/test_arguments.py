"""Reading the proxy's command line."""

from __future__ import annotations

import pytest

from launcher.arguments import Arguments, parse


@pytest.mark.parametrize(
    ("command_line", "word", "options"),
    [
        ([], None, ()),
        (["--port", "4000"], None, ("--port", "4000")),
        (["litellm", "--port", "4000"], "litellm", ("--port", "4000")),
        (["gateway"], "gateway", ()),
        (["-c", "litellm"], None, ("-c", "litellm")),
    ],
)
def test_a_first_word_without_a_dash_names_the_component(
    command_line: list[str], word: str | None, options: tuple[str, ...]
) -> None:
    assert parse(command_line) == Arguments(word, options)


@pytest.mark.parametrize("option", ["--help", "--version", "-v", "--check_migrations_against_existing_data"])
@pytest.mark.parametrize("before", [[], ["litellm"], ["--port", "4000"]])
def test_a_question_is_told_from_a_start(option: str, before: list[str]) -> None:
    assert parse([*before, option]).asks_for_information
    assert not parse([*before, "--config", "c.yaml"]).asks_for_information


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ([], None),
        (["--port", "4000"], None),
        (["--config", "a.yaml"], "a.yaml"),
        (["--config=a.yaml"], "a.yaml"),
        (["-c", "a.yaml"], "a.yaml"),
        (["-ca.yaml"], "a.yaml"),
        (["--config=a=b.yaml"], "a=b.yaml"),
        (["--port", "4000", "--config", "a.yaml", "--debug"], "a.yaml"),
        (["--config", "a.yaml", "-c", "b.yaml"], "b.yaml"),
        (["-c", "b.yaml", "--config=a.yaml"], "a.yaml"),
        (["--config"], ""),
        (["--port", "4000", "-c"], ""),
        (["--config="], ""),
        (["--config_path", "a.yaml"], None),
        (["--config", "-c"], "-c"),
        (["--config", "-cb.yaml"], "-cb.yaml"),
    ],
)
def test_the_config_is_found_in_every_form_the_last_one_counting(options: list[str], path: str | None) -> None:
    assert parse(options).config == path
    assert parse(["litellm", *options]).config == path


@pytest.mark.parametrize(
    ("options", "breaks_off"),
    [(["--config"], True), (["--debug", "-c"], True), (["--config="], False), (["-c", "a.yaml"], False), ([], False)],
)
def test_a_command_line_that_ends_before_the_path_is_told_from_an_empty_path(
    options: list[str], breaks_off: bool
) -> None:
    assert parse(options).breaks_off is breaks_off


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--model", "gpt-4o"], True),
        (["--model=gpt-4o"], True),
        (["-m", "gpt-4o"], True),
        (["-mgpt-4o"], True),
        (["--debug", "--model", "gpt-4o"], True),
        (["--model_group", "a"], False),
        (["--config", "c.yaml"], False),
        ([], False),
    ],
)
def test_a_model_on_the_command_line_is_seen_in_every_form(options: list[str], names: bool) -> None:
    assert parse(options).names_a_model is names


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["--config", "copy.yaml"]),
        (["--port", "4000"], ["--port", "4000", "--config", "copy.yaml"]),
        (["--config", "a.yaml", "--debug"], ["--debug", "--config", "copy.yaml"]),
        (["--debug", "--config=a.yaml"], ["--debug", "--config", "copy.yaml"]),
        (["-ca.yaml"], ["--config", "copy.yaml"]),
        (["-c", "a.yaml", "--port", "1", "--config=b.yaml", "-cd.yaml"], ["--port", "1", "--config", "copy.yaml"]),
    ],
)
def test_the_copy_takes_the_place_of_every_config_given(options: list[str], expected: list[str]) -> None:
    replaced = parse(["litellm", *options]).with_config("copy.yaml")
    assert replaced == Arguments("litellm", tuple(expected))
    assert replaced.config == "copy.yaml"


@pytest.mark.parametrize(
    ("command_line", "as_given", "for_older_base"),
    [
        ([], (), ()),
        (["--debug"], ("--debug",), ("--debug",)),
        (["litellm", "--debug"], ("litellm", "--debug"), ("--debug",)),
        (["proxy", "--debug"], ("proxy", "--debug"), ("--debug",)),
        (["gateway", "--debug"], ("gateway", "--debug"), ("gateway", "--debug")),
    ],
)
def test_each_base_image_gets_the_words_it_understands(
    command_line: list[str], as_given: tuple[str, ...], for_older_base: tuple[str, ...]
) -> None:
    arguments = parse(command_line)
    assert arguments.as_given() == as_given
    assert arguments.for_older_base() == for_older_base
