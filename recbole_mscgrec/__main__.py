"""`python -m recbole_mscgrec` is the same as run_recbole_mscgrec.py."""

import sys

from recbole_mscgrec.cli import main

if __name__ == "__main__":
    sys.exit(main())
