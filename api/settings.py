"""Everything an operator can set, in one frozen object; docs/operating.md lists it (a test holds the two together).

Built once, in ``ringfence serve``; handed down by constructor. Nothing else reads ``RINGFENCE_`` variables, except
the command line's own (``RINGFENCE_URL``, ``_TOKEN``, ``_TOKEN_FILE``, ``_TENANT``, ``_DEBUG``).
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, StringConstraints, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from policies import RingfenceError, parse_destination
from sandbox import UpstreamProxyConnector, parse_fast_paths

MIB = 1024 * 1024
_ORIGIN = r"^(https?|wss?)://(\*\.)?[A-Za-z0-9.-]+(:[0-9]{1,5})?$"


def _default_data_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/ringfence")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "ringfence"


def _default_core_dir() -> Path:
    beside = Path(__file__).resolve().parents[1] / "extensions" / "core"
    return beside if beside.is_dir() else Path("/opt/ringfence/extensions/core")


class Settings(BaseSettings):
    """Settings of one Ringfence installation."""

    model_config = SettingsConfigDict(
        env_prefix="RINGFENCE_",
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
        env_ignore_empty=True,
    )

    # -- where things are
    data_dir: Path = Field(default_factory=_default_data_dir)
    """Prompts, files, extensions, environments. Default: /var/lib/ringfence for root, else ~/.local/share/ringfence."""
    policies_dir: Path | None = None
    """Directory of default.yaml and <extension>.yaml. Default: <data_dir>/policies."""
    shm_dir: Path = Path("/dev/shm/ringfence")  # noqa: S108 - where tensors lie by design
    """Where tensors lie; must be on a tmpfs, and the same directory for the host and the container engine."""
    run_dir: Path = Path("/run/ringfence")
    """Sockets of the sandboxes; must be the same directory for the host and the container engine."""
    database_url: SecretStr | None = None
    """Any SQLAlchemy async URL. Default: SQLite in <data_dir>/ringfence.db."""

    # -- the server
    listen: str = "127.0.0.1"
    """Address to listen on. In single-user mode keep it loopback, or publish the port on loopback only."""
    port: int = Field(default=8188, ge=1, le=65535)
    """Port to listen on."""
    public_port: int | None = Field(default=None, ge=1, le=65535)
    """Port under which users reach this server, when it is published under another; for messages only."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names (without port) that may stand in Host and Origin; loopback names always may, and with tenants so
    may addresses, and any name where a Bearer token comes along. Written as JSON: ["studio.lan"]."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of other web pages that may use the API from a browser (CORS), each written out: there is no "*", which
    would let every page that somebody opens run prompts here. Written as JSON: ["https://studio.example"]."""
    operator_token: SecretStr | None = None
    """The operator's token, at least 32 characters. Default: made at the first start, in <data_dir>/operator.token."""
    session_idle_s: int = Field(default=24 * 3600, ge=60)
    """How long a browser's log-in lasts while nothing is asked for."""
    session_max_s: int = Field(default=14 * 24 * 3600, ge=60)
    """How long a browser's log-in lasts at most."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are believed; nobody's by
    default. Written as JSON: ["10.0.0.0/8"]."""
    frontend_dir: str = ""
    """The web frontend served at /: the directory of a build, or "none". Default: the installed package
    comfyui-frontend-package, if there is one."""
    frontend_origins: tuple[Annotated[str, StringConstraints(pattern=_ORIGIN)], ...] = ()
    """Further places that the web page may load from and send to; by default it reaches this server only. Written as
    JSON: ["https://example.org"]."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """auto: text on a terminal, else one JSON object per line."""
    shutdown_s: float = Field(default=20.0, gt=0, le=600)
    """Longest time that stopping may take; prompts that still run then run again after the next start."""

    # -- limits of what comes in
    max_upload_bytes: int = Field(default=100 * MIB, ge=1)
    """Largest upload (files, user data, extension archives), whole request."""
    max_json_bytes: int = Field(default=32 * MIB, ge=1024)
    """Largest body of every other request, prompts among them."""
    max_json_depth: int = Field(default=128, ge=8, le=900)
    """Deepest nesting of a JSON body."""
    max_json_nodes: int = Field(default=1_000_000, ge=1000)
    """Most values (commas and opening brackets) in a JSON body; a prompt of 50,000 nodes has about half of that."""
    max_url_bytes: int = Field(default=16 * 1024, ge=256)
    """Longest path with query."""
    max_header_bytes: int = Field(default=32 * 1024, ge=1024)
    """All request headers together."""
    max_headers: int = Field(default=128, ge=16)
    """Number of request headers."""
    max_connections: int = Field(default=1024, ge=16)
    """Open connections, idle ones and WebSockets among them; beyond, new ones are turned away with 503."""
    max_address_connections: int | None = Field(default=None, ge=1)
    """Open connections of one address (IPv6: of one network of 64 bits), but of trusted proxies; beyond, 503. Default:
    half of max_connections."""
    max_tenant_requests: int | None = Field(default=None, ge=1)
    """Requests of one tenant that are being answered at the same time, WebSockets and event streams among them; beyond,
    429. Default: half of max_connections."""
    max_held_requests: int = Field(default=64, ge=0)
    """Requests of one tenant (or of one address that proved nothing) that wait for their turn while it uses much of the
    server's time and others are there; beyond, 429. 0: nobody's requests wait for others'."""
    request_head_s: float = Field(default=20.0, gt=0, le=3600)
    """How long the head of a request may take, from its first byte or the connection on; then 408."""
    slow_client_s: float = Field(default=30.0, gt=0, le=3600)
    """Over this time a body must come, and an answer be read, with 500 bytes a second; else 408, or it is cut."""
    max_websockets: int = Field(default=64, ge=1)
    """Open WebSockets per tenant."""
    max_websocket_messages: int = Field(default=20, ge=1)
    """Messages, their parts and pings that one WebSocket may send in a second, five times as many at once; a client
    that sends more is cut off."""
    max_extension_bytes: int = Field(default=1024 * MIB, ge=1024)
    """Largest extension, unpacked."""
    max_extension_files: int = Field(default=20_000, ge=1)
    """Most files and directories of one extension."""
    max_user_bytes: int = Field(default=1024 * MIB, ge=1024)
    """Most bytes in one tenant's user directory (workflows, settings)."""
    max_asset_bytes: int = Field(default=16 * 1024 * MIB, ge=1024)
    """Most bytes of uploaded assets, per tenant; what was uploaded twice counts once."""
    max_event_streams: int = Field(default=32, ge=1)
    """Open event streams of jobs (Comfy API v2), per tenant."""

    # -- the engine
    cache_mode: str = Field(
        default="classic", pattern=r"^(classic|none|lru:[1-9][0-9]{0,8}|ram(:[1-9][0-9]{0,4})?)$"
    )
    """Which results are kept between prompts: classic, none, lru:ENTRIES, ram, or ram:GIB."""
    cache_bytes: int = Field(default=4096 * MIB, ge=0)
    """Bytes of results in /dev/shm that the cache may hold, per tenant."""
    concurrency: int = Field(default=4, ge=1, le=256)
    """Prompts that run at the same time, over all tenants. A tenant that runs none may begin one beyond that, up to
    twice as many in all: nobody's flood keeps the others out."""
    tenant_concurrency: int | None = Field(default=None, ge=1, le=256)
    """Prompts of one tenant that run at the same time. Default: as many as run at all. Those of one client id run one
    after another, whatever stands here."""
    queue_limit: int = Field(default=1000, ge=1)
    """Prompts that may wait, per tenant."""
    history_limit: int = Field(default=10_000, ge=1)
    """History entries kept, per tenant; the oldest go first."""
    shm_quota_bytes: int = Field(default=8192 * MIB, ge=MIB)
    """Bytes in /dev/shm, per tenant."""

    # -- the audit log
    audit: Literal["best-effort", "required"] = "best-effort"
    """What happens while the audit log cannot be written (its disk is full, say): best-effort goes on without it and
    counts what it missed; required refuses new prompts, changes, sandboxes and builds until it can."""
    audit_file_bytes: int = Field(default=16 * MIB, ge=MIB)
    """Size at which an audit log begins a new file."""
    audit_files: int = Field(default=64, ge=2)
    """Files of the host's and of the launcher's audit log each; the oldest goes when there is one more."""

    # -- sandboxes
    core_dir: Path = Field(default_factory=_default_core_dir)
    """Directory of the built-in nodes."""
    instance: str = Field(default="local", pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    """Name of this installation; marks its containers and files, so that two can share one machine."""
    node_image: str = "ringfence-node:cpu"
    """Image of the sandboxes."""
    launcher: Literal["child", "service"] = "child"
    """Where the process is that talks to the container engine: child of this one, or a service of its own (compose)."""
    build_network: str = "auto"
    """Container network for building environments. index: none, and a proxy of the host that lets builds reach the
    package index and nothing else; bridge: the engine's; host: the machine's, where the bridge reaches nothing; auto:
    index where a setting or pip's own files name the index, else bridge, which the log and doctor tell. Sandboxes never
    have a network."""
    build_hosts: tuple[str, ...] = ()
    """Further places that builds reach where they reach the index only, such as where the index keeps its files.
    Written as JSON: ["files.example.org:443"]."""
    ca_bundle: Path | None = None
    """PEM file with a private CA that environment builds shall trust. How they reach the package index is said by the
    usual PIP_INDEX_URL, UV_DEFAULT_INDEX, HTTPS_PROXY and their kin."""
    osv_dir: Path | None = None
    """Database of known vulnerabilities that `extension audit` reads: a directory with all.zip of OSV's PyPI export."""
    max_sandboxes: int = Field(default=32, ge=1)
    """Sandboxes that may live at the same time; idle ones give way. The launcher holds to it, too."""
    tenant_cgroups: bool = True
    """Each tenant's sandboxes below a cgroup of the tenant's, so that tenants share the processor evenly; false leaves
    them where the engine puts every container (its daemon.json may say where)."""
    fast_paths: str = "all"
    """Shorter ways to the same end that the server takes: `all`, `none`, `a,b` (only these) or `-a,-b` (all but these);
    to compare them, see docs/performance.md."""

    pool: int | None = Field(default=None, ge=0, le=1024)
    """Spare sandboxes kept for the extensions used last, so that one that ended is replaced at once; 0 for none.
    Default: 3 on a machine of 16 GiB, 4 on larger ones, 1 on one of 8 GiB, none below; none is started while memory is
    short. Each takes about 10 MiB of memory, 160 MiB where the extension uses torch."""

    # -- what sandboxes reach, where a policy allows any of it
    egress_proxy: SecretStr | None = None
    """Your own proxy between this machine and the internet, as http://[user:password@]host:port. Default: none,
    whatever HTTPS_PROXY says. It is asked for addresses, which the host looks up and checks itself."""
    egress_up_bytes: int = Field(default=8192 * MIB, ge=1024)
    """Bytes that all sandboxes of one tenant may send in a day."""
    egress_down_bytes: int = Field(default=65536 * MIB, ge=1024)
    """Bytes that all sandboxes of one tenant may fetch in a day."""

    @field_validator("egress_proxy")
    @classmethod
    def _proxy_is_written_out(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            UpstreamProxyConnector(url.get_secret_value())  # raises ValueError
        return url

    @field_validator("fast_paths")
    @classmethod
    def _fast_paths_are_known(cls, text: str) -> str:
        parse_fast_paths(text)  # raises a ValueError
        return text

    @field_validator("build_hosts")
    @classmethod
    def _build_hosts_are_destinations(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            try:
                parse_destination(host)
            except RingfenceError as error:
                raise ValueError(error.message) from None
        return hosts

    @field_validator("allowed_origins")
    @classmethod
    def _origins_are_written_out(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            parts = urlsplit(origin)
            if (
                parts.scheme not in ("http", "https")
                or not parts.netloc
                or f"{parts.scheme}://{parts.netloc}" != origin
            ):
                raise ValueError(
                    f"'{origin}' is not an origin; write scheme, host and port: https://studio.example"
                )
        return tuple(origin.lower() for origin in origins)

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                raise ValueError(
                    f"'{proxy}' is no address or network; write e.g. 10.0.0.7 or 10.0.0.0/8"
                ) from None
        return proxies

    @property
    def policies_path(self) -> Path:
        """Where policy files are."""
        return self.policies_dir or self.data_dir / "policies"

    @property
    def adopted_path(self) -> Path:
        """Where policies lie that came through the API ('extension add --policy')."""
        return self.data_dir / "adopted"

    @property
    def database(self) -> str:
        """The database's URL."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite+aiosqlite:///{self.data_dir / 'ringfence.db'}"

    @property
    def secrets_path(self) -> Path:
        """Where the operator's secrets are: one file per tenant and name."""
        return self.data_dir / "secrets"

    @property
    def operator_token_file(self) -> Path:
        """Where the operator's token is kept when none is set."""
        return self.data_dir / "operator.token"
