"""`python -m stylograph`."""

from stylograph.cli import main

main()
