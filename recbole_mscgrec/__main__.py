"""`python -m recbole_mscgrec`: the same as run_recbole_mscgrec.py, wherever the package is."""

import sys

from recbole_mscgrec.cli import main

if __name__ == "__main__":
    sys.exit(main())
