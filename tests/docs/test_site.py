"""The site: it builds without a warning, no link is dead, and who searches finds."""

import json
import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from tests.docs.pages import ROOT, pages

QUERIES = {
    "ctrl-c": "how-to/resume-a-run",
    "resume": "how-to/resume-a-run",
    "budget": "how-to/set-budgets",
    "ollama": "how-to/use-your-endpoint",
    "vllm": "tutorial/first-real-model",
    "rate limit": "how-to/run-within-limits",
    "exit codes": "reference/errors",
    "red flags": "how-to/troubleshoot",
    "choose k": "how-to/choose-k",
    "notebook": "how-to/embed-in-an-application",
    "fastapi": "how-to/embed-in-an-application",
    "idempotency key": "how-to/write-a-process",
    "crash": "explanation/durability",
    "schema": "reference/schema",
    "verify": "how-to/audit-a-run",
    "speculation": "explanation/speculation",
    "escalate": "how-to/escalate-and-settle",
    "publish plugin": "how-to/write-test-publish-a-plugin",
    "calibrate": "how-to/choose-k",
    "datasette": "how-to/audit-with-sql",
    "FaultyServer": "how-to/test-your-application",
    "correlated errors": "explanation/why-voting",
    "keys": "explanation/security-model",
}


class _Page(HTMLParser):
    """Links and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note where a tag leads, and what it can be led to by."""
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.links.append(value)
            elif value and name in ("id", "name"):
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    warned: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warned.append(record.getMessage())

    logger, handler = logging.getLogger("mkdocs"), Keep(logging.WARNING)
    logger.addHandler(handler)
    try:
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(place)))
    finally:
        logger.removeHandler(handler)
    assert warned == []
    return place


@pytest.mark.slow  # to build the site
@pytest.mark.filterwarnings("ignore")
def test_no_link_is_dead(site: Path) -> None:
    """Whatever a page links to within the site is there, with its anchor."""
    found = {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    dead: list[str] = []
    for path, page in found.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            there = target.exists()
            if there and parts.fragment and target in found:
                there = unquote(parts.fragment) in found[target].anchors
            if not there:
                dead.append(f"{path.relative_to(site)}: {link}")
    assert dead == []


def test_no_link_of_the_readme_is_dead() -> None:
    """The README and the other pages beside it link to files that are there."""
    for name in ("README.md", "CONTRIBUTING.md", "examples/README.md", "benchmarks/README.md"):
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
        local = [link for link in links if link and ":" not in link]
        assert [link for link in local if not (page.parent / link).exists()] == [], name


@pytest.mark.slow  # to build the site
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("query", list(QUERIES))
def test_who_searches_finds(site: Path, query: str) -> None:
    """The page one looks for is among the first ten whose section has all the words, titles first."""
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    words = re.findall(r"[\w-]+", query.lower())
    scores: dict[str, float] = {}
    for entry in index["docs"]:
        title, text = entry["title"].lower(), re.sub(r"<[^>]+>", " ", entry["text"]).lower()
        if all(word[:7] in title or word[:7] in text for word in words):
            page = entry["location"].partition("#")[0].rstrip("/")
            score = sum(
                20 * (word[:7] in title) + text.count(word[:7]) / (20 + len(text) / 50) for word in words
            )
            scores[page] = scores.get(page, 0.0) + score
    assert QUERIES[query] in sorted(scores, key=lambda page: -scores[page])[:10]


@pytest.mark.parametrize(
    "page", [page for page in pages()[1:] if page.parent.name != "decisions"], ids=lambda page: page.stem
)
def test_every_page_says_what_it_is_about(page: Path) -> None:
    """Its description stands in front, for search engines and for `llms.txt`."""
    assert re.match(r"---\ndescription: .{20,}\n", page.read_text(encoding="utf-8"))
    told = (ROOT / "docs" / "llms.txt").read_text(encoding="utf-8")
    assert page.relative_to(ROOT / "docs").with_suffix("").as_posix().removesuffix("index") in told


@pytest.mark.slow
def test_the_plots_are_fresh() -> None:
    """`python docs/plots.py` draws what is there already."""
    import runpy

    drawn = runpy.run_path(str(ROOT / "docs" / "plots.py"))["PLOTS"]
    for name, plot in drawn.items():
        assert plot() == (ROOT / "docs" / "images" / f"{name}.svg").read_text(encoding="utf-8")
