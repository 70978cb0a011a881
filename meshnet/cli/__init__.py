"""The `meshnet` command: one file per verb."""
