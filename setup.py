"""What setup.cfg cannot say: one pass over scores in C. Without a compiler it is left out, and numpy does the same."""

import os
import sys

from setuptools import Extension, setup

# Elsewhere compilers may have no OpenMP; the pass then runs in one thread.
OPENMP = ["-fopenmp"] if sys.platform == "linux" else []

setup(
    ext_modules=[
        Extension(
            "strongticket.masks._threshold",
            ["strongticket/masks/threshold.c"],
            extra_compile_args=[] if os.name == "nt" else ["-O3", *OPENMP],
            extra_link_args=OPENMP,
            optional=True,
        )
    ]
)
