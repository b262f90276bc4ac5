"""`python -m meshd.agent`."""

import sys

from meshd.agent.command import main

sys.exit(main())
