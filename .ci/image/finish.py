"""Finishes the node image: stands in for pip, makes the mount points, and writes down what the image holds."""

# ruff: noqa: INP001 - a script of the image build, no package

import compileall
import importlib.metadata
import json
import os
import platform
import shutil
import site
import sys
from pathlib import Path

STUB = Path("/ci/pip-stub")
RINGFENCE = Path("/opt/ringfence")
# A read-only root can mount only onto what is there already.
MOUNT_POINTS = (
    "/ringfence/code",
    "/ringfence/env",
    "/ringfence/socket",
    "/ringfence/out",
    "/ringfence/in",
    "/app",
)


def replace_pip() -> None:
    """Puts the stub wherever a command or a module named pip would be found."""
    bin_dir = RINGFENCE / "bin"
    bin_dir.mkdir(parents=True, exist_ok=True)
    shutil.copy(STUB / "pip.sh", bin_dir / "pip")
    (bin_dir / "pip").chmod(0o755)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for packages in (
        Path(site.getsitepackages()[0]),
        Path(sys.base_prefix, "lib", f"python{version}", "site-packages"),
        Path("/usr/lib/python3/dist-packages"),
    ):
        if packages.is_dir():
            for old in packages.glob("pip*"):
                shutil.rmtree(old)
            shutil.copytree(STUB / "pip", packages / "pip")
            compileall.compile_dir(packages / "pip", quiet=1)
    for directory in ("/opt/venv/bin", "/usr/local/bin"):
        for name in ("pip", "pip3", f"pip{version}"):
            command = Path(directory, name)
            command.unlink(missing_ok=True)
            command.symlink_to(bin_dir / "pip")


def notes(folder: str) -> dict[str, str]:
    """What torch.sh wrote about packages, by name."""
    return {note.name: note.read_text().strip() for note in sorted((RINGFENCE / folder).iterdir())}


def make_places() -> None:
    """Directories that packs list when they are loaded, on the word of Debian's font packages."""
    Path("/usr/share/fonts/truetype").mkdir(parents=True, exist_ok=True)


def licence_lines(dist: importlib.metadata.Distribution) -> str:
    """What a package's metadata says of its licence, as it says it; who reads the facts makes a name of it."""
    lines = [
        f"{key}: {value[:400]}".replace("\n", "\n ")
        for key in ("License-Expression", "License", "Classifier")
        for value in map(str, dist.metadata.get_all(key) or ())
        if key != "Classifier" or value.startswith("License :: ")
    ]
    return "\n".join(lines[:12])


def image_facts() -> dict[str, object]:
    """What other code may want to know of this image without starting it."""
    import torch

    return {
        "variant": os.environ["VARIANT"],
        "python": platform.python_version(),
        "machine": platform.machine(),
        "torch_backend": f"cuda {torch.version.cuda}" if torch.version.cuda else "cpu",
        "packages": {
            dist.metadata["Name"].lower().replace("_", "-"): dist.version
            for dist in sorted(
                importlib.metadata.distributions(), key=lambda dist: dist.metadata["Name"].lower()
            )
        },
        "licences": {
            dist.metadata["Name"].lower().replace("_", "-"): licence_lines(dist)
            for dist in importlib.metadata.distributions()
        },
        "partial": notes("partial"),
        "absent": notes("absent"),
    }


def main() -> None:
    replace_pip()
    make_places()
    for mount_point in MOUNT_POINTS:
        Path(mount_point).mkdir(parents=True, exist_ok=True)
    Path(site.getsitepackages()[0], "ringfence.pth").write_text(f"{RINGFENCE}\n")
    facts = json.dumps(image_facts(), indent=2)
    Path("/opt/venv/ringfence-image.json").write_text(facts + "\n")
    sys.stdout.write(facts)
    for folder in ("partial", "absent"):
        shutil.rmtree(RINGFENCE / folder)


main()
