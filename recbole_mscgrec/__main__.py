"""`python -m recbole_mscgrec`: the same as run_recbole_mscgrec.py, wherever the package is.

SIGTERM is taken for Ctrl-C, which a process in the background of a script does not get.
"""

import signal
import sys

from recbole_mscgrec.command_line import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
