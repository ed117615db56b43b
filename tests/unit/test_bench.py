"""The harness of `make bench`: it believes no round without the guard at work, and the README shows its results."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from bench import usage
from bench.goals import Goal
from bench.lean_akto import LeanAkto
from bench.lean_model import LeanModel
from bench.lean_server import Handler
from bench.load import Order, Outcome
from bench.load import play as play_load
from bench.plan import ANSWERS, DEFAULT, FULL, LARGE_PROMPT, QUICK, SYNC, UNGUARDED, VARIANTS, Cell, rotated, runs_of
from bench.prompts import AGENT, LARGE, MARK, SMALL, STREAMED, bodies
from bench.readme import BEGIN, END, README, RESULTS, section, with_section
from bench.report import report
from bench.rounds import NotGuarded, Round, expected, verify_answers, verify_counts
from bench.summary import Pair, cell_figures, growth, medians

BY_NAME = {variant.name: variant for variant in VARIANTS}
OUTCOME = Outcome(requests=10, failures=[], answered=9, throughput=100.0, p50_ms=9.0, p99_ms=20.0)
ROUND = Round(UNGUARDED, requests=200, answered=180, throughput=100.0, cpu_ms=8.0, p50_ms=9.0, p99_ms=20.0)


def results() -> dict[str, Any]:
    """The results that the README's table is made of."""
    read: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return read


def test_the_readme_shows_the_results_of_the_benchmark() -> None:
    readme = README.read_text(encoding="utf-8")
    assert with_section(readme, results()) == readme


def test_other_results_would_change_the_readme() -> None:
    other = results()
    own = next(
        each for each in other["cells"] if each["variant"] == SYNC and each["connections"] == DEFAULT.connections
    )
    own["added_cpu_ms"]["median"] += 1
    assert section(other) != section(results())


def test_a_readme_without_the_markers_is_an_error() -> None:
    with pytest.raises(ValueError, match="not in the README"):
        with_section(f"{END} {BEGIN}", results())


def test_the_report_names_every_variant_and_says_which_goals_were_met() -> None:
    text = report(results())
    assert all(variant.name in text for variant in VARIANTS)
    assert "throughput beside unguarded, sync" in text


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_round_counts_when_every_request_was_checked_and_recorded(variant: Any) -> None:
    verify_counts(variant, 10, expected(variant, 10))


@pytest.mark.parametrize("missed", ["calls", "checks", "answers", "records"])
def test_a_round_with_a_request_that_was_missed_is_refused(missed: str) -> None:
    counts = expected(BY_NAME[ANSWERS], 10)
    with pytest.raises(NotGuarded, match="10 requests"):
        verify_counts(BY_NAME[ANSWERS], 10, counts | {missed: 9})


@pytest.mark.parametrize("further", ["checks", "records", "strange"])
def test_a_round_of_the_unguarded_proxy_in_which_akto_was_called_is_refused(further: str) -> None:
    with pytest.raises(NotGuarded):
        verify_counts(BY_NAME[UNGUARDED], 10, expected(BY_NAME[UNGUARDED], 10) | {further: 1})


def test_a_round_with_a_failed_request_is_refused() -> None:
    verify_answers(BY_NAME[SYNC], OUTCOME)
    with pytest.raises(NotGuarded, match="HTTP 503"):
        verify_answers(BY_NAME[SYNC], replace(OUTCOME, failures=["HTTP 503: no verdict"]))


def pair(guarded: Round, before: float, after: float, cell: Cell = DEFAULT, turn: int = 0) -> Pair:
    """A round between two unguarded ones with these throughputs and CPU times."""
    beside = [replace(ROUND, throughput=each, cpu_ms=1000 / each) for each in (before, after)]
    return Pair(cell, turn, guarded, *beside)


def test_a_machine_that_gets_slower_does_not_change_the_ratio() -> None:
    guarded = replace(ROUND, variant=SYNC)
    pairs = [
        pair(replace(guarded, throughput=90), 100, 100),
        pair(replace(guarded, throughput=45), 60, 40, turn=1),
        pair(replace(guarded, throughput=10), 100, 100, turn=2),
    ]
    figures = cell_figures(pairs)[0]
    assert figures["throughput_ratio"] == {"median": 0.9, "min": 0.1, "max": 0.9}
    assert (figures["rounds"], figures["requests"]) == (3, 600)


def test_cpu_for_each_request_is_left_out_where_few_requests_were_made() -> None:
    few = pair(replace(ROUND, variant=SYNC, requests=20), 100, 100)
    many = pair(replace(ROUND, variant=ANSWERS, cpu_ms=11), 100, 100)
    assert "added_cpu_ms" not in cell_figures([few])[0]
    assert cell_figures([few, many])[1]["added_cpu_ms"]["median"] == 1


def test_growth_is_between_the_first_and_the_last_round_of_a_cell_with_the_same_proxy() -> None:
    cells = (DEFAULT, LARGE_PROMPT, DEFAULT)
    pairs = [
        pair(replace(ROUND, variant=SYNC, cpu_ms=cpu_ms), 100, 100, cell, turn)
        for turn, of_turn in enumerate([(9, 20, 10), (19, 0, 22), (5, 0, 7)])
        for cell, cpu_ms in zip(cells, of_turn, strict=True)
    ]
    found = growth(pairs, DEFAULT, SYNC)
    assert (found["first_cpu_ms"], found["last_cpu_ms"], found["requests_between"]) == (9, 10, 200)
    assert (found["first_added_cpu_ms"], found["last_added_cpu_ms"]) == (-1, 0)


def test_a_goal_that_was_not_measured_is_neither_met_nor_missed() -> None:
    assert Goal("CPU", 0.6, 0.6, " ms").is_met is True
    assert Goal("CPU", 0.6, 0.7, " ms").is_met is False
    assert Goal("throughput", 0.96, 0.95, "", at_least=True).is_met is False
    assert Goal("CPU", 0.6, None, " ms").is_met is None


@pytest.mark.parametrize("plan", [FULL, QUICK], ids=lambda plan: plan.name)
def test_each_turn_begins_and_ends_with_the_default_cell(plan: Any) -> None:
    assert all(cells[0] == cells[-1] == DEFAULT for cells in plan.turns)


def test_cells_that_share_their_unguarded_load_stand_together() -> None:
    cells = (Cell(1, 0), Cell(1, 20), Cell(16, 20), LARGE_PROMPT, Cell(16, 20))
    assert [len(run) for run in runs_of(cells)] == [2, 1, 1, 1]


def test_every_variant_comes_first_in_its_turn() -> None:
    names = DEFAULT.variants()
    assert {rotated(names, turn)[0] for turn in range(len(names))} == set(names)


@pytest.mark.parametrize(
    ("prompt", "least", "most"), [(SMALL, 2e3, 3e3), (STREAMED, 2e3, 3e3), (LARGE, 2e5, 2.1e5), (AGENT, 5e4, 7e4)]
)
def test_a_prompt_has_the_mark_its_number_and_its_size(prompt: str, least: float, most: float) -> None:
    before, after = bodies(prompt)
    body = json.loads(before + b"000000042" + after)
    assert f"[{MARK} 000000042]" in body["messages"][0]["content"]
    assert least <= len(before + after) <= most


def test_the_agent_of_the_readmes_table_has_as_many_messages_and_tools_as_it_says() -> None:
    before, after = bodies(AGENT)
    body = json.loads(before + b"0" + after)
    assert f"{len(body['messages'])} messages, {len(body['tools'])} tools" in section(results())


def test_the_control_group_is_read_where_it_stands_and_never_that_of_the_whole_machine(tmp_path: Path) -> None:
    groups = "7:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n"
    assert [str(path) for path, _, _ in usage._group_files(groups)] == [
        "/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpuacct.usage"
    ]
    path = "/sys/fs/cgroup/system.slice/docker-abc.scope/cpu.stat"
    assert [str(each[0]) for each in usage._group_files("0::/system.slice/docker-abc.scope\n")] == [path]
    assert usage._group_files("0::/../abc\n") == []
    for text, unit, seconds in (("usage_usec 1500000\nuser_usec 7\n", 1e-6, 1.5), ("2500000000\n", 1e-9, 2.5)):
        (tmp_path / "clock").write_text(text)
        assert usage._group_seconds(tmp_path / "clock", unit) == pytest.approx(seconds)


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """The address of a server that answers every request with `handler`."""
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("prompt", [SMALL, STREAMED])
def test_the_load_tells_how_many_requests_it_made_and_that_they_were_answered(prompt: str) -> None:
    model = LeanModel()

    async def main() -> Outcome:
        async with serving(model.handle) as url:
            return await play_load(Order(f"{url}/v1/chat/completions", "key", 4, prompt, lead=0.0, seconds=0.2))

    outcome = asyncio.run(main())
    assert outcome.failures == []
    assert outcome.requests == model.calls > 0


@pytest.mark.parametrize(("status", "body"), [(503, '{"choices": []}'), (200, '{"error": {}}')])
def test_the_load_reports_answers_that_are_none(status: int, body: str) -> None:
    async def refuse(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, text=body)

    async def main() -> Outcome:
        async with serving(refuse) as url:
            return await play_load(Order(url, "key", 2, SMALL, lead=0.0, seconds=0.2))

    assert asyncio.run(main()).failures[0].startswith(f"HTTP {status}")


def test_the_load_reports_a_stream_without_its_end() -> None:
    async def break_off(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text='data: {"choices": []}\n\n')

    async def main() -> Outcome:
        async with serving(break_off) as url:
            return await play_load(Order(url, "key", 2, STREAMED, lead=0.0, seconds=0.2))

    assert asyncio.run(main()).failures


def test_memory_is_the_median_of_what_was_read() -> None:
    assert medians([{"rss": each, "pss": each - 1} for each in (300.0, 350.0, 310.0)]) == {"rss": 310.0, "pss": 309.0}


def test_the_load_reports_a_proxy_that_is_not_there() -> None:
    order = Order("http://127.0.0.1:9/v1/chat/completions", "key", 1, SMALL, lead=0.0, seconds=0.1)
    assert asyncio.run(play_load(order)).failures[0] == "ClientConnectorError"


def test_the_lean_akto_counts_by_what_it_is_asked_and_knows_the_prompt() -> None:
    akto = LeanAkto()
    envelope = f'{{"requestPayload": "{MARK}"}}'
    calls = [("guardrails", envelope), ("response_guardrails", envelope), ("ingest_data", envelope)]
    calls += [("guardrails", '{"requestPayload": "another prompt"}'), ("something", envelope)]

    async def main() -> list[dict[str, Any]]:
        async with serving(akto.handle) as url, aiohttp.ClientSession() as session:
            answers = []
            for flag, body in calls:
                async with session.post(f"{url}/api/http-proxy?{flag}=true", data=body) as response:
                    answers.append(await response.json())
            return answers

    answers = asyncio.run(main())
    assert akto.counts == {"checks": 1, "answers": 1, "records": 1, "strange": 2}
    assert answers[0]["data"]["guardrailsResult"]["Allowed"] is True
    assert "guardrailsResult" not in answers[2]["data"]
