#!/usr/bin/env bash
# Makes sure that a container engine with compose v2 and buildx answers; installs and starts what is missing.
# engine.sh [ensure|gvisor|stop]: 'gvisor' adds the second runtime only; 'stop' ends only an engine that this script started.
. "$(dirname "$0")/lib.sh"

engine_log=/var/log/ringfence-engine.log
# The process id of an engine that we started, where there is no init system to ask.
started=/var/lib/ringfence-engine.pid
plugins=/usr/local/libexec/docker/cli-plugins

answers() { timeout 20 docker info >/dev/null 2>&1; }

install_engine() {
    apt_install docker.io iptables ca-certificates
}

# Debian 12 has neither compose v2 nor buildx. The binaries of the next release run here as they are, so they are
# taken out of its packages, which apt fetches from this machine's own mirror and verifies.
install_plugins() {
    local codename dir mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    if [ "$codename" != bookworm ]; then
        apt_install docker-buildx docker-compose || apt_install docker-buildx docker-compose-v2
        return
    fi
    need_root "installing docker compose and buildx"
    dir=$(mktemp -d)
    mirror=$(debian_mirror Debian)
    [ -n "$mirror" ] || { apt-get -qq update && mirror=$(debian_mirror Debian); }
    [ -n "$mirror" ] || die "apt has no Debian source" "add one to /etc/apt/sources.list, then run 'apt-get update'"
    echo "deb [signed-by=$keyring] $mirror trixie main" >"$dir/sources.list"
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$plugins"
    local apt=(apt-get -qq -o "Dir::Etc::SourceList=$dir/sources.list" -o Dir::Etc::SourceParts=-
        -o "Dir::State::Lists=$dir/lists" -o "Dir::Cache=$dir/cache" -o APT::Sandbox::User=root
        -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false)
    "${apt[@]}" update
    (cd "$dir" && "${apt[@]}" download docker-compose docker-buildx)
    for package in "$dir"/*.deb; do dpkg-deb -x "$package" "$dir/root"; done
    find "$dir/root" -path '*cli-plugins/docker-*' -type f -exec install -m 755 -t "$plugins" {} +
    rm -rf "$dir"
}

# -- gVisor: a second runtime, for policies that say 'isolation: gvisor'. Nothing else needs it, so its absence stops nobody.

gvisor_enough=20240729
engine_settings=/etc/docker/daemon.json

has_gvisor() { docker info --format '{{json .Runtimes}}' 2>/dev/null | grep -q '"runsc"'; }

# Debian 12 itself has a build of 2022; a newer one stands in its backports. They are added for this package alone: every
# other one there is pinned away, so nothing else of this machine ever comes from it, and runsc gets its updates.
add_backports() {
    local mirror pins=/etc/apt/preferences.d/ringfence-gvisor
    printf '%s\n' "# Added by Ringfence: runsc (gVisor) comes from the backports." "Package: runsc" \
        "Pin: release n=bookworm-backports" "Pin-Priority: 500" >"$pins"
    # Whoever has the backports already uses them in a way of his own.
    if apt-cache policy | grep -q 'n=bookworm-backports'; then return; fi
    mirror=$(debian_mirror Debian)
    [ -n "$mirror" ] || { apt-get -qq update && mirror=$(debian_mirror Debian); }
    [ -n "$mirror" ] || die "apt has no Debian source" "add one to /etc/apt/sources.list, then run 'apt-get update'"
    printf '%s\n' "" "# Nothing else does." "Package: *" "Pin: release n=bookworm-backports" "Pin-Priority: -1" >>"$pins"
    printf '%s\n' "# Added by Ringfence for runsc (gVisor) alone; see preferences.d/ringfence-gvisor." "Types: deb" \
        "URIs: $mirror" "Suites: bookworm-backports" "Components: main" \
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg" >/etc/apt/sources.list.d/ringfence-gvisor.sources
}

install_gvisor() {
    local candidate
    command -v runsc >/dev/null && return
    need_root "installing runsc (gVisor)"
    command -v apt-get >/dev/null || die "this machine has no apt-get" "install runsc by hand"
    if [ "$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" = bookworm ]; then add_backports; fi
    apt-get -qq update
    candidate=$(apt-cache policy runsc | awk '$1 == "Candidate:" { print $2 }')
    [ -n "$candidate" ] && [ "$candidate" != "(none)" ] || die "this distribution has no package 'runsc'"
    [[ "$candidate" =~ ([0-9]{8}) ]] && [ "${BASH_REMATCH[1]}" -ge "$gvisor_enough" ] ||
        die "this distribution's runsc is too old: $candidate, wanted is release $gvisor_enough or newer"
    apt_install runsc
}

# Names runsc in the engine's settings and lets the engine read them again; containers that run do not notice.
# - systrap is the platform that needs no /dev/kvm;  network=none: the guest's own network stack has no link outside;
# - host-uds=open: the worker may connect to the socket that the host mounted, but make none that the host could see;
# - oci-seccomp: our list of system calls holds inside as well, as a second wall behind gVisor's own kernel.
# Never ignore-cgroups: with it no cap holds. The self-test refuses a runtime that has it.
name_gvisor() {
    local pid i
    need_root "naming runsc in $engine_settings"
    python3 - "$engine_settings" "$(command -v runsc)" <<'PYTHON' || return 1 # 'set -e' does not reach in here
import json, os, pathlib, sys
path, program = pathlib.Path(sys.argv[1]), sys.argv[2]
text = path.read_text(encoding="utf-8") if path.exists() else ""
try:
    settings = json.loads(text or "{}")
    runtimes = settings.setdefault("runtimes", {})
    present = "runsc" in runtimes
except (ValueError, AttributeError, TypeError) as error:
    sys.exit(f"{path} cannot be read: {error}; mend it by hand")
if not present:
    flags = ["--platform=systrap", "--network=none", "--host-uds=open", "--oci-seccomp"]
    runtimes["runsc"] = {"path": program, "runtimeArgs": flags}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".ringfence")
    beside.write_text(json.dumps(settings, indent=4) + "\n", encoding="utf-8")
    if path.exists():
        os.chmod(beside, path.stat().st_mode & 0o777)
    os.replace(beside, path)
PYTHON
    if [ -d /run/systemd/system ]; then
        systemctl reload docker
    else
        pid=$(cat /var/run/docker.pid)
        is_running "$pid" dockerd || die "the engine that answers is not the one of /var/run/docker.pid" "reload it by hand"
        kill -HUP "$pid"
    fi
    for ((i = 0; i < 40; i++)); do
        if has_gvisor; then return; fi
        sleep 0.25
    done
    die "the engine read $engine_settings again, and does not know 'runsc'" "see the engine's log: $engine_log"
}

gvisor() {
    if has_gvisor; then return; fi
    if [ -n "${DOCKER_HOST:-}" ]; then
        say "gvisor: not at DOCKER_HOST=$DOCKER_HOST; policies that say 'isolation: gvisor' are refused"
        return
    fi
    if ! (step "gvisor: install runsc from distribution packages" install_gvisor &&
        step "gvisor: name it in $engine_settings" name_gvisor); then
        say "gvisor: not on this machine, going on with runc; policies that say 'isolation: gvisor' are refused"
    fi
}

# is_running PID PROGRAM: a zombie, which where nobody reaps stays for ever, has no program.
is_running() { [[ "$(readlink "/proc/$1/exe" 2>/dev/null)" == */"$2"* ]]; }

# An engine that was killed leaves process ids behind; the next one then refuses to start while anything has them.
forget_stale_pid() {
    local file=$1 program=$2
    [ -f "$file" ] || return 0
    is_running "$(cat "$file")" "$program" || rm -f "$file"
}

start_engine() {
    need_root "starting the container engine"
    command -v dockerd >/dev/null || apt_install docker.io iptables ca-certificates
    if [ -d /run/systemd/system ]; then
        systemctl start docker
    else
        forget_stale_pid /var/run/docker.pid dockerd
        forget_stale_pid /var/run/docker/containerd/containerd.pid containerd
        ulimit -n 1048576 2>/dev/null || ulimit -n "$(ulimit -Hn)"
        setsid dockerd >"$engine_log" 2>&1 </dev/null &
        echo $! >"$started"
    fi
    local i
    for ((i = 0; i < 120; i++)); do
        if answers; then return; fi
        if [ "$i" -gt 4 ] && [ -f "$started" ] && ! is_running "$(cat "$started")" dockerd; then break; fi
        sleep 0.5
    done
    [ ! -s "$engine_log" ] || tail -n 20 "$engine_log" >&2
    rm -f "$started"
    explain
}

explain() {
    local why
    why=$(tail -n 50 "$engine_log" 2>/dev/null || journalctl -u docker -n 50 --no-pager 2>/dev/null || true)
    case $why in
    *iptables*) die "the engine cannot set up its firewall rules" \
        "try the older back end: update-alternatives --set iptables /usr/sbin/iptables-legacy; then run this again" ;;
    *[Cc]group*) die "the engine finds no usable cgroups" \
        "mount them (see docs/install.md, 'cgroups'); a container needs --privileged or its host's /sys/fs/cgroup" ;;
    *"pid file found"*) die "an engine is running, but does not answer" "see its log, or end it: /var/run/docker.pid" ;;
    *) die "the container engine did not answer within 60 s" "its log: $engine_log, or: journalctl -u docker" ;;
    esac
}

ensure() {
    if ! answers; then
        if [ -n "${DOCKER_HOST:-}" ]; then
            die "no engine answers at DOCKER_HOST=$DOCKER_HOST" "start it, or unset DOCKER_HOST to use a local one"
        fi
        if ! command -v docker >/dev/null || ! command -v dockerd >/dev/null; then
            step "engine: install it from distribution packages" install_engine
        fi
        step "engine: start it" start_engine
    fi
    if ! docker compose version >/dev/null 2>&1 || ! docker buildx version >/dev/null 2>&1; then
        step "engine: install compose and buildx" install_plugins
    fi
    gvisor
    docker compose version >/dev/null || die "docker compose does not run" "install compose v2 for this docker client"
    docker buildx version >/dev/null || die "docker buildx does not run" "install buildx for this docker client"
    say "engine: $(docker version --format '{{.Server.Version}}')," \
        "compose $(docker compose version --short)," \
        "buildx $(docker buildx version | awk '{ print $2 }'), storage $(docker info --format '{{.Driver}}')," \
        "gvisor $(if has_gvisor; then runsc --version 2>/dev/null | awk '{ print $3; exit }'; else echo no; fi)"
}

stop() {
    [ -f "$started" ] || return 0
    local pid i
    pid=$(cat "$started")
    if is_running "$pid" dockerd; then
        kill "$pid"
        for ((i = 0; i < 120; i++)); do
            is_running "$pid" dockerd || break
            sleep 0.25
        done
    fi
    rm -f "$started"
    say "engine: stopped"
}

case ${1:-ensure} in
ensure) ensure ;;
gvisor) gvisor ;;
stop) stop ;;
*) die "unknown verb '$1'" "use: engine.sh [ensure|gvisor|stop]" ;;
esac
