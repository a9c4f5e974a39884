"""The lock files pin what setup.cfg asks for, everywhere to the same versions."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

#: Each lock file with the extras of setup.cfg that it contains.
LOCK_FILES = {
    "requirements.lock": ("build", "demo", "encryption", "postgresql"),
    "requirements-dev.lock": ("dev",),
    "requirements-release.lock": ("release",),
}


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    """setup.cfg, with the extras that refer to others resolved."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def requirements(text: str) -> list[Requirement]:
    """Return the requirements of a list in setup.cfg."""
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]


def pins(lock_file: str) -> dict[str, list[str]]:
    """Return the versions of each package in a lock file: several only where they depend on the Python version."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==([\w.!+]+)", (ROOT / lock_file).read_text(), re.M):
        found.setdefault(canonicalize_name(name), []).append(version)
    return found


@pytest.mark.parametrize("lock_file", LOCK_FILES)
def test_lock_file_satisfies_setup_cfg(lock_file: str, setup_cfg: configparser.ConfigParser) -> None:
    """Installing a lock file gives every requirement, in a version that setup.cfg allows: else run `make lock`."""
    wanted = requirements(setup_cfg["options"]["install_requires"])
    for extra in LOCK_FILES[lock_file]:
        wanted += requirements(setup_cfg["options.extras_require"][extra])
    pinned = pins(lock_file)
    for requirement in wanted:
        versions = pinned.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement.name} is not in {lock_file}"
        assert all(requirement.specifier.contains(version) for version in versions), (requirement, versions)


@pytest.mark.parametrize("lock_file", LOCK_FILES)
def test_every_pin_has_hashes(lock_file: str) -> None:
    """pip refuses a package whose file has none of the hashes; no index is named, so that any may serve the files."""
    text = (ROOT / lock_file).read_text()
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.M | re.I)[1:]
    assert len(blocks) == sum(map(len, pins(lock_file).values()))
    for block in blocks:
        assert "--hash=sha256:" in block, block.splitlines()[0]
    assert "://" not in text


def test_lock_files_agree() -> None:
    """What is tested, and what builds a release, are the versions that run."""
    base, dev, release = (pins(lock_file) for lock_file in LOCK_FILES)
    for name, versions in base.items():
        assert dev[name] == versions
        assert release.get(name, versions) == versions


def test_build_requirements_are_those_of_the_build_system(setup_cfg: configparser.ConfigParser) -> None:
    """The extra `build` pins what pyproject.toml needs."""
    listed = re.search(r"^requires = \[(.*)\]", (ROOT / "pyproject.toml").read_text(), re.M)
    assert listed is not None
    build_system = {str(Requirement(text.strip(' "'))) for text in listed[1].split(",")}
    assert build_system == {
        str(requirement) for requirement in requirements(setup_cfg["options.extras_require"]["build"])
    }
