import pytest

from tests import layouts_page


@pytest.mark.parametrize("case", layouts_page.CASES, ids=[case.name for case in layouts_page.CASES])
def test_the_page_shows_what_the_command_prints(case: layouts_page.Case) -> None:
    """`python -m tests.layouts_page` writes it anew."""
    command, printed = layouts_page.run(case)

    assert f"## {case.name}\n```\n$ {command}\n{printed}```\n" in layouts_page.PAGE.read_text(encoding="utf-8")
