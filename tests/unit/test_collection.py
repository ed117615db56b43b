"""Names of collections, as Akto's service keeps them unchanged and apart."""

from __future__ import annotations

import re

import pytest

from akto_guardrails.collection import collection_of_name, collection_of_url

NAMES = [
    "checkout",
    "Checkout Agent",
    "search_agent",
    "search agent",
    "team.alpha",
    "a@b",
    "12345",
    "\u043f\u043e\u0438\u0441\u043a",
    "\u641c\u7d22",
    "---",
    "-5",
    "!",
    "x" * 300,
    "\ud800",
    "line\nbreak",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_service_keeps_every_collection_as_it_is(name: str) -> None:
    collection = collection_of_name(name)
    assert collection is not None
    assert re.fullmatch(r"[a-z0-9-]{1,100}", collection)
    assert re.search(r"[a-z]", collection), "a host without a letter gets no collection of its own"
    assert collection_of_name(collection) == collection


@pytest.mark.parametrize("name", ["checkout", "search-agent", "agent-7", "x" * 100])
def test_a_name_that_needs_no_change_is_kept(name: str) -> None:
    assert collection_of_name(name) == name


def test_letters_and_outer_blanks_do_not_make_another_collection() -> None:
    assert collection_of_name("  Checkout ") == collection_of_name("checkout") == "checkout"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("search_agent", "search agent"),
        ("search_agent", "search-agent"),
        ("team.alpha", "team-alpha"),
        ("\u043f\u043e\u0438\u0441\u043a", "\u043a\u043b\u0438\u0435\u043d\u0442"),
        ("x" * 300 + "1", "x" * 300 + "2"),
        ("-checkout-", "checkout"),
        ("5", "-5"),
        ("123", "agent-123"),
    ],
)
def test_two_names_are_two_collections(one: str, other: str) -> None:
    assert collection_of_name(one) != collection_of_name(other)


def test_a_changed_name_still_shows_what_it_was() -> None:
    collection = collection_of_name("Search Agent")
    assert collection is not None
    assert re.fullmatch(r"search-agent-[0-9a-f]{6}", collection)


def test_a_name_of_digits_is_told_apart_by_a_word() -> None:
    collection = collection_of_name("12345")
    assert collection is not None
    assert re.fullmatch(r"agent-12345-[0-9a-f]{6}", collection)


@pytest.mark.parametrize("name", ["", "   ", "\t\n"])
def test_a_blank_name_has_no_collection(name: str) -> None:
    assert collection_of_name(name) is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:4000", "localhost:4000"),
        ("https://LLM.Example.com/v1?x=1", "llm.example.com"),
        ("https://user:secret@llm.example.com:8443", "llm.example.com:8443"),
        ("user:secret@llm.example.com", "llm.example.com"),
        ("llm.example.com:4000", "llm.example.com:4000"),
        ("llm_proxy:4000", "llm-proxy:4000"),
        ("http://10.0.0.7:4000", "litellm-10.0.0.7:4000"),
        ("10.0.0.7", "litellm-10.0.0.7"),
    ],
)
def test_an_address_gives_host_and_port(url: str, expected: str) -> None:
    assert collection_of_url(url) == expected


@pytest.mark.parametrize("url", ["http://[::1]:4000", "http://m\u00fcnchen.example", "http://\u043c\u0438\u0440"])
def test_an_unusual_host_still_makes_a_name_the_service_keeps(url: str) -> None:
    collection = collection_of_url(url)
    assert collection is not None
    assert re.fullmatch(r"[a-z0-9.:-]+", collection)
    assert re.search(r"[a-z]", collection)


@pytest.mark.parametrize("url", ["", "http://", "http:///path", "http://a b", "http://host:port", "http://[::1", ":80"])
def test_an_address_without_a_host_has_no_collection(url: str) -> None:
    assert collection_of_url(url) is None
