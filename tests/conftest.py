"""Settings of all tests."""

from hypothesis import settings

# No deadline: on a busy machine a test that takes a millisecond may wait for half a second.
settings.register_profile("medseg", deadline=None, max_examples=60)
settings.load_profile("medseg")
