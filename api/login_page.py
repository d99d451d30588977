"""The page on which a browser logs in: one small HTML document without a script and without a request to anywhere."""

from __future__ import annotations

import base64
import hashlib
import html
import time
from collections.abc import Sequence

from starlette.responses import HTMLResponse

from engine import Session

_STYLE = """
:root { color-scheme: light dark; --ink: #16181d; --soft: #5b6270; --page: #f4f5f7; --card: #fff; --line: #d9dde4;
  --accent: #2b6cb0; --bad: #b3261e; --bad-page: #fdecea }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --soft: #9aa2b1; --page: #14161a; --card: #1d2026;
  --line: #343942; --accent: #63a4e8; --bad: #ff9d94; --bad-page: #3a1f1d } }
* { box-sizing: border-box }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1.5rem; background: var(--page);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif }
main { width: 100%; max-width: 25rem; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 2rem; box-shadow: 0 1px 2px rgb(0 0 0 / 6%), 0 12px 32px rgb(0 0 0 / 8%) }
.ring { width: 2.5rem; height: 2.5rem; border: 3px solid var(--accent); border-radius: 50%; display: grid;
  place-items: center; margin-bottom: 1.25rem }
.ring::after { content: ""; width: .8rem; height: .8rem; border-radius: 3px; background: var(--ink) }
h1 { font-size: 1.35rem; line-height: 1.3; margin: 0 0 .25rem }
p { margin: 0 0 1.25rem; color: var(--soft) }
p.bad { color: var(--bad); background: var(--bad-page); border-radius: 8px; padding: .6rem .8rem }
label { display: block; font-weight: 600; margin-bottom: .35rem }
input { width: 100%; font: inherit; padding: .65rem .75rem; border: 1px solid var(--line); border-radius: 8px;
  background: var(--page); color: var(--ink) }
button { width: 100%; margin-top: 1rem; font: inherit; font-weight: 600; padding: .65rem; border: 0;
  border-radius: 8px; background: var(--accent); color: var(--card); cursor: pointer }
input:focus-visible, button:focus-visible, a:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px }
small { display: block; margin-top: 1.25rem; color: var(--soft) }
ul { list-style: none; padding: 0; margin: 0 0 1rem; color: var(--soft); font-size: .875rem }
li { padding: .5rem 0; border-top: 1px solid var(--line); overflow-wrap: anywhere }
a { color: var(--accent) }
""".strip()
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_DIGEST}'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    # Not "no-referrer": a form's Origin would be "null" then, and that is what says that it is ours.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def login_page(wanted: str = "/", *, problem: str = "", status: int = 200) -> HTMLResponse:
    """The form; ``wanted``: where to go afterwards."""
    told = f'<p class="bad" role="alert">{html.escape(problem)}</p>' if problem else ""
    return _page(
        "Log in",
        f"""<h1>Log in to Ringfence</h1>
<p>This server is shared. Your token says whose files and prompts are yours.</p>
{told}<form method="post" action="/ringfence/login">
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus maxlength="512"
 spellcheck="false" placeholder="rf_…">
<input type="hidden" name="next" value="{html.escape(wanted)}">
<button type="submit">Log in</button></form>
<small>No token, or a lost one? Whoever runs this server can make another.</small>""",
        status,
    )


def session_page(who: str, sessions: Sequence[Session], current: str) -> HTMLResponse:
    """What stands there for a browser that is logged in: who it is, where else, and how to leave."""
    rows = "".join(
        f"<li>{html.escape(each.agent or 'an unknown browser')}<br>since {_when(each.created_ms)}"
        f"{' &middot; this browser' if each.secret_sha256 == current else ''}</li>"
        for each in sessions[:20]
    )
    return _page(
        "Logged in",
        f"""<h1>Logged in as {html.escape(who)}</h1>
<p><a href="/">Open ComfyUI</a></p>
{f"<ul>{rows}</ul>" if rows else ""}<form method="post" action="/ringfence/logout">
<button type="submit">Log out</button></form>""",
        200,
    )


def _when(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ms / 1000))


def _page(title: str, content: str, status: int) -> HTMLResponse:
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title} · Ringfence</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">
<style>{_STYLE}</style></head>
<body><main><div class="ring" aria-hidden="true"></div>
{content}</main></body></html>
"""
    return HTMLResponse(text, status, headers=HEADERS)
