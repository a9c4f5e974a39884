"""The pages of docs/ as a site, and the README: links and anchors lead somewhere, and nothing is asked of others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Links and anchors that lead nowhere are among the warnings that end the build."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "properdocs", "build", "--strict", "--site-dir", str(folder)]
    # No proxy is there, so that whatever asks the network for something fails.
    environ = {**os.environ, "HTTP_PROXY": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1"}
    built = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    warnings = [line for line in built.stderr.splitlines() if line.startswith(("WARNING", "ERROR"))]
    assert (built.returncode, warnings) == (0, []), built.stderr
    return folder


def test_every_page_is_in_the_navigation(site: Path) -> None:
    """From the first page each other one can be reached by the menu, without being named in properdocs.yml."""
    menu = (site / "index.html").read_text(encoding="utf-8").partition('role="main"')[0]
    pages = [page.stem for page in (ROOT / "docs").glob("*.md") if page.name != "index.md"]
    assert pages
    assert [page for page in pages if f'href="{page}.html"' not in menu] == []


def test_nothing_comes_from_another_server(site: Path) -> None:
    """No script, style, font or picture of the site is somebody else's."""
    markup = "".join(page.read_text(encoding="utf-8") for page in site.glob("*.html"))
    loaded = re.findall(r"<(?:script|img|iframe)[^>]*\bsrc=\"([^\"]*)|<link[^>]*\bhref=\"([^\"]*)", markup)
    assert loaded
    assert [url for urls in loaded for url in urls if re.match(r"(?:https?:)?//", url)] == []


def test_links_of_the_readme() -> None:
    """What the README links to in this repository is there, and so is the place in it."""
    targets = re.findall(r"\]\((?!https?://)([^)#]+)(?:#([^)]*))?\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert targets
    assert [path for path, _ in targets if not (ROOT / path).exists()] == []
    assert [target for target in targets if target[1] and target[1] not in anchors(ROOT / target[0])] == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them of plain words."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
