"""Ids as types, and the only functions that make them from outside text.

Each name ends up in a path, a container label or a log line, so each form is an allow-list. A parser that
returns has proved the form; code that takes the type need not look again.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NewType

from policies.errors import NameInvalidError
from policies.text import safe_text

TenantId = NewType("TenantId", str)
"""Whose prompts, files, sandboxes and quota; lower case, so that two tenants never share a directory by case."""

ExtensionName = NewType("ExtensionName", str)
"""A node pack, named after its directory as far as that fits."""

SandboxId = NewType("SandboxId", str)
"""One running container; part of its container name and of its directories."""

SandboxGroup = NewType("SandboxGroup", str)
"""Extensions that share one sandbox."""

PromptId = NewType("PromptId", str)
"""One queued graph; ComfyUI clients may choose it themselves."""

NodeId = NewType("NodeId", str)
"""One entry of a prompt; ComfyUI lets it be nearly any string."""

LOCAL_TENANT = TenantId("local")
"""The one tenant of single-user mode."""

CORE_EXTENSION = ExtensionName("core")
"""The built-in nodes, an extension in a sandbox like every other."""

NODE_ID_LIMIT = 16 * 1024

# `default.yaml` and `<extension>.yaml` lie in one directory: an extension of that name would *be* the defaults.
_RESERVED_EXTENSIONS = frozenset({"default"})

# \Z, not $: `$` also matches before a final newline, and "a\n" must not become a file name.
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}\Z")
_EXTENSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_SANDBOX = re.compile(r"[a-z0-9][a-z0-9-]{0,63}\Z")
_GROUP = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}\Z")
_PROMPT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")


def parse_tenant_id(text: str) -> TenantId:
    """Raises: NameInvalidError unless `text` is 1 to 32 of a-z 0-9 _ -, starting with a letter or digit."""
    return TenantId(_checked(text, _TENANT, "tenant", "1 to 32 of a-z, 0-9, '_', '-', letter or digit first"))


def parse_extension_name(text: str) -> ExtensionName:
    """Raises: NameInvalidError unless `text` can be a directory, a file stem and a label at once."""
    form = "1 to 64 of A-Z, a-z, 0-9, '.', '_', '-', letter or digit first, no '..'"
    name = _checked(text, _EXTENSION, "extension", form)
    if ".." in name:
        raise NameInvalidError(f"extension name {name!r} contains '..'", hint=f"use {form}")
    if name.lower() in _RESERVED_EXTENSIONS:
        raise NameInvalidError(
            f"extension name {name!r} is reserved (default.yaml holds the defaults of all extensions)",
            hint="choose another with --name",
        )
    return ExtensionName(name)


def own_folder(extension: str, group: str | None) -> str:
    """The folder in a tenant's output or temp that is an extension's own, or that of its sandbox group as a whole:
    members share one process, so they share it. No extension's name begins with '_'."""
    return f"_{group}" if group else extension


def suggest_extension_name(text: str) -> ExtensionName:
    """The nearest valid name for a directory or repository called `text` ("My Pack (v2)" -> "My-Pack-v2").

    Raises: NameInvalidError when nothing usable is left.
    """
    ascii_text = unicodedata.normalize("NFKD", text[:256]).encode("ascii", "ignore").decode("ascii")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", ascii_text)
    name = re.sub(r"\.{2,}", ".", name).strip("-._")[:64].rstrip("-._")
    return parse_extension_name(name)


def parse_sandbox_id(text: str) -> SandboxId:
    """Raises: NameInvalidError unless `text` is 1 to 64 of a-z 0-9 -, starting with a letter or digit."""
    return SandboxId(_checked(text, _SANDBOX, "sandbox", "1 to 64 of a-z, 0-9, '-', letter or digit first"))


def parse_sandbox_group(text: str) -> SandboxGroup:
    """Raises: NameInvalidError unless `text` is 1 to 32 of a-z 0-9 _ -, starting with a letter or digit."""
    form = "1 to 32 of a-z, 0-9, '_', '-', letter or digit first"
    return SandboxGroup(_checked(text, _GROUP, "sandbox group", form))


def parse_prompt_id(text: str) -> PromptId:
    """Raises: NameInvalidError unless `text` is 1 to 64 of letters, digits, _ and - (a UUID is)."""
    form = "a UUID, or 1 to 64 of letters, digits, '_', '-'"
    return PromptId(_checked(text, _PROMPT, "prompt", form))


def parse_node_id(text: str) -> NodeId:
    """Raises: NameInvalidError for an empty, over-long or unprintable id; everything else ComfyUI allows stays."""
    if type(text) is str and text.isalnum() and text.isascii() and len(text) <= NODE_ID_LIMIT:
        return NodeId(text)  # nearly all are numbers
    form = f"1 to {NODE_ID_LIMIT} characters, none of them a control character"
    if not isinstance(text, str) or not 0 < len(text) <= NODE_ID_LIMIT:
        raise _invalid("node", text, form)
    is_plain = text.isascii() and text.isprintable()
    if not is_plain and any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text):
        raise _invalid("node", text, form)
    return NodeId(text)


def _checked(text: str, form: re.Pattern[str], kind: str, wanted: str) -> str:
    # isinstance: these run on values from JSON and YAML, where the annotation is only a hope.
    if not isinstance(text, str) or not form.match(text):
        raise _invalid(kind, text, wanted)
    return text


def _invalid(kind: str, text: object, wanted: str) -> NameInvalidError:
    shown = safe_text(text, 80) if isinstance(text, str) else type(text).__name__
    return NameInvalidError(f"{kind} name {shown!r} is not allowed", hint=f"use {wanted}")
