"""Whatever a client sends: the walkers do not stumble, nothing is left out of a check, and the service takes it."""

from __future__ import annotations

import copy
import io
import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from akto_guardrails.content import (
    CONTEXT_KEYS,
    TEXT_KEYS,
    Path,
    answer_body,
    content_of,
    is_naming,
    newest_turn_of,
    newest_user_string,
    paths_to,
    placed_strings,
    spoken_text,
    string_leaves,
)
from akto_guardrails.envelope import payload_of
from akto_guardrails.masking import apply_mask
from akto_guardrails.omissions import is_credential, may_hold_media, without_credentials, without_media
from akto_guardrails.subject import MCP_CALL, MCP_LIST, PASS_THROUGH, RAG_INGEST, ROUTED_PASS_THROUGH, subject_of
from akto_guardrails.unseen import is_repeated, strings_of, strings_seen, unseen_part
from unit.json_values import ANY_TEXT, ANYTHING, CONVERSATIONS, KEYS, OBJECTS, REQUESTS, SCALARS, TEXT, strings_in
from unit.samples import exchange

MARK = "zq-mark-\u0436"
CALL_TYPES = ["acompletion", "aresponses", PASS_THROUGH, ROUTED_PASS_THROUGH, MCP_CALL, MCP_LIST, RAG_INGEST]


def named_credentials(name: str, value: Any) -> bool:
    """Whether entries of `value`, under this name of a request, are blanked when they are called like credentials."""
    if name.endswith("fallbacks") or name == "extra_body":
        return isinstance(value, (dict, list))
    return name == "tools"


def texts_to_find(name: str, value: Any) -> list[str]:
    """The strings that a check of a request with `value` under `name` must have; none of them looks like media."""
    if not named_credentials(name, value):
        return strings_in(value)
    holders = value if isinstance(value, list) and name != "extra_body" else [value]
    blanked = [
        {key: child for key, child in holder.items() if not is_credential(key, child)}
        if isinstance(holder, dict) and (name != "tools" or holder.get("type") == "mcp")
        else holder
        for holder in holders
    ]
    return strings_in(blanked)


@given(REQUESTS, st.booleans())
@example({"messages": [{"role": "user", "content": "hi"}], "documents": [{"type": []}]}, False)
@example({"input": {"type": {}}}, False)
@example({"prompt": "hi", "thing": {"type": ["tool_use"]}}, True)
def test_every_string_of_a_request_is_in_its_payload(data: Any, passed_through: bool) -> None:
    before = payload_of(data)
    content = content_of(data, passed_through=passed_through)
    names = [name for name in TEXT_KEYS if data.get(name) is not None]
    if content is None:
        assert not names
        return
    sent = set(strings_in(json.loads(payload_of(content))["body"]))
    for name in names:
        assert set(texts_to_find(name, data[name])) <= sent
    assert payload_of(data) == before
    assert content.keys() <= data.keys()


@given(REQUESTS)
def test_what_a_provider_is_passed_is_checked_whatever_it_is_called(data: Any) -> None:
    content = content_of(data, passed_through=True) or {}
    left_out = {"litellm_logging_obj", "litellm_metadata", "metadata", "tags", *CONTEXT_KEYS}
    for name, value in data.items():
        if isinstance(value, (dict, list)) and name not in left_out and not is_credential(name, value):
            assert name in content


@given(REQUESTS, st.dictionaries(ANY_TEXT.map("unknown-{}".format), ANYTHING, max_size=3))
def test_unknown_parameters_of_the_client_are_checked(data: Any, more: Any) -> None:
    whole = {**data, **more, "proxy_server_request": {"body": {**data, **more}}}
    content = content_of(whole) or {}
    assert {
        name for name, value in more.items() if isinstance(value, (dict, list)) and not is_credential(name, value)
    } <= content.keys()


PYTHON = st.recursive(
    SCALARS
    | st.binary(max_size=9)
    | st.sampled_from([io.BytesIO(b"sound"), datetime(2026, 1, 1, tzinfo=UTC), bytearray(b"x"), frozenset("a"), str]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS | st.integers() | st.none() | st.tuples(ANY_TEXT), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(KEYS | st.sampled_from(TEXT_KEYS) | st.integers() | st.none(), PYTHON, max_size=5))
@example({7: [{"a": "b"}], "prompt": "hi"})
def test_objects_of_python_do_no_harm(data: Any) -> None:
    content = content_of(data, passed_through=True)
    if content is not None:
        json.loads(payload_of(content))
        assert unseen_part(content, strings_of(content)) == {}


@given(ANYTHING, st.booleans())
def test_text_is_no_media_whatever_stands_around_it(value: Any, in_media: bool) -> None:
    # None of these strings is long base64 under a name that media has, but for those of the letter A alone.
    kept = [text for text in strings_in(value) if text != "A" * 300]
    found = strings_in(without_media(value, in_media=in_media))
    assert [text for text in found if text != "A" * 300 and not text.endswith("characters left out]")] == kept


@given(st.sampled_from(["tools", "functions", "extra_body", "fallbacks", "my_fallbacks", "messages"]), ANYTHING)
def test_leaving_out_credentials_changes_nothing_else(name: str, value: Any) -> None:
    changed = without_credentials(name, value)
    assert string_leaves(changed).items() - string_leaves(value).items() <= {
        (path, "[left out]") for path in string_leaves(changed)
    }
    assert set(texts_to_find(name, value)) <= set(strings_in(changed))


@given(ANYTHING)
def test_every_walk_finds_the_same_strings(value: Any) -> None:
    leaves = string_leaves(value)
    assert list(leaves.values()) == strings_in(value)
    assert strings_of(value) >= set(strings_in(value))
    places = [place for place, _ in placed_strings(value)]
    assert paths_to(places) == list(leaves)


@given(REQUESTS, st.sampled_from(["messages", "input", "contents"]), CONVERSATIONS)
def test_the_newest_turn_is_a_part_of_the_request(data: Any, name: str, turns: Any) -> None:
    content = content_of({**data, name: turns}) or {}
    part, skipped = newest_turn_of(content)
    leaves = string_leaves(content)
    for path, text in string_leaves(part).items():
        assert leaves[(path[0], path[1] + skipped[path[0]], *path[2:]) if path[0] in skipped else path] == text
    newest = newest_user_string(content)
    assert newest is None or isinstance(leaves[newest], str)
    assert isinstance(spoken_text(content), (str, type(None)))
    assert spoken_text(content) is None or spoken_text(content) == "" or leaves


@given(REQUESTS, st.data())
def test_what_was_seen_is_not_new_and_what_is_new_is_seen(data: Any, draw: st.DataObject) -> None:
    content = content_of(data) or {}
    seen = strings_of(content)
    assert unseen_part(content, seen) == {}
    added_to = ("messages", "system", "prompt", "input", "instructions", "contents", "query", "documents")
    places = [path for path in string_leaves(content) if path[0] in added_to and not is_naming(path)]
    everything = unseen_part(content, frozenset())
    assert all(path[0] in everything for path in places if string_leaves(content)[path] not in _SAYING_NOTHING)
    if places:
        path: Path = draw.draw(st.sampled_from(places))
        more = copy.deepcopy(content)
        holder: Any = more
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = draw.draw(st.sampled_from([MARK, f'["{MARK}"]', f'{{"a": "{MARK}"}}', f"\n{MARK}\n"]))
        assert path[0] in unseen_part(more, seen)


# Nothing, and JSON without a string: there is nothing in them to be checked.
_SAYING_NOTHING = ("", "\n", "{}", "[]")


@given(st.dictionaries(KEYS, ANYTHING, max_size=4), st.sampled_from(CALL_TYPES), st.booleans(), st.data())
def test_every_subject_takes_its_masks(more: Any, call_type: str, in_batch: bool, draw: st.DataObject) -> None:
    data = draw.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "messages": CONVERSATIONS,
                "json": OBJECTS | CONVERSATIONS,
                "mcp_tool_name": TEXT | ANYTHING,
                "mcp_tool_description": TEXT | ANYTHING,
                "mcp_input_schema": OBJECTS | ANYTHING,
                "mcp_arguments": OBJECTS | ANYTHING,
                "file_data": st.tuples(TEXT | ANYTHING, st.binary() | TEXT, TEXT) | ANYTHING,
            },
        )
    )
    subject = subject_of({**more, **data}, call_type, in_batch=in_batch)
    if subject is None:
        return
    payload_of(subject.content, bare=subject.bare)
    leaves = {
        path: text
        for path, text in string_leaves(subject.content).items()
        if not is_naming(path) and "name" not in path and not text.endswith("left out]")
    }
    if leaves:
        path = draw.draw(st.sampled_from(list(leaves)))
        apply_mask(subject.target, subject.content, {path: MARK})
        if subject.hand_back is not None:
            subject.hand_back(subject.target)
        assert string_leaves(subject.masked_content())[path] == MARK


@given(ANYTHING)
def test_an_answer_is_read_without_what_litellm_hides_in_it(answer: Any) -> None:
    body = answer_body(answer)
    payload_of(body)
    if isinstance(answer, dict):
        assert body == {key: value for key, value in answer.items() if not key.startswith("_")}


@given(ANYTHING)
@example([b"bytes"])
@example([io.BytesIO()])
@example({"content": [{"type": "input_audio", "input_audio": {"data": "A" * 300, "format": "wav"}}]})
@example({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 300}})
def test_nothing_is_left_out_of_what_holds_no_media(value: Any) -> None:
    if not may_hold_media(value):
        assert without_media(value) is value


@given(REQUESTS, REQUESTS, st.sampled_from(["messages", "prompt", "input", "system"]), ANYTHING)
@example({"messages": [{"role": "user", "content": 'x","prompt":"hidden'}]}, {"prompt": "hidden"}, "prompt", "hidden")
@example({"prompt": 'a "prompt":"b"'}, {"prompt": "b"}, "prompt", "b")
@example({"input": 'tail"'}, {"input": "tail"}, "input", "tail")
def test_a_call_that_repeats_the_checked_payload_has_nothing_new(
    checked: Any, attempt: Any, key: str, value: Any
) -> None:
    content = content_of(checked)
    if content is None:
        return
    known = exchange(1, payload_of(content))
    for call in (attempt, {**attempt, key: value}, {**checked, key: value}, checked):
        if is_repeated(call, known):
            assert unseen_part(content_of(call) or {}, strings_seen(known)) == {}
