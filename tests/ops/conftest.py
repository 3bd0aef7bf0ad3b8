"""Property tests here compare numbers, not speed: a busy machine must not fail them."""

from hypothesis import settings

settings.register_profile("numbers", deadline=None, max_examples=40)
settings.load_profile("numbers")
