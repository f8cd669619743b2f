import sys

from shvit.cli.main import main

sys.exit(main())
