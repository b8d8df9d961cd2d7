"""The tests, a package so that they share `tests.helpers` however pytest is started."""

import pytest

pytest.register_assert_rewrite("tests.helpers", "tests.driving")
