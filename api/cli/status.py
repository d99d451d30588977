"""``ringfence status``: one look at a server."""

from __future__ import annotations

from api.cli.client import DEFAULT_URL, JsonOption, TenantOption, TokenOption, UrlOption, server
from api.cli.screen import print_json, print_line


def status(
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print version, mode, queue, extensions and sandboxes."""
    answer = server(url, token, tenant).call("GET", "/ringfence/v1/status")
    if as_json:
        print_json(answer)
        return
    print_line(f"Ringfence {answer['version']} at {url} ({answer['mode']}, tenant {answer['tenant']})")
    print_line(f"queue: {answer['queue']['running']} running, {answer['queue']['pending']} pending")
    for what in ("extensions", "sandboxes"):
        figures = ", ".join(f"{count} {state}" for state, count in sorted(answer[what].items()))
        print_line(f"{what}: {figures or 'none'}")
