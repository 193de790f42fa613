"""The packages live in top-level folders and are linked into one import name."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "models.yaml"
PACKAGES = ["hpc", "jobs", "apptainer", "gateway", "compose", "bench"]


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_folder_has_its_relative_link(package: str) -> None:
    link = ROOT / "modeltainer" / package
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{package}"
    assert (ROOT / package / "__init__.py").is_file()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    for name in (Path(file.decode()) for file in files if file):
        if not (ROOT / name).is_symlink() and not (ROOT / name).exists():
            continue  # deleted, not committed yet
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to((ROOT / name).readlink())
        else:
            target.write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--wheel-dir", str(folder), str(source)),
        ],
        check=True,
    )
    [built] = folder.glob("modeltainer-*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_every_module_once(wheel: zipfile.ZipFile) -> None:
    modules = sorted(name for name in wheel.namelist() if name.endswith(".py"))
    wanted = {
        str(Path("modeltainer") / file.relative_to(ROOT / "modeltainer"))
        for file in (ROOT / "modeltainer").rglob("*.py")
        if file.relative_to(ROOT / "modeltainer").parts[0] not in PACKAGES
    }
    for package in PACKAGES:
        wanted |= {
            str(Path("modeltainer") / file.relative_to(ROOT))
            for file in (ROOT / package).rglob("*.py")
        }
    assert modules == sorted(wanted)
    assert len(set(modules)) == len(modules)


def test_nothing_else_litters_site_packages(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"modeltainer"}


def test_what_is_not_python_is_there_too(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert "modeltainer/py.typed" in names
    assert wheel.read("modeltainer/config/starter.yaml") == CONFIG.read_bytes()
    assert "modeltainer/apptainer/vllm.def" in names
    assert "modeltainer/hpc/templates/job.sbatch.j2" in names
    for file in (
        "proxy/Caddyfile",
        "prometheus/alerts.yml",
        "loki/loki.yml",
        "loki/config.alloy",
        "grafana/provisioning/datasources/modeltainer.yml",
    ):
        assert f"modeltainer/compose/{file}" in names
