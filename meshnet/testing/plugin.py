"""The pytest plugin of meshnet: fixtures for labs and namespaces."""
