"""Tables that tests measure, printed at the end of the run."""

import pytest

_tables: list[str] = []


@pytest.fixture
def report():
    """Call it with a table's text; it appears in the summary of every run."""
    return _tables.append


def pytest_terminal_summary(terminalreporter):
    for table in _tables:
        terminalreporter.write_sep("-", "measured")
        terminalreporter.write_line(table)
