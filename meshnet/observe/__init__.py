"""Seeing what happens: traces of what the kernel does with packets."""
