"""Every place in a body where a stored object can be named is found, and hardly anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.protocol.responses.references import FormFields, outer_references_in, references_in
from ocm_wsgi.protocol.responses.request import request_facts

FILE = "file-0123456789abcdef"
RESPONSE = "resp_0123456789abcdef"
STORE = "vs_0123456789abcdef"
TEXT = {"type": "input_text", "text": f"What is {FILE}?"}

NAMED: dict[str, tuple[dict[str, Any], set[str]]] = {
    "previous response": ({"previous_response_id": RESPONSE}, {RESPONSE}),
    "ID of an unknown form": ({"previous_response_id": "x"}, {"x"}),
    "another case": ({"Previous_Response_ID": RESPONSE}, {RESPONSE}),
    "conversation": ({"conversation": "conv_1"}, {"conv_1"}),
    "conversation as an object": ({"conversation": {"id": "conv_1"}}, {"conv_1"}),
    "prompt of the owner": ({"prompt": {"id": "pmpt_1", "variables": {"a": "b"}}}, {"pmpt_1"}),
    "file of an input": ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": FILE}]}]}, {FILE}),
    "image of an input": ({"input": [{"type": "message", "content": [TEXT, {"file_id": "f"}]}]}, {"f"}),
    "file of a tool's output": (
        {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"file_id": FILE}]}]},
        {FILE},
    ),
    "variable of a prompt": ({"prompt": {"id": "p", "variables": {"v": {"file_id": "f"}}}}, {"p", "f"}),
    "vector stores": ({"tools": [{"type": "file_search", "vector_store_ids": [STORE, "vs_2"]}]}, {STORE, "vs_2"}),
    "container": ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, {"cntr_1"}),
    "files of a container": ({"tools": [{"container": {"type": "auto", "file_ids": [FILE]}}]}, {FILE}),
    "item": ({"input": [{"type": "item_reference", "id": "msg_1"}]}, {"msg_1"}),
    "item without a type": ({"input": [{"id": "msg_1"}]}, {"msg_1"}),
    "reasoning to be looked up": ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, {"rs_1"}),
    "image to be looked up": ({"input": [{"type": "image_generation_call", "id": "ig_1"}]}, {"ig_1"}),
    "item of an unknown type": ({"input": [{"type": "novel", "id": "nv_1", "text": "x"}]}, {"nv_1"}),
    "batch": ({"input_file_id": FILE, "endpoint": "/v1/responses"}, {FILE}),
    "training": ({"training_file": "f1", "validation_file": "f2", "model": "m"}, {"f1", "f2"}),
    "thread": (
        {"assistant_id": "asst_1", "thread": {"messages": [{"attachments": [{"file_id": "f"}]}]}},
        {"asst_1", "f"},
    ),
    "tool resources": ({"tool_resources": {"file_search": {"vector_store_ids": ["v"]}}}, {"v"}),
    "file of a chat": ({"messages": [{"role": "user", "content": [{"file": {"file_id": "f"}}]}]}, {"f"}),
    "audio of a chat": ({"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, {"audio_1"}),
    "reference": ({"input_reference": FILE, "files": [FILE, "x"]}, {FILE}),
    "unknown member": ({"file_id": None, "reference": FILE}, {FILE}),
    "eval": ({"data_source": {"source": {"type": "file_id", "id": "f"}}}, {"f"}),
}
HARMLESS: dict[str, dict[str, Any]] = {
    "text": {"input": FILE, "instructions": RESPONSE},
    "lane": {
        "stream_id": "main",
        "background_options": {"continuation_id": "mine"},
        "input": [{"caller_id": "call_1"}],
    },
    "messages": {"messages": [{"role": "user", "content": FILE}, {"role": "tool", "tool_call_id": "call_1"}]},
    "calls": {"messages": [{"tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f"}}]}]},
    "schema": {
        "tools": [{"type": "function", "name": "f", "parameters": {"properties": {"file_id": {"enum": ["x"]}}}}]
    },
    "metadata": {"metadata": {"file_id": FILE}, "client_metadata": {"thread_id": "t"}},
    "schema of a server": {
        "input": [{"type": "mcp_list_tools", "tools": [{"input_schema": {"default": {"file_id": "f"}}}]}]
    },
    "name of a file": {"input": [{"content": [{"filename": "file_20261129_report", "file_data": "data:"}]}]},
    "nothing": {"previous_response_id": None, "conversation": None},
    "automatic container": {
        "tools": [{"type": "code_interpreter", "container": {"type": "auto"}}, {"container": "auto"}]
    },
    "items with their content": {
        "input": [
            {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
            {"role": "user", "id": "msg_2", "content": "a"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"},
            {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "id": "fo_1", "call_id": "call_1", "output": "ok"},
        ]
    },
}


@pytest.mark.parametrize("case", NAMED)
def test_references(case: str) -> None:
    """Each is found, alone and among what Codex usually sends."""
    document, expected = NAMED[case]
    assert references_in(document) == expected
    assert references_in({**HARMLESS["schema"], "instructions": "x", **document}) == expected


@pytest.mark.parametrize("case", HARMLESS)
def test_no_references(case: str) -> None:
    """Texts, schemas, metadata and items that are complete refer to nothing."""
    assert references_in(HARMLESS[case]) == frozenset()
    assert outer_references_in(HARMLESS[case]) == frozenset()


@pytest.mark.parametrize(
    "case", ["previous response", "conversation", "prompt of the owner", "file of an input", "image of an input"]
)
def test_outer_references(case: str) -> None:
    """Where nothing is stored, what a turn continues and its files are found, and items are not looked at."""
    document, expected = NAMED[case]
    assert outer_references_in(document) == expected
    assert outer_references_in({"input": [{"type": "reasoning", "id": "rs_1"}]}) == frozenset()


@pytest.mark.parametrize("size", [0, 2_000_000], ids=["small", "large"])
@pytest.mark.parametrize(
    ("first", "second"), [('"file_id": "f"', '"file_id": null'), ('"file_id": null', '"file_id": "f"')]
)
def test_repeated_members_all_count(first: str, second: str, size: int) -> None:
    """Whichever of two upstream takes, it is among those found; at the top level the body is not read at all."""
    inner = f'{{"input": [{{"content": [{{{first}, {second}}}]}}], "x": "{"y" * size}"}}'.encode()
    assert request_facts([inner], find_references=references_in).references == {"f"}
    outer = f'{{{first}, {second}, "x": "{"y" * size}"}}'.encode()
    assert request_facts([outer], find_references=references_in).unread


@pytest.mark.parametrize("size", [0, 2_000_000], ids=["small", "large"])
def test_encoded_names_and_values_are_found(size: int) -> None:
    """JSON's escapes hide nothing."""
    body = ('{"x": "%s", "previous\\u005fresponse_id": "resp\\u005f1"}' % ("y" * size)).encode()
    assert request_facts([body], find_references=references_in).references == {"resp_1"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.lists(st.sampled_from(["a", "tools", "input", "content", 0]), max_size=4))
def test_a_reference_is_found_wherever_it_is(around: Any, path: list[str | int]) -> None:
    """No nesting of objects and lists hides it."""
    value: Any = {"file_id": "f"}
    for step in path:
        value = [around, value] if step == 0 else {"before": around, step: value}
    assert "f" in references_in({"body": value})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("file_id", True),
        ("file_ids[]", True),
        ("video[id]", True),
        ("model", True),
        ("file", False),
        ("metadata[a]", False),
    ],
)
def test_form_fields(name: str, expected: bool) -> None:
    """A field of a form names a stored object as a member of JSON does."""
    assert (name in FormFields(("model",))) is expected


def test_forms_refer_to_objects_too() -> None:
    """The fields of a form are read, whatever brackets are in their names."""
    part = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    body = (part.format("file_id", "f") + part.format("video[id]", "v") + "--b--\r\n").encode()
    assert request_facts([body], media_type="multipart/form-data; boundary=b").references == {"f", "v"}
    encoded = request_facts([b"file_id=f&x=1"], media_type="application/x-www-form-urlencoded")
    assert encoded.references == {"f"}


def test_facts_of_storage() -> None:
    """What is stored and what runs in the background is known."""
    for store in (True, False, None):
        body = json.dumps({"store": store, "background": store}).encode()
        facts = request_facts([body])
        assert (facts.store, facts.is_background) == (store, store is True)
