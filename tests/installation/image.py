"""Builds the image as a plain user, on a base that was made here, and without a network."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import ocm_wsgi
from ocm_wsgi.simulator import Simulator
from tests.installation.container import HARDENING, upstream
from tests.installation.debian import program
from tests.installation.rootless import Rootless
from tests.wheels import REPOSITORY, set_version

#: What the Containerfile copies, and what decides about it.
_CONTEXT = (
    *("Containerfile", ".containerignore", "pyproject.toml", "setup.cfg", "requirements.lock"),
    *("README.md", "LICENSE", "compose.yaml", "deploy", "ocm_wsgi"),
)


def import_tree(rootless: Rootless, tree: Path, name: str, *, changes: tuple[str, ...] = ()) -> str:
    """Make an image of one layer from a tree, and return its name.

    :param changes: instructions of a Containerfile, such as ``CMD``.
    """
    options = [option for change in changes for option in ("--change", change)]
    target = f"localhost/{name}:latest"
    tar = [program("tar"), "--directory", str(tree), "--exclude=./proc/*", "--exclude=./dev/*", "--create", "."]
    with subprocess.Popen(tar, stdout=subprocess.PIPE) as packing:
        command = rootless.command("podman", "import", "--quiet", *options, "-", target)
        subprocess.run(command, stdin=packing.stdout, check=True, timeout=300, stdout=subprocess.DEVNULL)
    assert packing.returncode == 0
    return target


def build_image(rootless: Rootless, base_image: str, wheels: Path, *, version: str) -> str:
    """Build the Containerfile, and return the name of the image.

    :param wheels: in place of the network.
    :param version: of the package; another one than this stands for another release.
    """
    context = rootless.folder / f"context-{version}"
    context.mkdir()
    for name in _CONTEXT:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, context / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, context / name)
    if version != ocm_wsgi.__version__:
        set_version(context, version)
    available = rootless.folder / "wheels"
    if not available.exists():
        shutil.copytree(wheels, available)
    for path in (context, available):
        rootless.give(path)
    target = f"localhost/ocm-wsgi:{version}"
    arguments = {"PYTHON_IMAGE": base_image, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/mnt"}
    options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    # Layers: the next release differs in its last steps only.
    build = ["build", "--quiet", "--layers", "--format=docker", "--network=none", f"--volume={available}:/mnt:ro"]
    rootless.podman(*build, *options, f"--tag={target}", context, timeout_seconds=600)
    return target


def ocm_command(rootless: Rootless, image: str, volume: str, simulator: Simulator, *arguments: str) -> str:
    """Run a command of ``ocm`` in a container of its own, and return what it printed."""
    # On this machine's network, as a credential is only ever sent without TLS where it does not leave the machine.
    variables = [f"--env={key}={value}" for key, value in upstream(simulator, shares_network=True).items()]
    where = [f"--volume={volume}:/var/lib/ocm", "--network=host"]
    return rootless.podman("run", "--rm", *HARDENING, *where, *variables, image, *arguments)


def token_of(printed: str) -> str:
    """Return the bearer token that ``ocm add-user`` printed."""
    tokens: set[str] = set(re.findall(r"sk-ocm-[\w-]+", printed))
    (token,) = tokens
    return token
