from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.launcher.build_verb import NodeImage


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def image() -> NodeImage:
    return NodeImage(
        id="sha256:one",
        variant="cpu",
        python="3.11.2",
        machine="x86_64",
        packages={
            "numpy": "2.4.6",
            "opencv-python-headless": "5.0.0.93",
            "pillow": "13.0.0",
            "scipy": "1.17.1",
            "torch": "2.13.0+cpu",
            "tqdm": "4.70.1",
        },
        absent={"torchvision": "no build for this torch"},
    )


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    directory = tmp_path / "pack"
    directory.mkdir()
    (directory / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    return directory
