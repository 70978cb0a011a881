"""`python -m meshnet.cli`, the same as `meshnet`."""

from meshnet.cli.main import main

main()
