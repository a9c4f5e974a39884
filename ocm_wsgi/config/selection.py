"""Finds the service in a document: either a whole sing-box configuration or just its entry of type ``ocm``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ocm_wsgi.config.paths import JsonPath, json_path
from ocm_wsgi.config.service import Service
from ocm_wsgi.errors import ConfigProblem

_BESIDE_THE_ENTRY = ("outbounds", "certificate")
# Any of these without "services" indicates a sing-box file without an OCM service.
_SING_BOX_KEYS = frozenset({"log", "dns", "ntp", "endpoints", "inbounds", "route", "experimental"})


@dataclass(frozen=True)
class Selection:
    """The relevant parts of a document, unvalidated.

    :ivar members: the keys of the ocm entry.
    :ivar path: the location of the entry.
    """

    members: Mapping[str, Any] = field(default_factory=dict)
    path: JsonPath = ()
    outbounds: Any = None
    certificate: Any = None
    problems: tuple[ConfigProblem, ...] = ()


def select(document: Any) -> Selection:
    """Return the service's entry and the top-level keys that apply to it."""
    if not isinstance(document, dict):
        expected = "an object: a sing-box configuration, or its entry of type ocm"
        return Selection(problems=(ConfigProblem("$", "a value that is not an object", expected),))
    if "services" in document:
        return _from_sing_box(document)
    if other_keys := sorted(_SING_BOX_KEYS & document.keys()):
        found = f"a sing-box configuration ({', '.join(other_keys)}) without services"
        return Selection(problems=(ConfigProblem("$", found, "services with one entry of type ocm"),))
    return _from_entry(document)


def _from_entry(document: Mapping[str, Any]) -> Selection:
    problems = []
    if document.get("type", "ocm") != "ocm":
        problems.append(ConfigProblem("$.type", "another type of service", '"ocm"'))
    return Selection(
        members=_keys_of_service(document, (*_BESIDE_THE_ENTRY, "type", "tag")),
        outbounds=document.get("outbounds"),
        certificate=document.get("certificate"),
        problems=tuple(problems),
    )


def _from_sing_box(document: Mapping[str, Any]) -> Selection:
    services = document["services"]
    if not isinstance(services, list):
        return Selection(
            problems=(ConfigProblem("$.services", "a value that is not a list", "a list with one entry of type ocm"),)
        )
    indexes = [i for i, entry in enumerate(services) if isinstance(entry, dict) and entry.get("type") == "ocm"]
    misplaced = [
        ConfigProblem(json_path((key,)), f"{key} beside services", f"{key} inside the entry of type ocm, or nothing")
        for key in document
        if key in Service.model_fields
    ]
    if len(indexes) != 1:
        found = "no entry of type ocm" if not indexes else f"{len(indexes)} entries of type ocm (at {indexes})"
        return Selection(problems=(ConfigProblem("$.services", found, "exactly one entry of type ocm"), *misplaced))
    path: JsonPath = ("services", indexes[0])
    entry = services[indexes[0]]
    misplaced += [
        ConfigProblem(json_path((*path, key)), f"{key} inside the entry", f"{key} at the top level of the file")
        for key in _BESIDE_THE_ENTRY
        if key in entry
    ]
    return Selection(
        members=_keys_of_service(entry, (*_BESIDE_THE_ENTRY, "type", "tag")),
        path=path,
        outbounds=document.get("outbounds"),
        certificate=document.get("certificate"),
        problems=tuple(misplaced),
    )


def _keys_of_service(members: Mapping[str, Any], left_out: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in members.items() if key not in left_out}
