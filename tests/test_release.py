"""What is said of a release in several files is the same in all of them."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_version_and_licence_are_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf8")
    assert re.search(rf"^version: {re.escape(project['version'])}$", citation, re.MULTILINE)
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf8")
    dated = re.search(r'^date-released: "(.*)"$', citation, re.MULTILINE)[1]
    assert f"## [{project['version']}] - {dated}" in changes
    assert re.search(rf"^license: {re.escape(project['license'])}$", citation, re.MULTILINE)


def test_no_file_names_an_address_of_the_repository() -> None:
    """It is known to the variable HISDIFF_REPOSITORY alone; OWNER stands for it in examples."""
    texts = [*ROOT.glob("*.*"), *(ROOT / ".github").rglob("*.y*ml"), *(ROOT / "docs").glob("*.*")]
    for path in texts:
        if path.is_file() and path.suffix in {".md", ".toml", ".yml", ".yaml", ".cff", ".py", ".txt"}:
            found = re.findall(r"github\.com/([\w-]+)/hisdiff", path.read_text(encoding="utf8"))
            assert set(found) <= {"OWNER"}, path
