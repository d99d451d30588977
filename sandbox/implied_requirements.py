"""What a pack imports without declaring it: ComfyUI's own requirements, and what packs install by hand when they load.

The pack's Python files are read as text, line by line and to a bound; nothing is parsed as a program or run. Only the
modules of one table count, so a stranger's file can ask for nothing that is not in it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from sandbox.requirement_lines import Wanted

#: Module -> requirement.
IMPLIED: Final = {
    # what comes with ComfyUI (itself or by way of its requirements) and not with the image
    "alembic": "alembic",
    "av": "av>=14.2",
    "certifi": "certifi",
    "huggingface_hub": "huggingface-hub",
    "kornia": "kornia>=0.7.1",
    "packaging": "packaging",
    "pydantic": "pydantic~=2.0",
    "pydantic_settings": "pydantic-settings~=2.0",
    "regex": "regex",
    "requests": "requests",
    "sentencepiece": "sentencepiece",
    "soundfile": "soundfile",
    "spandrel": "spandrel",
    "sqlalchemy": "SQLAlchemy",
    "tokenizers": "tokenizers",
    "torchaudio": "torchaudio",
    "torchsde": "torchsde",
    "transformers": "transformers>=4.37.2",
    "urllib3": "urllib3",
    # what packs call pip for while they are imported, or take for granted
    "chardet": "chardet",
    "colorama": "colorama",
    "dotenv": "python-dotenv",
    "git": "GitPython",
    "httpx": "httpx",
    "imageio": "imageio",
    "matplotlib": "matplotlib",
    "numba": "numba",
    "openai": "openai",
    "onnxruntime": "onnxruntime",
    "pandas": "pandas",
    "piexif": "piexif",
    "simpleeval": "simpleeval",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "toml": "toml",
    "webcolors": "webcolors",
}
_MAX_FILES: Final = 5_000
_MAX_FILE: Final = 2 * 1024**2
_MAX_BYTES: Final = 32 * 1024**2
_IMPORT: Final = re.compile(
    rb"^[ \t]*(?:from|import)[ \t]+("
    + b"|".join(re.escape(name).encode() for name in sorted(IMPLIED))
    + rb")(?=[ \t.,;\r\n]|$)",
    re.MULTILINE,
)


def read_implied(pack: Path) -> tuple[Wanted, ...]:
    """Requirements for the table's modules that the pack's files import, each with the first file that does."""
    found: dict[str, str] = {}
    files, left = 0, _MAX_BYTES
    for root, directories, names in os.walk(pack):
        directories[:] = sorted(name for name in directories if not name.startswith(".") and name != "tests")
        for name in sorted(names):
            if not name.endswith(".py"):
                continue
            files += 1
            if files > _MAX_FILES or left <= 0:
                return _wanted(found)
            file = Path(root, name)
            if file.is_symlink() or not file.is_file():
                continue
            with file.open("rb") as stream:
                text = stream.read(min(_MAX_FILE, left))
            left -= len(text)
            for match in _IMPORT.finditer(text):
                found.setdefault(match[1].decode(), file.relative_to(pack).as_posix())
    return _wanted(found)


def _wanted(found: dict[str, str]) -> tuple[Wanted, ...]:
    return tuple(Wanted(Requirement(IMPLIED[module]), found[module]) for module in sorted(found))
