"""The Docker Engine API over the manager."""
