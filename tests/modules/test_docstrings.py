"""Examples in docstrings give what they say."""

import doctest

from fairseq_srupp.modules import decoding


def test_worked_example_of_slots_and_places():
    result = doctest.testmod(decoding)
    assert result.attempted > 10 and result.failed == 0
