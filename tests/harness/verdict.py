"""Which failures may be measured once more, and which stand?

A test that keeps moments, or measures rates, fails also where the machine was somebody else's in
those moments; `make test` measures it once more, by itself. What is wrong at any speed (an answer
to another's request, a count that is not what clients saw) is `Wrong`, and stands: the run ends
with the exit status STANDS.
"""

import pytest

STANDS = 9


class Wrong(AssertionError):
    """What no slowness of a machine explains."""


class _Stands:
    """Whether something has failed that stands."""

    def __init__(self) -> None:
        self.has_failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and f"{Wrong.__module__}.Wrong" in report.longreprtext:
            self.has_failed = True

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.has_failed:
            session.exitstatus = STANDS


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Stands())
