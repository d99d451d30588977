"""A policy that asks for what this version does not enforce starts nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies import ExtensionName, PolicyStore
from sandbox.errors import StartError
from sandbox.launcher.enforcement import refuse_unenforced

BLUR = ExtensionName("blur")
SECRET = "secrets: [{name: KEY, host: 'a.com:443', header: Authorization}]\n"


def test_an_allowlist_without_a_proxy_is_refused_with_its_line(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path / "policies")
    store.directory.mkdir()
    refuse_unenforced(store.effective(BLUR))
    (store.directory / "default.yaml").write_text("ceilings: {network: any, secrets: {KEY: 'a.com:443'}}\n")
    (store.directory / "blur.yaml").write_text(SECRET + "network: {allow: ['a.com:443']}\n")
    with pytest.raises(StartError) as caught:
        refuse_unenforced(store.effective(BLUR))
    assert str(caught.value) == (
        "the policy has 'network' (policies/blur.yaml:2), which this version cannot enforce yet; "
        "write 'network: none', or remove it"
    )
