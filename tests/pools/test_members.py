"""Members of pools are ChatGPT accounts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ocm_wsgi.config import Config, load
from ocm_wsgi.errors import ConfigurationError
from ocm_wsgi.pools.members import require_subscriptions
from ocm_wsgi.server import hooks
from ocm_wsgi.simulator import Simulator


def config(folder: Path) -> Config:
    """Return the configuration of two accounts, and of two pools of which one contains both."""
    entries = [
        {"tag": "a", "credential_path": "a.json"},
        {"type": "balancer", "tag": "one", "credentials": "a"},
        {"tag": "b", "credential_path": "b.json"},
        {"type": "balancer", "tag": "both", "credentials": ["a", "b"]},
    ]
    (folder / "ocm.json").write_text(json.dumps({"credentials": entries}))
    return load({"HOME": str(folder)}, folder)


def test_an_api_key_is_refused_at_the_start(tmp_path: Path, simulator: Simulator) -> None:
    """By the pool and the member, and never with the key."""
    loaded, key = config(tmp_path), simulator.api_key()
    (tmp_path / "a.json").write_text(json.dumps(simulator.credential()))
    (tmp_path / "b.json").write_text(json.dumps({"OPENAI_API_KEY": key}))
    with pytest.raises(ConfigurationError) as refusal:
        require_subscriptions(loaded)
    (problem,) = refusal.value.problems
    assert problem.where == "$..credentials[3].credentials"
    assert '"b"' in problem.found
    assert key not in str(refusal.value)
    with pytest.raises(ConfigurationError):
        hooks._prepare(loaded)


def test_what_cannot_be_read_yet_is_accepted(tmp_path: Path, simulator: Simulator) -> None:
    """Accounts are signed in later, and repaired."""
    loaded = config(tmp_path)
    (tmp_path / "a.json").write_text("half a fi")
    require_subscriptions(loaded)
    (tmp_path / "a.json").write_text(json.dumps(simulator.credential()))
    require_subscriptions(loaded)
