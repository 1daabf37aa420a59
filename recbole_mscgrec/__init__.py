"""MSCGRec for RecBole: importing this package makes its models known to RecBole."""

from recbole_mscgrec import compat

compat.apply()  # before RecBole is imported by anything below

from recbole_mscgrec.registration import register  # noqa: E402

register()

__version__ = "0.1.0"
