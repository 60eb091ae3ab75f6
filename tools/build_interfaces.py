"""Build the messages of this checkout in place, for the environment that runs this script.

    .venv/bin/python tools/build_interfaces.py [--if-possible]

`CMakeLists.txt` generates and compiles them, as it does for colcon. Then `gbopt_ros/msg`,
`gbopt_ros/srv`, `gbopt_ros/action` and their extension modules go into the checkout, where an
editable install finds them, and everything else into the environment: libraries, headers, the ament
index and `share/gbopt_ros`, so that ROS tools see the package. ROS is a sourced one, or else the
wheels of the environment. The log of the build is `build/interfaces.log`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

PACKAGE = "gbopt_ros"
CHECKOUT = Path(__file__).resolve().parent.parent
BUILD = CHECKOUT / "build" / "interfaces"
STAGE = CHECKOUT / "build" / "stage"
LOG = CHECKOUT / "build" / "interfaces.log"
INTERFACES = ("msg", "srv", "action")
LINKED_FOLDERS = ("config", "launch", "demo")  # edited in the checkout, so linked, not copied


class NotPossible(Exception):
    """Something that the build needs is not on this machine; the text says how to get it."""


class BuildFailed(Exception):
    """CMake or the compiler failed."""


def find_ros() -> list[Path]:
    """Prefixes of the ROS to build against: the sourced ones, else this environment's wheels."""
    sourced = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    prefixes = [Path(prefix) for prefix in sourced if prefix] or [Path(sys.prefix)]
    marker = Path("share/ament_index/resource_index/packages/rosidl_default_generators")
    if not any((prefix / marker).exists() for prefix in prefixes):
        raise NotPossible(
            "no ROS to build the messages with: source a ROS 2 installation, or on x86_64 "
            "`pip install -e '.[ros,interfaces]'`"
        )
    return prefixes


def find_cmake() -> str:
    """The environment's CMake where it has one (from PyPI), else the machine's."""
    in_environment = Path(sys.prefix) / "bin" / "cmake"
    cmake = str(in_environment) if in_environment.exists() else shutil.which("cmake")
    if cmake is None:
        raise NotPossible("no CMake: `pip install -e '.[interfaces]'`")
    return cmake


def check_compiler() -> None:
    """Raise NotPossible unless extension modules can be compiled here."""
    for variable, names in (("CC", ("cc", "gcc", "clang")), ("CXX", ("c++", "g++", "clang++"))):
        if not os.environ.get(variable) and not any(map(shutil.which, names)):
            raise NotPossible("no C and C++ compiler: `sudo apt install g++`")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        raise NotPossible("no Python headers: `sudo apt install python3-dev`")
    missing = [name for name in ("em", "lark", "catkin_pkg") if not importlib.util.find_spec(name)]
    if missing:
        raise NotPossible(f"no module {', '.join(missing)}: `pip install -e '.[interfaces]'`")


def build_environment(prefixes: list[Path]) -> dict[str, str]:
    """The variables of the build; an isolated pip build hides the environment's own modules."""
    site = Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    modules = [str(prefix / site) for prefix in prefixes if str(prefix) != sys.prefix]
    environment = {
        **os.environ,
        "AMENT_PREFIX_PATH": os.pathsep.join(map(str, prefixes)),
        "PYTHONPATH": os.pathsep.join(modules),
    }
    if not modules:
        del environment["PYTHONPATH"]
    return environment


def run(command: list[str], environment: dict[str, str]) -> None:
    """Run a step of the build with its output in the log."""
    with LOG.open("a") as log:
        log.write(f"$ {' '.join(command)}\n")
        log.flush()
        code = subprocess.run(command, env=environment, stdout=log, stderr=log).returncode
    if code != 0:
        tail = "\n".join(LOG.read_text(errors="replace").splitlines()[-40:])
        raise BuildFailed(f"{tail}\nthe messages could not be built; the whole log is {LOG}")


def configure(cmake: str, prefixes: list[Path], environment: dict[str, str]) -> None:
    """Configure, from scratch when the cache is of another environment or set of interfaces."""
    ninja = shutil.which("ninja", path=f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}")
    command = [
        cmake, "-S", str(CHECKOUT), "-B", str(BUILD), "-DBUILD_TESTING=OFF",
        f"-DCMAKE_INSTALL_PREFIX={sys.prefix}",
        f"-DCMAKE_INSTALL_RPATH={sys.prefix}/lib",
        f"-DCMAKE_PREFIX_PATH={';'.join(map(str, prefixes))}",
        f"-DPython3_EXECUTABLE={sys.prefix}/bin/python", "-DPython3_FIND_VIRTUALENV=ONLY",
    ]  # fmt: skip
    if ninja:
        command += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    key = BUILD / "configured-with"
    interfaces = sorted(
        path.name for kind in INTERFACES for path in CHECKOUT.glob(f"{kind}/*.{kind}")
    )
    wanted = "\n".join([sys.version, *command, *interfaces])
    if BUILD.exists() and not (key.exists() and key.read_text() == wanted):
        shutil.rmtree(BUILD)
    run(command, environment)
    key.write_text(wanted)


def replace_tree(source: Path, target: Path) -> None:
    """Put a copy of a folder in the place of another, which is gone only once the copy is whole."""
    aside = target.with_name(f".{target.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(aside, target)


def install() -> None:
    """Move the staged installation to its two places."""
    prefix = Path(sys.prefix)
    stage = STAGE / prefix.relative_to(prefix.anchor)
    generated = next(stage.glob(f"lib/python*/*-packages/{PACKAGE}"))
    package = CHECKOUT / PACKAGE
    for stale in package.glob("*.so"):
        stale.unlink()
    for folder in INTERFACES:
        replace_tree(generated / folder, package / folder)
    for extension in generated.glob("*.so"):
        shutil.copy2(extension, package)

    for stale in prefix.glob(f"lib/lib{PACKAGE}__*"):
        stale.unlink()
    for library in stage.glob("lib/lib*"):
        shutil.copy2(library, prefix / "lib")
    for folder in (f"include/{PACKAGE}", f"lib/{PACKAGE}"):
        replace_tree(stage / folder, prefix / folder)
    share = prefix / "share" / PACKAGE
    for folder in LINKED_FOLDERS:
        shutil.rmtree(stage / "share" / PACKAGE / folder, ignore_errors=True)
    replace_tree(stage / "share" / PACKAGE, share)
    for folder in LINKED_FOLDERS:
        if (CHECKOUT / folder).is_dir():
            (share / folder).symlink_to(CHECKOUT / folder)
    index = "share/ament_index"
    shutil.copytree(stage / index, prefix / index, dirs_exist_ok=True)


def build() -> None:
    """Generate, compile and install the messages."""
    if sys.prefix == sys.base_prefix:
        raise NotPossible(
            "the messages are built in place for a virtual environment only: `make setup`; "
            "in a ROS workspace use colcon"
        )
    prefixes, cmake = find_ros(), find_cmake()
    check_compiler()
    environment = build_environment(prefixes)
    LOG.parent.mkdir(exist_ok=True)
    LOG.unlink(missing_ok=True)
    configure(cmake, prefixes, environment)
    run([cmake, "--build", str(BUILD), "--parallel", str(os.cpu_count() or 1)], environment)
    shutil.rmtree(STAGE, ignore_errors=True)
    run([cmake, "--install", str(BUILD)], {**environment, "DESTDIR": str(STAGE)})
    install()
    shutil.rmtree(STAGE)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--if-possible", action="store_true",
        help="only warn where ROS or a compiler is missing; everything offline works without",
    )  # fmt: skip
    args = parser.parse_args()
    print(f"building the messages in {CHECKOUT} (a minute the first time)", flush=True)
    try:
        build()
    except NotPossible as reason:
        print(f"messages not built: {reason}", file=sys.stderr)
        return 0 if args.if_possible else 1
    except (BuildFailed, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print("messages built: gbopt_ros.msg, gbopt_ros.srv, gbopt_ros.action")
    return 0


if __name__ == "__main__":
    sys.exit(main())
