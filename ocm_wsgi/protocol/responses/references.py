"""Finds the stored objects that a request body refers to. Pure; no I/O.

A body can name another user's object in many places: ``previous_response_id``, ``conversation``, the files of an input,
the vector stores and the container of a tool, the input file of a batch. So every member is examined, wherever it is.
Its name says whether its value is an ID; else, in a body that has members of such names, the value itself does, if it
looks like one. What only looks like one is refused to a user although upstream would have taken it for text, but that
costs nobody a secret.

Most bodies have no member of such a name. One pass over the names finds that out, without looking at any value.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any

# Members whose content upstream does not interpret: the user's own data, schemas of functions, and their arguments.
_OPAQUE = frozenset(
    {
        "arguments",
        "client_metadata",
        "input_schema",
        "item",
        "item_schema",
        "logit_bias",
        "metadata",
        "parameters",
        "schema",
    }
)

# Members with these names are IDs of objects that are always used together with one that is checked, or of none at all.
_NO_OBJECTS = frozenset(
    {
        "approval_request_id",
        "call_id",
        "caller_id",
        "connector_id",
        "continuation_id",
        "custom_id",
        "item_id",
        "organization_id",
        "part_ids",
        "project_id",
        "stream_id",
        "tool_call_id",
        "user_id",
    }
)

# Members that are IDs, or objects that have one, beside all those whose names end in `_id` or `_ids`.
_OBJECTS = frozenset({"container", "conversation", "id", "training_file", "validation_file"})
_ID_SUFFIXES = ("_id", "_ids")

# Members with such names may be IDs too, which their values tell.
_SUSPICIOUS_SUFFIXES = ("file", "files", "reference", "references")

# Members that are objects with an ID and nothing else.
_WITH_ID = frozenset({"conversation", "prompt"})

# Those of all names that :func:`outer_references_in` looks for.
_OUTER = frozenset({"conversation", "file_id", "file_ids", "previous_response_id", "prompt"})

# Strings that are text wherever they occur, so that an ID in them is only mentioned.
_TEXTS = frozenset(
    {
        "content",
        "description",
        "filename",
        "input",
        "instructions",
        "model",
        "name",
        "output",
        "prompt",
        "text",
        "title",
        "type",
    }
)

_BRACKETS = re.compile(r"[\[\].]+")

# The prefixes of the IDs of stored objects, with the separator behind them and what follows.
_LOOKS_LIKE_ID = re.compile(
    r"(?:asst|batch|cfile|chatcmpl|cntr|conv|eval|evalrun|file|ft|ftckpt|ftjob|pmpt|resp|run|skill|thread|upload|video|vs|"
    r"vsfb)[-_][A-Za-z0-9_-]{8,}"
)

# A container that upstream creates or selects itself.
_AUTOMATIC = "auto"

# Items of an input may carry IDs that earlier answers gave to them. Upstream looks such an item up only if its own
# content is missing. By type, the member that is the content.
_CONTENT_BY_TYPE = {
    "apply_patch_call": "operation",
    "apply_patch_call_output": "output",
    "code_interpreter_call": "code",
    "compaction": "encrypted_content",
    "computer_call": "action",
    "computer_call_output": "output",
    "custom": "custom",
    "custom_tool_call": "input",
    "custom_tool_call_output": "output",
    "file_search_call": "queries",
    "function": "function",
    "function_call": "arguments",
    "function_call_output": "output",
    "image_generation_call": "result",
    "local_shell_call": "action",
    "local_shell_call_output": "output",
    "mcp_approval_request": "arguments",
    "mcp_call": "arguments",
    "mcp_list_tools": "tools",
    "message": "content",
    "reasoning": "encrypted_content",
    "shell_call": "action",
    "shell_call_output": "output",
    "web_search_call": "action",
}

_Members = Iterable[tuple[str, Any]]

#: Finds the references in a body.
FindReferences = Callable[[Mapping[str, Any]], frozenset[str]]


def references_in(document: Mapping[str, Any]) -> frozenset[str]:
    """Return the IDs of all stored objects that a parsed body refers to.

    :param document: parsed JSON. An object may also be a list of pairs, in which names may repeat; all of them count.
    """
    names = _names_in(document)
    if not any(map(_may_be_reference, names)):
        return frozenset()
    return frozenset(_references(document, "", with_items=True))


def outer_references_in(document: Mapping[str, Any]) -> frozenset[str]:
    """Return the IDs of what a turn continues, and of the files of its input, but not of the items of its input.

    Enough where upstream stores no responses, as for ChatGPT sign-ins, and quicker: each item of the input may have an
    ID there.
    """
    names = set(document)
    items = document.get("input")
    for item in items if isinstance(items, list) else ():
        if type(item) is dict:
            names.update(item)
            content = item.get("content")
            if type(content) is list:
                names.update(*[part for part in content if type(part) is dict])
    if names.isdisjoint(_OUTER):
        return frozenset()
    return frozenset(_references(document, "", with_items=False))


def no_references_in(_document: Mapping[str, Any]) -> frozenset[str]:
    """Return nothing: for requests that may refer to everything."""
    return frozenset()


class FormFields(Container[str]):
    """The names of a form's fields that are IDs of stored objects, such as ``file_id`` and ``video[id]``, and others.

    :param others: the other names.
    """

    def __init__(self, others: Container[str]) -> None:
        self._others = others

    def __contains__(self, name: object) -> bool:
        return name in self._others or (isinstance(name, str) and is_reference_field(name))


def is_reference_field(name: str) -> bool:
    """Return whether the field of a form that has this name is an ID of a stored object."""
    *_, last = [part for part in _BRACKETS.split(name) if part] or [""]
    return _is_reference(last)


@functools.lru_cache(maxsize=4096)
def _is_reference(name: str) -> bool:
    # Some parsers ignore the case of names.
    name = name.casefold()
    return name in _OBJECTS or (name.endswith(_ID_SUFFIXES) and name not in _NO_OBJECTS)


@functools.lru_cache(maxsize=4096)
def _may_be_reference(name: str) -> bool:
    return _is_reference(name) or name.casefold().endswith(_SUSPICIOUS_SUFFIXES)


def _names_in(document: Any) -> set[str]:
    """Return the names of all members that are not opaque, and of their members."""
    names: set[str] = set()
    nodes = [document]
    # Level by level, because sets and comprehensions take less time than a loop over all members.
    while nodes:
        objects = [node for node in nodes if type(node) is dict]
        names.update(*objects)
        inner = [value for node in nodes if type(node) is not dict for value in _inner(node, names)]
        inner += [
            value
            for each in objects
            for name, value in each.items()
            if not (type(value) is str or value is None) and isinstance(value, (dict, list)) and name not in _OPAQUE
        ]
        nodes = inner
    return names


def _inner(node: Any, names: set[str]) -> list[Any]:
    """Return the objects and lists in a list, or in an object that is a list of pairs; note the names of such pairs."""
    if _is_pairs(node):
        names.update(name for name, _ in node)
        return [value for name, value in node if isinstance(value, (dict, list)) and name not in _OPAQUE]
    return [value for value in node if isinstance(value, (dict, list))]


def _is_pairs(node: Any) -> bool:
    return isinstance(node, list) and bool(node) and type(node[0]) is tuple


def _members(node: Any) -> _Members | None:
    """Return the members of an object, or ``None`` for any other value."""
    if isinstance(node, Mapping):
        return node.items()
    return node if _is_pairs(node) else None


def _references(node: Any, name: str, *, with_items: bool) -> Iterator[str]:
    """Yield the references in a value.

    :param name: of the member that the value is, or is in a list of.
    """
    members = _members(node)
    if members is not None:
        yield from _references_of_members(list(members), name, with_items=with_items)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value, name, with_items=with_items)
    elif isinstance(node, str) and node and _names_object(name, node):
        yield node


def _references_of_members(members: list[tuple[str, Any]], outer: str, *, with_items: bool) -> Iterator[str]:
    by_name = dict(members)
    for name, value in members:
        if name.casefold() == "id":
            is_item = outer not in _WITH_ID
            if isinstance(value, str) and value and (with_items or not is_item) and not _has_content(by_name):
                yield value
        elif name not in _OPAQUE or isinstance(value, str):
            yield from _references(value, name, with_items=with_items)


def _names_object(name: str, value: str) -> bool:
    if name.casefold() == "container" and value == _AUTOMATIC:
        return False
    if _is_reference(name):
        return True
    return name not in _TEXTS and name not in _NO_OBJECTS and _LOOKS_LIKE_ID.fullmatch(value) is not None


def _has_content(members: Mapping[str, Any]) -> bool:
    """Return whether an object that has an ID has its content too, so that upstream need not look it up."""
    type_ = members.get("type") or ("message" if "role" in members else None)
    return isinstance(type_, str) and bool(members.get(_CONTENT_BY_TYPE.get(type_, "")))
