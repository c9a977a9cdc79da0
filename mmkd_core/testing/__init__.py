"""For authors of teacher plugins: every conformance check of mmkd as a pytest test, in one line.

    import mmkd_my_clip
    from mmkd_core.testing import conformance

    @conformance(mmkd_my_clip)
    def test_my_clip():
        '''Runs after each check that passed; checks of your own may stand here.'''

The checks are those of `mmkd teachers check`; new ones arrive with a new mmkd.

Does not: import torch or pytest when imported.
"""

from mmkd_core.plugins.conformance import CHECKS, Check, Outcome, Subject, run, run_all
from mmkd_core.testing.decorator import conformance

__all__ = ["CHECKS", "Check", "Outcome", "Subject", "conformance", "run", "run_all"]
