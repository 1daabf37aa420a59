"""Run MSCGRec or any RecBole model; every setting is --key=value."""

import sys

from recbole_mscgrec.cli import main

if __name__ == "__main__":
    sys.exit(main())
