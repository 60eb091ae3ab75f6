"""The files around the package agree with it: container, CI, licences, citation, release."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import setuptools
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from setuptools.command.egg_info import FileList

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
INSTALLED = ("config", "launch", "demo")  # folders below share/gbopt_ros


@pytest.fixture(scope="module")
def files() -> list[str]:
    """Every file of the repository that git tracks, or would track, as a path with slashes."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def manifest() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py tells setuptools."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: told.update(arguments))
    runpy.run_path(str(ROOT / "setup.py"))
    return told


# The CI workflow


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    parsed: dict[str, Any] = yaml.safe_load(text)
    return parsed


def test_workflow_tests_every_python_that_setup_allows(
    workflow: dict[str, Any], setup: dict[str, Any]
) -> None:
    allowed = SpecifierSet(setup["python_requires"])
    expected = [version for version in (f"3.{n}" for n in range(40)) if f"{version}.0" in allowed]
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == expected


def test_workflow_makes_the_targets_of_the_ci_script(workflow: dict[str, Any]) -> None:
    called: set[str] = set()
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            made = re.match(r"make (\$\{\{ matrix\.target \}\}|\w+)", step.get("run", ""))
            if made:
                called |= {made[1]} & {"test"} or set(job["strategy"]["matrix"]["target"])
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert called == set(re.findall(r"^make ([\w-]+)", script, re.MULTILINE))


# The container


def test_stages_and_images_of_the_container_that_are_named_exist(workflow: dict[str, Any]) -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.MULTILINE))
    page = (ROOT / "docs/containers.md").read_text(encoding="utf-8")
    steps = "\n".join(step.get("run", "") for step in workflow["jobs"]["container"]["steps"])
    for text in (DOCKERFILE, page, steps):
        built = re.findall(r"docker build --target (\w+) -t gbopt_ros:(\w+) \.", text)
        assert built and all(stage == tag and stage in stages for stage, tag in built)
        assert set(re.findall(r"gbopt_ros:(\w+)", text)) == {tag for _, tag in built}
    assert stages == {"base", "cpu", "cuda"}
    assert re.search(r"-v \S+:(/opt\S+)/demo-output", page)[1] in DOCKERFILE  # type: ignore[index]


def test_container_takes_from_pypi_what_it_does_not_take_from_ros(
    manifest: ElementTree.Element, setup: dict[str, Any]
) -> None:
    """rosdep leaves out the Python libraries of package.xml, which setup.py requires."""
    needed = {tag.text for kind in ("depend", "exec_depend") for tag in manifest.iter(kind)}
    skipped = re.search(r'--skip-keys\s+"([^"]+)"', DOCKERFILE)
    assert skipped is not None
    assert set(skipped[1].split()) == {name for name in needed if name and "python3-" in name}
    extras = re.search(r"^ARG EXTRAS=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert extras is not None and "interfaces" in extras[1]
    assert set(extras[1].split(",")) <= setup["extras_require"].keys()


def distribution(requirement: str) -> str:
    """The name in a requirement such as `backports.zstd>=1,<2`."""
    return Requirement(requirement).name


def test_every_library_that_the_package_imports_is_declared(
    manifest: ElementTree.Element, setup: dict[str, Any]
) -> None:
    """What comes with another library today need not do so in its next version."""
    of_module = {
        "PIL": "pillow", "backports": "backports.zstd", "cv2": "opencv-python-headless",
        "pybullet_data": "pybullet", "rerun": "rerun-sdk", "yaml": "PyYAML",
    }  # fmt: skip
    lists = [setup["install_requires"], *setup["extras_require"].values()]
    declared = {distribution(each) for requirements in lists for each in requirements}
    for kind in ("depend", "exec_depend"):
        declared |= {tag.text or "" for tag in manifest.iter(kind)}
    declared |= {"gbopt_ros", "detectron2"}  # the latter is on no index
    generated = {ROOT / "gbopt_ros" / kind for kind in ("msg", "srv", "action")}
    undeclared: dict[str, Path] = {}
    for path in (ROOT / "gbopt_ros").rglob("*.py"):
        if generated.isdisjoint(path.parents):
            for node in ast.walk(ast.parse(path.read_bytes())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module or ""]
                for module in {name.partition(".")[0] for name in names} - sys.stdlib_module_names:
                    if of_module.get(module, module) not in declared:
                        undeclared[module] = path
    assert undeclared == {}


def test_package_data_that_setup_names_is_there(setup: dict[str, Any]) -> None:
    for package, names in setup["package_data"].items():
        assert names and all((ROOT / package / name).is_file() for name in names)


def test_scipy_of_the_system_is_not_kept_beside_numpy_2(setup: dict[str, Any]) -> None:
    """That of Ubuntu 24.04 is 1.11.4, which NumPy 2 breaks; opencv brings NumPy 2."""
    (scipy,) = (r for r in map(Requirement, setup["install_requires"]) if r.name == "scipy")
    assert "1.11.4" not in scipy.specifier and "1.13.0" in scipy.specifier


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("package.xml", r"<!-- (torch.+?) come\s"),
        ("docs/robot.md", r"^(torch, .+?) come\s"),
    ],
)
def test_what_comes_from_pypi_is_what_pip_requires_beyond_rosdep(
    file: str, sentence: str, manifest: ElementTree.Element, setup: dict[str, Any]
) -> None:
    names = {"python3-opencv": "opencv-python-headless", "python3-pil": "pillow"}
    keys = [key.text or "" for key in manifest.iter("exec_depend")]
    known = {names.get(key, key.removeprefix("python3-")) for key in keys}
    required = set(map(distribution, setup["install_requires"]))
    required -= {"PyYAML", "backports.zstd", "lz4"}  # they come with omegaconf and rosbags
    text = (ROOT / file).read_text(encoding="utf-8")
    written = re.search(sentence, text, re.DOTALL | re.MULTILINE)
    assert written is not None
    assert set(re.split(r",\s+|\s+and\s+", written[1])) == required - known


def test_container_sets_the_environment_of_the_in_place_installation() -> None:
    (home,) = re.findall(r"^WORKDIR (\S+)$", DOCKERFILE, re.MULTILINE)
    (assigned,) = re.findall(r"^ENV (PATH=.*)$", DOCKERFILE, re.MULTILINE)
    prefix = f"{home}/{re.search('^VENV := (.+)$', MAKEFILE, re.MULTILINE)[1]}"  # type: ignore[index]
    assert dict(pair.split("=") for pair in assigned.split()) == {
        "PATH": f"{prefix}/bin:$PATH",
        "AMENT_PREFIX_PATH": prefix,
        "LD_LIBRARY_PATH": f"{prefix}/lib",
        "PYTHONPATH": home,
    }


def ignored_by_docker(path: str) -> bool:
    """Whether .dockerignore keeps a file, or a folder above it, out of the image."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for pattern in (line for line in lines if line and not line.startswith("#")):
        expression = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{expression}(/.*)?", path):
            return True
    return False


def test_container_gets_the_tracked_files_and_nothing_that_git_ignores(files: list[str]) -> None:
    left_out = {path.partition("/")[0] for path in files if ignored_by_docker(path)}
    assert left_out == {".ci", ".github"}
    for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            example = line.strip("/").replace("*", "x")
            anchored = "/" in line.rstrip("/")
            for path in (example,) if anchored else (example, f"gbopt_ros/{example}"):
                assert ignored_by_docker(path), line


# Licences


def reuse_table_of(path: str, tables: list[dict[str, Any]]) -> dict[str, Any]:
    """The table of REUSE.toml that counts for a file: the last one that matches; {} if none does.

    `*` stands for anything but a slash, `**` for anything.
    """
    found: dict[str, Any] = {}
    for table in tables:
        globs = [table["path"]] if isinstance(table["path"], str) else table["path"]
        for glob in globs:
            parts = (re.escape(part).replace(r"\*", "[^/]*") for part in glob.split("**"))
            if re.fullmatch(".*".join(parts), path):
                found = table
    return found


def test_every_file_has_a_copyright_and_a_licence_whose_text_is_here(
    files: list[str], manifest: ElementTree.Element
) -> None:
    reuse = tomllib.loads((ROOT / "REUSE.toml").read_text(encoding="utf-8"))
    assert reuse["version"] == 1
    used = set()
    for path in files:
        table = reuse_table_of(path, reuse["annotations"])
        assert table.get("SPDX-FileCopyrightText"), f"{path}: no table of REUSE.toml matches it"
        used.add(table["SPDX-License-Identifier"])
        if path.endswith(".safetensors"):
            assert "demo/weights/NOTICE" in str(table["SPDX-FileCopyrightText"])
    assert used == {path.stem for path in (ROOT / "LICENSES").iterdir()}
    assert used == {manifest.findtext("license")}
    text = (ROOT / "LICENSE").read_bytes()
    assert (ROOT / f"LICENSES/{manifest.findtext('license')}.txt").read_bytes() == text


# Citation and release


def test_citation_is_of_this_package_and_of_the_paper(manifest: ElementTree.Element) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == manifest.findtext("name")
    assert citation["license"] == manifest.findtext("license")
    assert citation["authors"] == [{"name": manifest.findtext("maintainer")}]
    assert citation["abstract"] == " ".join(manifest.findtext("description", "").split())
    assert "version" not in citation  # package.xml is its home
    (paper,) = citation["references"]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"[{paper['title']}]({paper['url']})" in readme
    first, second, third = (author["family-names"] for author in paper["authors"])
    assert f"({first}, {second} and {third}, ICCV {paper['year']})" in readme


def test_changelog_has_the_version_of_the_manifest(manifest: ElementTree.Element) -> None:
    changelog = (ROOT / "CHANGELOG.rst").read_text(encoding="utf-8")
    heads = re.findall(
        r"^(Forthcoming|(\d+\.\d+\.\d+) \(\d{4}-\d\d-\d\d\))\n(-+)$", changelog, re.M
    )
    assert all(len(title) == len(line) for title, _, line in heads)
    versions = [version for _, version, _ in heads]
    assert versions.index(manifest.findtext("version", "")) <= 1  # only Forthcoming is above it
    assert "" not in versions[1:]


def test_installed_and_distributed_files_are_complete(
    files: list[str], setup: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = {path for path in files if path.split("/")[0] in INSTALLED}
    assert {"config/sros2_policy.xml", "launch/active_vision.launch.py"} <= shared
    assert {path for _, paths in setup["data_files"] for path in paths} >= shared
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert f"set(shared_folders {' '.join(INSTALLED)})" in cmake

    monkeypatch.chdir(ROOT)
    distributed = FileList()
    for line in (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines():
        if line.startswith(("include", "graft")):
            distributed.process_template_line(line)
    held = {path.removeprefix("./") for path in distributed.files}
    folders = (*INSTALLED, "LICENSES", "examples", "msg", "srv", "action", "tools")
    at_the_root = {path for path in files if "/" not in path}
    # What setuptools takes by itself, and what only a checkout needs.
    other = {"README.md", "pyproject.toml", "setup.py", "MANIFEST.in", ".gitignore", "mkdocs.yml"}
    assert at_the_root - other <= held
    assert {path for path in files if path.split("/")[0] in folders} <= held
