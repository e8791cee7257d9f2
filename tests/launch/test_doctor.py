"""`genctr doctor`, in environments that are really broken.

Every test gets a virtual environment of its own, its packages links to those that run the tests, and breaks it.
"""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Environment:
    """A virtual environment that may be broken."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self.python = folder / "bin" / "python"
        self.packages = next(folder.glob("lib/python*/site-packages"))
        packages = [package for package in Path(sysconfig.get_path("purelib")).iterdir() if "__editable__" not in package.name]
        for package in [*packages, ROOT / "launch", ROOT / "data"]:
            (self.packages / package.name).symlink_to(package)

    def remove(self, pattern: str) -> None:
        links = list(self.packages.glob(pattern))
        assert links, f"nothing is called {pattern}"
        for link in links:
            link.unlink()

    def pretend(self, name: str, version: str, *metadata: str) -> None:
        """Let a distribution be installed in that version, whatever was there."""
        for link in self.packages.glob(f"{name.replace('-', '_')}-[0-9]*.dist-info"):
            link.unlink()
        folder = self.packages / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")

    def replace(self, module: str, code: str) -> None:
        """Let a package be this code."""
        (self.packages / module).unlink()
        (self.packages / module).mkdir()
        (self.packages / module / "__init__.py").write_text(code)

    def doctor(self, **settings: str) -> tuple[int, list[str]]:
        """The exit status, and what is told to be wrong, each with the line that fixes it."""
        env = {"PATH": "/usr/bin:/bin", **settings}
        line = [self.python, "-m", "launch", "doctor"]
        run = subprocess.run(line, cwd=self.packages.anchor, env=env, capture_output=True, text=True)
        assert run.stderr == ""
        return run.returncode, [part.partition("\nok")[0].strip() for part in run.stdout.split("WRONG  ")[1:]]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "env")


def test_all_is_well_where_nothing_is_broken(environment: Environment) -> None:
    assert environment.doctor() == (0, [])


@pytest.mark.parametrize(
    ("name", "version"), [("torch", "2.12.1+cpu"), ("torchrec", "1.7.0"), ("torchx", "0.6.0"), ("numpy", "1.26.4")]
)
def test_another_version_than_the_pinned_one(environment: Environment, name: str, version: str) -> None:
    pin = {"torch": "2.13.0", "torchrec": "1.8.0", "torchx": "0.7.0", "numpy": "2.4.6"}[name]
    environment.pretend(name, version)

    status, (wrong,) = environment.doctor()

    assert status == 1
    assert wrong == f"{name} is {version}, genctr needs {pin}\n  fix:  {environment.python} -m pip install {name}=={pin}"


@pytest.mark.parametrize("name", ["torch", "torchrec", "rich", "pydantic", "PyYAML"])
def test_a_package_that_is_not_there(environment: Environment, name: str) -> None:
    environment.remove(f"{name}" if name != "PyYAML" else "yaml")
    environment.remove(f"{name.lower()}-[0-9]*.dist-info")

    status, (wrong,) = environment.doctor()

    assert status == 1
    assert wrong.startswith(f"{name} is missing, genctr needs ")
    assert f"\n  fix:  {environment.python} -m pip install {name}==" in wrong


def fixes_fbgemm(environment: Environment, wrong: str) -> bool:
    pip = f"{environment.python} -m pip"
    shim = ROOT / "tools" / "fbgemm-gpu-shim"
    return wrong.endswith(f"\n  fix:  {pip} uninstall --yes fbgemm-gpu fbgemm-gpu-cpu && {pip} install {shim}")


def test_the_cuda_fbgemm_over_the_cpu_one(environment: Environment) -> None:
    environment.pretend("fbgemm-gpu", "1.8.0")

    status, (wrong,) = environment.doctor()

    assert status == 1
    assert wrong.startswith("fbgemm-gpu (CUDA) and fbgemm-gpu-cpu are both installed and overwrite each other")
    assert fixes_fbgemm(environment, wrong)


def test_the_cuda_fbgemm_alone_under_a_torch_for_the_cpu(environment: Environment) -> None:
    environment.pretend("torch", "2.13.0+cpu")
    environment.pretend("fbgemm-gpu", "1.8.0")
    environment.remove("fbgemm_gpu_cpu-*")

    status, (wrong,) = environment.doctor()

    assert status == 1
    assert wrong.startswith("fbgemm-gpu 1.8.0 is the CUDA build, but torch 2.13.0+cpu is for the CPU")
    assert fixes_fbgemm(environment, wrong)


def test_files_that_the_cuda_fbgemm_left_or_took_away(environment: Environment) -> None:
    """Installed over the CPU build and removed again: one folder, files of both, pip sees nothing."""
    whole = (environment.packages / "fbgemm_gpu").resolve()
    environment.replace("fbgemm_gpu", "of another build")
    for file in whole.iterdir():
        if file.name not in {"__init__.py", "fbgemm_gpu_py.so"}:
            (environment.packages / "fbgemm_gpu" / file.name).symlink_to(file)

    status, (wrong,) = environment.doctor()

    assert status == 1
    assert wrong.startswith("2 files of fbgemm-gpu-cpu are gone or of another build, such as fbgemm_gpu/")
    assert fixes_fbgemm(environment, wrong)


def test_the_stand_in_without_the_cpu_build(environment: Environment) -> None:
    environment.pretend("fbgemm-gpu", "1.8.0+cpu.shim")
    environment.remove("fbgemm_gpu_cpu-*")

    status, (wrong,) = environment.doctor()

    assert status == 1
    assert wrong.startswith("fbgemm-gpu is the stand-in for machines without CUDA, but fbgemm-gpu-cpu is missing")
    assert fixes_fbgemm(environment, wrong)


@pytest.mark.parametrize("name", ["fbgemm-gpu", "fbgemm-gpu-cpu"])
def test_an_old_fbgemm(environment: Environment, name: str) -> None:
    environment.pretend(name, "1.6.0")

    status, (wrong,) = environment.doctor()

    assert status == 1
    assert wrong.startswith(f"{name} is 1.6.0, genctr needs 1.8.0")
    assert fixes_fbgemm(environment, wrong)


def test_no_fbgemm_at_all(environment: Environment) -> None:
    environment.remove("fbgemm_gpu*")

    status, (wrong,) = environment.doctor()

    assert status == 1
    assert wrong.startswith("fbgemm-gpu is missing, genctr needs 1.8.0")
    assert fixes_fbgemm(environment, wrong)


def test_a_library_of_the_nvidia_driver_that_is_missing(environment: Environment) -> None:
    """What the CUDA build says where there is no driver: torch wraps the loader's error in another one."""
    environment.pretend("fbgemm-gpu-cpu", "1.8.0")  # without a list of files
    loader = "libnvidia-ml.so.1: cannot open shared object file: No such file or directory"
    environment.replace(
        "fbgemm_gpu", f"raise OSError('Could not load this library: fbgemm_gpu_py.so') from OSError({loader!r})"
    )

    status, (wrong,) = environment.doctor()

    assert status == 1
    assert wrong.startswith("fbgemm_gpu does not load: the library libnvidia-ml.so.1 is missing")
    assert fixes_fbgemm(environment, wrong)


def test_a_library_of_the_system_that_is_missing(environment: Environment) -> None:
    environment.replace("torch", "raise ImportError('libgomp.so.1: cannot open shared object file: No such file or directory')")

    assert environment.doctor() == (
        1,
        ["torch does not load: the library libgomp.so.1 is missing\n  fix:  apt-get install -y libgomp1"],
    )


def test_a_package_that_raises_when_it_is_loaded(environment: Environment) -> None:
    environment.replace("torch", "raise RuntimeError('half installed')")

    fix = f"{environment.python} -m pip install --force-reinstall --no-deps torch==2.13.0"
    assert environment.doctor() == (1, [f"torch does not load: RuntimeError: half installed\n  fix:  {fix}"])


def test_a_package_that_kills_the_process(environment: Environment) -> None:
    environment.replace("torch", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")

    status, (wrong,) = environment.doctor()

    assert status == 1
    assert wrong.startswith("torch does not load: the process died of SIGILL\n  fix:  ")


def test_a_python_that_is_too_old(environment: Environment) -> None:
    pins = [f"Requires-Dist: {name}=={version}" for name, version in [("torch", "2.13.0"), ("fbgemm-gpu", "1.8.0")]]
    environment.pretend("genctr", "0.1.0", "Requires-Python: >=3.99", *pins)

    status, (wrong,) = environment.doctor()

    assert status == 1
    version = ".".join(map(str, sys.version_info[:3]))
    fix = f"rm -rf {ROOT}/.venv && make -C {ROOT} setup PYTHON=python3.99"
    assert wrong == f"Python is {version}, genctr needs 3.99 or newer\n  fix:  {fix}"


def test_genctr_itself_not_installed(environment: Environment) -> None:
    environment.remove("genctr-*")

    status, (wrong,) = environment.doctor()

    assert status == 1
    assert wrong.startswith(
        f"genctr is not installed in {environment.python.parents[1]}\n  fix:  {environment.python} -m pip install "
    )


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        (
            "OMP_WAIT_POLICY",
            "active",
            "OMP_WAIT_POLICY is active: waiting threads spin\n  fix:  export OMP_WAIT_POLICY=passive",
        ),
        ("OMP_NUM_THREADS", "9999", "OMP_NUM_THREADS is '9999', this machine has "),
        ("OMP_NUM_THREADS", "two", "OMP_NUM_THREADS is 'two', this machine has "),
    ],
)
def test_openmp_threads_that_spin_or_are_too_many(environment: Environment, variable: str, value: str, told: str) -> None:
    status, (wrong,) = environment.doctor(**{variable: value})

    assert status == 1
    assert wrong.startswith(told)
    assert f"\n  fix:  export {variable}=" in wrong


def test_every_wrong_thing_is_told_at_once(environment: Environment) -> None:
    environment.pretend("torch", "2.12.1")
    environment.pretend("torchrec", "1.7.0")
    environment.pretend("fbgemm-gpu", "1.8.0")

    status, wrong = environment.doctor(OMP_WAIT_POLICY="active")

    assert status == 1
    assert len(wrong) == 4
