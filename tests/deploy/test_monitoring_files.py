"""The alert rules, the Grafana dashboard and the documentation use existing metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ocm_wsgi.simulator import Plan, Simulator
from tests.accounting.test_ledger import wait_until
from tests.conftest import ALICE, REPOSITORY, start_service

RULES = REPOSITORY / "deploy" / "prometheus-rules.yml"
DASHBOARD = REPOSITORY / "deploy" / "grafana.json"
MONITORING = REPOSITORY / "docs" / "monitoring.md"
METRIC = re.compile(r"\bocm_[a-z0-9_]+")


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The names of all samples of a running service, each with the names of its labels."""
    folder = tmp_path_factory.mktemp("names") / "service"
    users = [{"name": "alice", "token": ALICE, "admin": True}]
    with (
        Simulator() as simulator,
        start_service(simulator, folder, user_entries=users, workers=1) as running,
        requests.Session() as session,
    ):
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {ALICE}"
        for plan in (Plan(), Plan(terminal="failed")):
            simulator.plan(plan)
            body = {"model": "gpt-5.5", "stream": True, "input": "hi"}
            session.post(f"{running.url}/v1/responses", json=body, timeout=20)
        # A worker counts what has ended in batches, shortly after it has ended.
        wait_until(lambda: 'status="failed"' in session.get(f"{running.url}/metrics", timeout=20).text)
        text = session.get(f"{running.url}/metrics", timeout=20).text
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def expressions(value: Any) -> Iterator[str]:
    """Yield all queries of a dashboard or of rules, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("expr", "query") and isinstance(inner, str):
                yield inner
            else:
                yield from expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from expressions(inner)


QUERIES = [
    *expressions(yaml.safe_load(RULES.read_text(encoding="utf-8"))),
    *expressions(json.loads(DASHBOARD.read_text(encoding="utf-8"))),
]


def test_queries_exist() -> None:
    """Both files have queries, so that the next tests are not empty."""
    assert len([query for query in QUERIES if METRIC.search(query)]) > 30


@pytest.mark.parametrize("query", [query for query in QUERIES if METRIC.search(query)])
def test_queries_use_existing_metrics_and_labels(families: dict[str, set[str]], query: str) -> None:
    """No panel and no alert queries a metric or label that does not exist."""
    assert set(METRIC.findall(query)) <= families.keys()
    for name, selector in re.findall(r"\b(ocm_[a-z0-9_]+)\{([^}]*)\}", query):
        used = set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", selector))
        assert used <= families[name] | {"job", "instance"}, name


def test_exactly_the_existing_metrics_are_documented(families: dict[str, set[str]]) -> None:
    """The tables of docs/monitoring.md have each metric with its labels."""
    rows = re.findall(r"^\| `(ocm_[a-z0-9_]+)` \| (.*?) \|", MONITORING.read_text(encoding="utf-8"), re.MULTILINE)
    documented = {name: set(re.findall(r"`([a-z]+)`", labels)) for name, labels in rows}
    parts = ("_bucket", "_sum", "_count")
    shown = {name: labels for name, labels in families.items() if not name.endswith(parts)}
    shown |= {name.removesuffix("_sum"): labels for name, labels in families.items() if name.endswith("_sum")}
    assert documented == shown


def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    """Prometheus accepts the rules, and they fire when they should."""
    shutil.copy(RULES, tmp_path)
    shutil.copy(Path(__file__).with_name("rules.yml"), tmp_path)
    for command in (["check", "rules", RULES.name], ["test", "rules", "rules.yml"]):
        done = subprocess.run(["promtool", *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_dashboard_panels_do_not_overlap() -> None:
    """Panels have distinct IDs and do not overlap."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
