"""`genctr doctor`: is this installation whole, and if it is not, which line fixes it?

It runs where nothing else does, so it imports the standard library only and loads the rest in a child process.
"""

import argparse
import csv
import ctypes
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHIM = ROOT / "tools" / "fbgemm-gpu-shim"
PIP = f"{sys.executable} -m pip"

MODULES = {
    "torch": "torch",
    "fbgemm_gpu": "fbgemm-gpu",
    "torchrec": "torchrec",
    "torchx.specs": "torchx",
    "iopath.common.file_io": "iopath",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "pyarrow.parquet": "pyarrow",
    "pydantic": "pydantic",
    "yaml": "PyYAML",
    "rich": "rich",
    "safetensors.torch": "safetensors",
    "tensorboard": "tensorboard",
    "torchmetrics": "torchmetrics",
}
"""What is loaded, in this order: a module, and the distribution that it comes from."""

LOAD = """
import importlib, sys
for module in sys.argv[1:]:
    print("loading", module, flush=True)
    importlib.import_module(module)
"""

SYSTEM_PACKAGES = {"libgcc_s.so.1": "libgcc-s1", "libgomp.so.1": "libgomp1", "libstdc++.so.6": "libstdc++6"}
"""Libraries that come with the system and not with a wheel, and the Debian package that holds each."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        what: what was found, in one line.
        fix: the shell line that puts it right; None where nothing is wrong.
    """

    what: str
    fix: str | None = None


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `doctor`."""
    parser = commands.add_parser("doctor", help="check this environment and print what fixes it")
    parser.set_defaults(command=lambda _: run())


def run() -> int:
    """Print what was found; return 0 if all is well and 1 if not."""
    findings = doctor()
    for finding in findings:
        print(f"ok     {finding.what}" if finding.fix is None else f"WRONG  {finding.what}\n  fix:  {finding.fix}")
    return int(any(finding.fix for finding in findings))


def doctor() -> list[Finding]:
    """Look at Python, OpenMP, the pinned versions and the build of FBGEMM; if those are right, load everything."""
    project = installed("genctr")
    if project is None:
        return [Finding(f"genctr is not installed in {sys.prefix}", f"{PIP} install {SHIM} --editable {ROOT}")]
    pins = pinned(project)
    findings = [check_python(project), *check_openmp(), *check_versions(pins), check_fbgemm(pins["fbgemm-gpu"])]
    # As long as a version is wrong, what does not load is only a consequence.
    return findings if any(finding.fix for finding in findings) else [*findings, check_loading(pins)]


def check_python(project: Distribution) -> Finding:
    """Is this Python new enough?"""
    version = ".".join(map(str, sys.version_info[:3]))
    needed = project.metadata["Requires-Python"].removeprefix(">=")
    if sys.version_info[:2] >= tuple(map(int, needed.split("."))):
        return Finding(f"Python {version}")
    fix = f"rm -rf {ROOT}/.venv && make -C {ROOT} setup PYTHON=python{needed}"
    return Finding(f"Python is {version}, genctr needs {needed} or newer", fix)


def check_openmp() -> list[Finding]:
    """Do threads sleep while they wait, and are there no more of them than processors?

    Spinning threads make two ranks on two cores up to 20 times slower. The front door sets both where they are unset.
    """
    policy, threads = os.environ.get("OMP_WAIT_POLICY", "passive"), os.environ.get("OMP_NUM_THREADS", "1")
    processors = os.cpu_count() or 1
    wrong = []
    if policy.lower() != "passive":
        wrong.append(Finding(f"OMP_WAIT_POLICY is {policy}: waiting threads spin", "export OMP_WAIT_POLICY=passive"))
    if not threads.isdecimal() or not 1 <= int(threads) <= processors:
        what = f"OMP_NUM_THREADS is {threads!r}, this machine has {processors} processors"
        wrong.append(Finding(what, "export OMP_NUM_THREADS=1"))
    return wrong or [Finding(f"OpenMP waits passively, threads per process: {threads}")]


def check_versions(pins: dict[str, str]) -> list[Finding]:
    """Is every pinned package there, in its version? FBGEMM has a check of its own."""
    right, wrong = [], []
    for name, version in pins.items():
        if name == "fbgemm-gpu":
            continue
        found = installed(name)
        if found is not None and public(found.version) == version:
            right.append(f"{name} {found.version}")
        else:
            state = f"is {found.version}" if found else "is missing"
            wrong.append(Finding(f"{name} {state}, genctr needs {version}", f"{PIP} install {name}=={version}"))
    return [Finding(", ".join(right)), *wrong]


def check_fbgemm(version: str) -> Finding:
    """Is there one FBGEMM, whole, and of the build that fits torch?

    The CUDA build, fbgemm-gpu, and the CPU build, fbgemm-gpu-cpu, write the same folder, and `pip check` is content with
    both: the one that was installed last is in place, and removing one tears holes into the other.
    """
    cuda, cpu, torch = installed("fbgemm-gpu"), installed("fbgemm-gpu-cpu"), installed("torch")
    fix = fix_fbgemm(version)
    if cuda is None:
        return Finding(f"fbgemm-gpu is missing, genctr needs {version}", fix)
    shim = cuda.version.endswith("+cpu.shim")
    for name, build in (("fbgemm-gpu", cuda), ("fbgemm-gpu-cpu", cpu)):
        if build is not None and public(build.version) != version:
            return Finding(f"{name} is {build.version}, genctr needs {version}", fix)
    if cpu is None and shim:
        return Finding("fbgemm-gpu is the stand-in for machines without CUDA, but fbgemm-gpu-cpu is missing", fix)
    if cpu is not None and not shim:
        return Finding("fbgemm-gpu (CUDA) and fbgemm-gpu-cpu are both installed and overwrite each other", fix)
    if not shim and torch is not None and "+cpu" in torch.version:
        return Finding(f"fbgemm-gpu {cuda.version} is the CUDA build, but torch {torch.version} is for the CPU", fix)
    name, build = ("fbgemm-gpu", cuda) if cpu is None else ("fbgemm-gpu-cpu", cpu)
    if strange := strangers(build):
        return Finding(f"{len(strange)} files of {name} are gone or of another build, such as {strange[0]}", fix)
    return Finding(f"{name} {build.version}, whole")


def check_loading(pins: dict[str, str]) -> Finding:
    """Does everything load? It stops at the first that does not."""
    child = subprocess.run([sys.executable, "-c", LOAD, *MODULES], capture_output=True, text=True)
    if child.returncode == 0:
        return Finding("everything loads")
    module = re.findall(r"^loading (.+)$", child.stdout, re.MULTILINE)[-1]
    name = MODULES[module]
    if child.returncode < 0:
        cause = f"the process died of {signal.Signals(-child.returncode).name}"
    else:
        cause = child.stderr.strip().splitlines()[-1]
    fix = f"{PIP} install --force-reinstall --no-deps {name}=={pins[name]}"
    if library := re.search(r"(lib[\w.+-]*\.so[.\d]*): cannot open shared object file", child.stderr):
        cause = f"the library {library[1]} is missing"
        if library[1] in SYSTEM_PACKAGES:
            return Finding(f"{module} does not load: {cause}", f"apt-get install -y {SYSTEM_PACKAGES[library[1]]}")
    return Finding(f"{module} does not load: {cause}", fix_fbgemm(pins[name]) if name == "fbgemm-gpu" else fix)


def fix_fbgemm(version: str) -> str:
    """Return the line that leaves one FBGEMM: the CUDA build if torch and the machine can load it, else the CPU build."""
    torch = installed("torch")
    cuda = has_nvidia_driver() and not (torch is not None and "+cpu" in torch.version)
    build = f"fbgemm-gpu=={version}" if cuda else SHIM
    return f"{PIP} uninstall --yes fbgemm-gpu fbgemm-gpu-cpu && {PIP} install {build}"


def has_nvidia_driver() -> bool:
    """Does the library load that the CUDA build of FBGEMM wants from the NVIDIA driver?"""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def installed(name: str) -> Distribution | None:
    """Return the installed distribution of that name, if there is one."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def pinned(project: Distribution) -> dict[str, str]:
    """Return the versions that a distribution pins, by name, those of its extras left out."""
    return dict(requirement.split("==") for requirement in project.requires or () if ";" not in requirement)


def public(version: str) -> str:
    """Return a version without its local part: 2.13.0 for 2.13.0+cpu."""
    return version.partition("+")[0]


def strangers(build: Distribution) -> list[str]:
    """Return the files of a distribution that are gone or have another size than was installed.

    It reads RECORD itself: `Distribution.files` leaves out what is gone, from Python 3.12 on.
    """
    found = []
    for name, _, size in csv.reader((build.read_text("RECORD") or "").splitlines()):
        file = Path(str(build.locate_file(name)))
        if size and not (file.is_file() and file.stat().st_size == int(size)):
            found.append(name)
    return found
