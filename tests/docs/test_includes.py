"""What the site puts into a page can be found by whoever reads the page in a checkout."""

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT, pages

INCLUDE = re.compile(r'^ *--8<-- "([^"]+)"$', re.MULTILINE)
DOCSTRING = re.compile(r"^::: (\S+)$", re.MULTILINE)


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def source(name: str) -> str:
    """Return the path of the file that defines *name*, from the root of the checkout."""
    module, _, attribute = name.rpartition(".")
    try:
        defined: Any = import_module(name)
    except ModuleNotFoundError:
        defined = getattr(import_module(module), attribute)
    # An alias of a type knows no file of its own.
    known = inspect.ismodule(defined) or inspect.isclass(defined) or inspect.isfunction(defined)
    file = inspect.getfile(defined if known else import_module(module))
    return Path(file).resolve().relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "page", [page for page in pages() if INCLUDE.search(text(page))], ids=lambda p: p.stem
)
def test_a_page_names_the_file_that_it_includes(page: Path) -> None:
    """In its own words, beside the line that includes it."""
    words = INCLUDE.sub("", text(page))
    for included in INCLUDE.findall(text(page)):
        assert f"`{included}`" in words


@pytest.mark.parametrize(
    "page", [page for page in pages() if DOCSTRING.search(text(page))], ids=lambda p: p.stem
)
def test_a_section_of_docstrings_names_their_files(page: Path) -> None:
    """Each section says in which files of the checkout its entries are."""
    for section in re.split(r"^(?=##+ )", text(page), flags=re.MULTILINE):
        for name in DOCSTRING.findall(section):
            assert f"`{source(name)}`" in section, name
