"""The public API is written out on one page, so that a change of a signature is deliberate."""

import importlib.util
from pathlib import Path


def test_the_page_of_the_api_is_that_of_the_code() -> None:
    file = Path(__file__).parents[1] / "docs" / "llms.py"
    spec = importlib.util.spec_from_file_location("llms", file)
    llms = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(llms)
    written, made = llms.PAGE.read_text(encoding="utf8").splitlines(), llms.page().splitlines()
    changed = sorted(set(written) ^ set(made))
    assert not changed, "the public API differs from docs/llms.txt; if that is meant, run `python docs/llms.py`"
