"""Settings of all tests."""

import os

from hypothesis import settings

# No deadline: on a busy machine a test that takes a millisecond may wait for half a second.
settings.register_profile("medseg", deadline=None, max_examples=60)
# CI judges a change, not the luck of a draw; new examples are looked for on developers' machines.
settings.register_profile("ci", settings.get_profile("medseg"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "medseg")
