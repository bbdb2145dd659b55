"""The pages: their generated blocks are up to date, their links lead somewhere, the README stays short."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, script

docs = script("docs")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = "<!-- python scripts/claims.py --short -->\n{}\n<!-- end -->\n"


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_generated_blocks_are_what_their_commands_print(capsys):
    status = docs.main(["--check"])
    assert status == 0, capsys.readouterr().err


def test_a_block_that_is_out_of_date_is_found_and_made_anew(tmp_path, monkeypatch, capsys):
    printed = docs.printed("claims", ["--short"])
    page = tmp_path / "README.md"
    page.write_text("before\n" + BLOCK.format("stale") + "after\n", encoding="utf-8")
    monkeypatch.setattr(docs, "printed", lambda name, arguments: printed)
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    assert docs.main(["--check"]) == 1
    assert "-stale" in capsys.readouterr().err and "stale" in page.read_text(encoding="utf-8")
    assert docs.main([]) == 0
    assert page.read_text(encoding="utf-8") == "before\n" + BLOCK.format(printed) + "after\n"
    assert docs.main(["--check"]) == 0


def test_a_page_whose_command_fails_is_named_and_no_page_behind_it_is_rewritten(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "docs" / "sub").mkdir(parents=True)
    for name, word in (("README.md", "claims"), ("docs/a.md", "table"), ("docs/sub/b.md", "claims")):
        (tmp_path / name).write_text(f"<!-- python scripts/{word}.py a 'b c' -->\n<!-- end -->\n")
    monkeypatch.setattr(docs, "ROOT", tmp_path)

    def main(arguments: list[str]) -> int:
        print("printed of", arguments)
        print("no such thing", file=sys.stderr)
        return 0

    monkeypatch.setattr(docs, "MAINS", {"claims": main, "table": lambda arguments: main(arguments) or 130})
    assert docs.main([]) == 1
    said = capsys.readouterr()
    assert said.out == "README.md\n"
    assert said.err == "docs/a.md: python scripts/table.py a 'b c': no such thing\n"
    new = "<!-- python scripts/claims.py a 'b c' -->\nprinted of ['a', 'b c']\n<!-- end -->\n"
    assert (tmp_path / "README.md").read_text() == new and new not in (tmp_path / "docs/sub/b.md").read_text()
    monkeypatch.setattr(docs, "MAINS", {"claims": main, "table": main})
    assert docs.main([]) == 0
    assert capsys.readouterr().out == "docs/a.md\ndocs/sub/b.md\n"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (172_800.0, "2 days"),
        (172_000.0, "47.8 hours"),
        (7200.0, "2 hours"),
        (7000.0, "117 minutes"),
        (120.0, "2 minutes"),
        (119.0, "119 s"),
        (2.0, "2 s"),
        (1.5, "1.5e+03 ms"),
        (0.012, "12 ms"),
    ],
)
def test_a_duration_has_a_unit_of_which_it_is_at_least_two(seconds, said):
    assert script("estimate").duration(seconds) == said


def test_a_command_that_fails_is_reported():
    with pytest.raises(ValueError, match=r"table\.py nowhere"):
        docs.rewritten("<!-- python scripts/table.py nowhere -->\n<!-- end -->\n")


@pytest.mark.parametrize(
    "content", [None, "{}", "[]", "{", '{"toy": {}}', '{"toy": {"seconds": 1}}', '{"a": 1}']
)
@pytest.mark.parametrize("name", ["bench", "kill"])
def test_records_that_cannot_be_read_end_in_a_sentence(name, content, tmp_path, capsys):
    path = tmp_path / "record.json"
    if content is not None:
        path.write_text(content)
    assert script(name).main(["--read", str(path)]) == 1
    said = capsys.readouterr()
    assert not said.out and said.err.count("\n") == 1 and str(path) in said.err


def test_the_readme_is_read_in_five_minutes():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_of_numbers_are_generated(page):
    """The protocol's are the authors' formulas, which no run of ours prints."""
    if page.name == "protocol.md":
        return
    text = docs.BLOCK.sub("", page.read_text(encoding="utf-8"))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert not [row for row in rows if re.search(r"\d\.\d", row)]


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_files_that_a_page_names_exist(page):
    named = re.findall(
        r"\b(?:cvae|scripts|tests)/[\w./]+\.(?:py|yaml|jsonl?)\b", page.read_text(encoding="utf-8")
    )
    assert [name for name in named if not (ROOT / name).is_file()] == []
