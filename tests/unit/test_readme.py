"""What the README says about routes and variables is what the tests and the code have."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from akto_guardrails.settings import Settings, load_settings
from integration.routes import ROUTES, readme_table

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_routes_is_the_one_that_the_container_is_tested_with() -> None:
    assert readme_table() in README


def test_every_route_in_the_table_is_masked() -> None:
    assert all(route.masked for route in ROUTES)


def test_every_variable_is_in_the_table_with_its_default() -> None:
    table = README.partition("## Variables")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([A-Z][A-Z_]+)`", table))
    read: set[str] = set()

    class Environment(dict[str, str]):
        def get(self, name: str, default: object = None) -> object:  # type: ignore[override]
            read.add(name.removesuffix("_FILE"))
            return super().get(name, default)

    required = {"DATA_INGESTION_SERVICE_URL": "https://akto.test", "AKTO_API_TOKEN": "raw-token"}
    assert isinstance(load_settings(Environment(required)), Settings)
    assert len(read) >= len(fields(Settings)) - 1
    assert read <= named


def test_each_line_of_the_comparison_names_a_test_that_there_is() -> None:
    table = README.partition("| seen in |")[2].partition("\n\n")[0]
    lines = table.strip().splitlines()[1:]
    assert len(lines) > 10
    for line in lines:
        found = re.search(r"\[(\w+)\]\((\S+) \"(\w+)\"\) \|$", line)
        assert found is not None, line
        text = (ROOT / found[2]).read_text(encoding="utf-8")
        assert f"def {found[3]}(" in text, line


def test_every_file_that_is_linked_to_exists() -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
