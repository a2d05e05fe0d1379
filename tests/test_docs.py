"""The pages are executed: Python blocks run, recipe names exist, internal links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
RECIPE = re.compile(r"--config[ =]([a-z_0-9]+/[a-z_0-9/]+)(?![\w.])|\| `([a-z_0-9]+/[a-z_0-9/]+)` \|")
LINK = re.compile(r"\]\(([^)\s]+)\)")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(text):
    return [body for info, body in BLOCK.findall(text) if info.strip() == "python"]


def recipes(text):
    return {first or second for first, second in RECIPE.findall(text)}


def links(text):
    return [link for link in LINK.findall(BLOCK.sub("", text)) if not re.match(r"[a-z]+:|#", link)]


@every_page
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__docs__"}
    for number, body in enumerate(blocks(page.read_text()), start=1):
        exec(compile(body, f"{page.name}, block {number}", "exec"), namespace)


@every_page
def test_named_recipes_exist(page):
    assert [name for name in recipes(page.read_text()) if not (ROOT / "recipes" / f"{name}.yaml").is_file()] == []


@every_page
def test_internal_links_resolve(page):
    assert [link for link in links(page.read_text()) if not (page.parent / link.split("#")[0]).exists()] == []


def test_what_is_read_from_a_page():
    text = "[a](b.md) [c](https://d)\n```python\nx = 1\n```\n```python notest\ny\n```\n"
    text += "`f --config p/q` | `r/s` |\n| `r/s` |\n"
    assert blocks(text) == ["x = 1\n"]
    assert recipes(text) == {"p/q", "r/s"}
    assert links(text) == ["b.md"]
