"""Run MSCGRec or any RecBole model: python run_recbole_mscgrec.py --model=MSCGRec --dataset=ml-100k"""

import sys

from recbole_mscgrec.quick_start import main

if __name__ == "__main__":
    sys.exit(main())
