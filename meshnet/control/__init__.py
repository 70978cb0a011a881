"""The manager: what should run, where, with which addresses."""
