"""`python -m scraperd` is the `scraperd` command.

May touch: the cli.
Must never: do anything else.
"""

from scraperd.cli.main import main

main()
