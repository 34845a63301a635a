"""Builds fairseq_srupp._C, the CPU kernels, and lists what is installed. The rest is in pyproject.toml.

`FAIRSEQ_SRUPP_NO_EXTENSION=1` leaves the kernels out: the recurrence then runs on its PyTorch reference.
"""

import os

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

SOURCES = ["csrc/module.cpp", "csrc/cpu/kernels.cpp", "csrc/cpu/recurrence.cpp"]
DEFINES = [
    ("Py_LIMITED_API", "0x030A0000"),  # Python 3.10 and later
    ("TORCH_TARGET_VERSION", "0x020A000000000000"),  # torch 2.10 and later
]
# What is given up here, errno and floating-point traps, nobody sees; NaN and infinities keep their meaning.
FLAGS = ["-O3", "-g0", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
NO_TORCH = (
    "fairseq_srupp needs torch to be built; run `pip install torch setuptools wheel ninja` "
    "and then `pip install --no-build-isolation .`"
)


class WithoutTorch(build_ext):
    def run(self) -> None:
        raise SystemExit(NO_TORCH)


def build() -> dict:
    """The arguments of setup() that describe the extension."""
    if os.environ.get("FAIRSEQ_SRUPP_NO_EXTENSION") == "1":
        return {}
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ModuleNotFoundError:
        extension = Extension("fairseq_srupp._C", SOURCES, py_limited_api=True)
        return {"ext_modules": [extension], "cmdclass": {"build_ext": WithoutTorch}}
    extension = CppExtension(
        "fairseq_srupp._C",
        SOURCES,
        define_macros=DEFINES,
        extra_compile_args={"cxx": FLAGS},
        py_limited_api=True,
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


# The sources of the kernels are installed beside the modules.
setup(
    packages=[*find_packages(include=["fairseq_srupp*"]), "fairseq_srupp.csrc", "fairseq_srupp.csrc.cpu"],
    package_dir={"fairseq_srupp.csrc": "csrc"},
    package_data={
        "fairseq_srupp.csrc": ["*.h", "*.cpp"],
        "fairseq_srupp.csrc.cpu": ["*.h", "*.inl", "*.cpp"],
    },
    include_package_data=False,
    **build(),
)
