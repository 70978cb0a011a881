"""Tools for tests of meshnet and of what runs on it."""
