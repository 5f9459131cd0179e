"""`python -m supervisord.cli.supctl`."""

from supervisord.cli.supctl.program import main

main()
