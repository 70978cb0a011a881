"""Settings for all lanes: a generated example that fails today fails tomorrow, too."""

from hypothesis import settings

settings.register_profile("meshnet", derandomize=True, deadline=None, database=None)
settings.load_profile("meshnet")
