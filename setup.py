"""Builds the kernels, fairseq_srupp._C for the CPU and ._C_cuda, and lists what is installed. The rest is in
pyproject.toml.

The CUDA kernels are built where nvcc is found (CUDA_HOME or PATH), whether there is a GPU or not.
    FAIRSEQ_SRUPP_CUDA=0            leaves them out; =1 makes it an error if they cannot be built
    TORCH_CUDA_ARCH_LIST="8.0 9.0+PTX"   for which GPUs, in numbers; all that matter by default
    FAIRSEQ_SRUPP_NO_EXTENSION=1    builds nothing: the recurrence then runs on its PyTorch reference
    FAIRSEQ_SRUPP_SANITIZE=1        builds the CPU kernels with AddressSanitizer and UndefinedBehaviorSanitizer
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

DEFINES = [
    ("Py_LIMITED_API", "0x030A0000"),  # Python 3.10 and later
    ("TORCH_TARGET_VERSION", "0x020A000000000000"),  # torch 2.10 and later
]
# What is given up here, errno and floating-point traps, nobody sees; NaN and infinities keep their meaning.
FLAGS = ["-O3", "-g0", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
if os.environ.get("FAIRSEQ_SRUPP_SANITIZE") == "1":
    FLAGS += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1", "-O1"]
CPU_SOURCES = [f"csrc/cpu/{name}.cpp" for name in ("module", "kernels", "recurrence", "step")]
CUDA_SOURCES = ["csrc/cuda/module.cpp", "csrc/cuda/recurrence.cpp"]  # and kernels.cu
ARCHITECTURES = ("80", "90", "100", "120")
NO_TORCH = (
    "fairseq_srupp needs torch to be built; run `pip install torch setuptools wheel ninja` "
    "and then `pip install --no-build-isolation .`"
)


class WithoutTorch(build_ext):
    def run(self) -> None:
        raise SystemExit(NO_TORCH)


def find_nvcc() -> "str | None":
    """The nvcc of CUDA_HOME, else that of PATH."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=os.path.join(home, "bin")) if home else shutil.which("nvcc")


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def architectures(nvcc: str) -> "list[str]":
    """nvcc's options for TORCH_CUDA_ARCH_LIST, or for all of ARCHITECTURES that it knows and PTX of the newest."""
    known = set(re.findall(r"compute_(\w+)", output_of(nvcc, "--list-gpu-arch")))
    asked = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    for entry in asked:
        if not re.fullmatch(r"\d+\.\d+[a-z]?(\+PTX)?", entry):
            raise ValueError(f"TORCH_CUDA_ARCH_LIST: {entry} is no number such as 9.0 or 9.0+PTX")
    if asked:
        numbers = [(entry.split("+")[0].replace(".", ""), entry.endswith("+PTX")) for entry in asked]
    else:
        numbers = [(number, False) for number in ARCHITECTURES if number in known]
        numbers[-1] = (numbers[-1][0], True)
    options = [f"-gencode=arch=compute_{number},code=sm_{number}" for number, _ in numbers]
    return options + [f"-gencode=arch=compute_{number},code=compute_{number}" for number, ptx in numbers if ptx]


def library_folders(nvcc: str) -> "list[str]":
    """Where nvcc would look for libcudart_static."""
    dry = subprocess.run([nvcc, "--dryrun", "-c", "csrc/cuda/kernels.cu"], capture_output=True, text=True)
    return re.findall(r'"-L([^"]+)"', "".join(re.findall(r"LIBRARIES=.*", dry.stdout + dry.stderr)))


def extensions() -> dict:
    """The arguments of setup() that describe the extensions."""
    if os.environ.get("FAIRSEQ_SRUPP_NO_EXTENSION") == "1":
        return {}
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ModuleNotFoundError:
        extension = Extension("fairseq_srupp._C", CPU_SOURCES, py_limited_api=True)
        return {"ext_modules": [extension], "cmdclass": {"build_ext": WithoutTorch}}

    nvcc, wish = find_nvcc(), os.environ.get("FAIRSEQ_SRUPP_CUDA")

    class Build(BuildExtension):
        def build_extension(self, extension: Extension) -> None:
            if extension.name != "fairseq_srupp._C_cuda":
                return super().build_extension(extension)
            try:
                extension.extra_objects = [self.compile_kernels()]
                super().build_extension(extension)
            except Exception as error:
                if wish == "1":
                    raise
                extension.optional = True
                print(f"fairseq_srupp: no CUDA kernels ({error}); FAIRSEQ_SRUPP_CUDA=1 makes this an error")

        def compile_kernels(self) -> str:
            folder = Path(self.build_temp, "csrc", "cuda")
            folder.mkdir(parents=True, exist_ok=True)
            command = [nvcc, "-O3", "-std=c++17", "--threads=0", "-Xcompiler=-fPIC,-fvisibility=hidden"]
            command += [*architectures(nvcc), "-c", "csrc/cuda/kernels.cu", "-o", str(folder / "kernels.o")]
            print(" ".join(command), flush=True)
            subprocess.run(command, check=True)
            return str(folder / "kernels.o")

    def extension(name: str, sources: "list[str]", **kwargs) -> Extension:
        return CppExtension(name, sources, extra_compile_args={"cxx": FLAGS}, py_limited_api=True, **kwargs)

    link = [flag for flag in FLAGS if flag.startswith("-fsanitize")]
    modules = [extension("fairseq_srupp._C", CPU_SOURCES, define_macros=DEFINES, extra_link_args=link)]
    if wish == "1" and nvcc is None:
        raise SystemExit("fairseq_srupp: FAIRSEQ_SRUPP_CUDA=1, but there is no nvcc in CUDA_HOME or PATH")
    if wish != "0" and nvcc is not None:
        modules.append(
            extension(
                "fairseq_srupp._C_cuda",
                CUDA_SOURCES,
                define_macros=[*DEFINES, ("USE_CUDA", None)],
                library_dirs=library_folders(nvcc),
                libraries=["cudart_static", "rt", "pthread", "dl"],
                # libtorch leads to libtorch_cuda, which a torch without CUDA, good enough to build, does not have
                extra_link_args=["-Wl,--no-as-needed", "-ltorch"],
            )
        )
    return {
        "ext_modules": modules,
        "cmdclass": {"build_ext": Build},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


# The sources of the kernels are installed beside the modules: NVRTC compiles them where there is no _C_cuda.
setup(
    packages=[
        *find_packages(include=["fairseq_srupp*"]),
        *("fairseq_srupp." + folder for folder in ("csrc", "csrc.cpu", "csrc.cuda")),
    ],
    package_dir={"fairseq_srupp.csrc": "csrc"},
    package_data={
        "fairseq_srupp.csrc": ["*.h"],
        "fairseq_srupp.csrc.cpu": ["*.h", "*.inl", "*.cpp"],
        "fairseq_srupp.csrc.cuda": ["*.h", "*.cuh", "*.cu", "*.cpp"],
    },
    include_package_data=False,
    **extensions(),
)
