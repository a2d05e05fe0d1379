"""The pages are executed: Python blocks run, titled blocks are files beside them, recipe names exist, internal links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r'\btitle="([^"]+)"')
RECIPE = re.compile(r"--config[ =]([a-z_0-9]+/[a-z_0-9/]+)(?![\w.])|\| `([a-z_0-9]+/[a-z_0-9/]+)` \|")
LINK = re.compile(r"\]\(([^)\s]+)\)")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(text):
    return [body for info, body in BLOCK.findall(text) if info.strip() == "python"]


def files(text):
    """Name -> contents of the blocks that a page shows as files."""
    titled = [(TITLE.search(info), body) for info, body in BLOCK.findall(text)]
    return {title[1]: body for title, body in titled if title}


def recipes(text):
    return {first or second for first, second in RECIPE.findall(text)}


def links(text):
    return [link for link in LINK.findall(BLOCK.sub("", text)) if not re.match(r"[a-z]+:|#", link)]


@every_page
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, body in files(page.read_text()).items():
        (tmp_path / name).write_text(body)
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
    text += '```yaml title="z.yaml"\na: 1\n```\n'
    text += "`f --config p/q` | `r/s` |\n| `r/s` |\n"
    assert blocks(text) == ["x = 1\n"]
    assert files(text) == {"z.yaml": "a: 1\n"}
    assert recipes(text) == {"p/q", "r/s"}
    assert links(text) == ["b.md"]
