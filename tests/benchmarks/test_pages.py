"""The pages in docs/ are those of the results beside the benchmarks."""

import json
from types import ModuleType

import pytest

from benchmarks import ablation_page, profile_page
from benchmarks.reporting import RESULTS


@pytest.mark.parametrize("module", [ablation_page, profile_page])
def test_the_page_in_docs_is_that_of_the_results(module: ModuleType) -> None:
    written = module.build_parser().parse_args([]).out
    kind = module.__name__.removeprefix("benchmarks.").removesuffix("_page")
    if not (files := sorted(RESULTS.glob(f"{kind}*.json"))):
        assert not written.exists(), "nothing was measured"
        pytest.skip(f"no {kind} has been measured")
    assert written.read_text(encoding="utf-8") == module.page([json.loads(file.read_text()) for file in files])
