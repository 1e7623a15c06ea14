"""What setup.cfg cannot say: one pass over scores in C. Without a compiler it is left out, and numpy does the same."""

import os

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "strongticket.masks._threshold",
            ["strongticket/masks/threshold.c"],
            extra_compile_args=[] if os.name == "nt" else ["-O3"],
            optional=True,
        )
    ]
)
