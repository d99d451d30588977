from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import (
    CORE_EXTENSION,
    LOCAL_TENANT,
    CeilingError,
    ExtensionName,
    HostPath,
    PathEscapeError,
    PolicyError,
    PolicyStore,
    TenantId,
    TenantPath,
    explain,
)
from policies.builtin import BUILT_IN
from policies.layers import flatten
from policies.load import load_defaults, load_policy
from policies.merge import merge
from policies.model import EffectivePolicy
from policies.units import format_bytes

Write = Callable[[str, str], Path]

BLUR = ExtensionName("blur")
TRIAL = TenantId("trial")


def effective(extension: str = "", defaults: str = "", tenant: TenantId = LOCAL_TENANT) -> EffectivePolicy:
    return merge(
        load_policy(extension.encode(), "policies/blur.yaml"),
        load_defaults(defaults.encode(), "policies/default.yaml"),
        tenant,
    )


def test_without_any_file_every_cap_is_set() -> None:
    policy = merge(None, None, LOCAL_TENANT)
    assert policy.memory == 2 * 2**30
    assert (policy.network.allow, policy.gpus, policy.isolation) == ((), (), "runc")
    assert {source.layer for source in policy.sources.values()} == {"built-in"}


def test_the_shipped_defaults_say_what_is_built_in() -> None:
    shipped = PolicyStore.shipped_defaults()
    for section in ("defaults", "ceilings"):
        assert dict(flatten(getattr(shipped, section))) == dict(flatten(getattr(BUILT_IN, section)))


def test_each_layer_wins_over_the_one_below_and_every_value_knows_its_line() -> None:
    policy = effective("memory: 3GiB\n", "defaults:\n  memory: 1GiB\n  pids: 99\n")
    assert (policy.memory, policy.pids, policy.nofile) == (3 * 2**30, 99, 1024)
    assert str(policy.source("memory")) == "policies/blur.yaml:1"
    assert str(policy.source("pids")) == "policies/default.yaml:3"
    assert str(policy.source("nofile")) == "built-in"


def test_sections_merge_key_by_key_and_lists_are_replaced_whole() -> None:
    policy = effective(
        "timeouts:\n  call: 5s\nenvironment: {B: '2'}\npaths:\n  - {tenant: input}\n",
        "defaults:\n  timeouts: {idle: 9s}\n  environment: {A: '1', B: '1'}\n  paths: [{tenant: temp}]\n",
    )
    assert (policy.timeouts.call_s, policy.timeouts.idle_s, policy.timeouts.import_s) == (5, 9, 120)
    assert dict(policy.environment) == {"A": "1", "B": "2"}
    assert policy.paths == (TenantPath(tenant="input"),)
    assert str(policy.source("environment.B")) == "policies/blur.yaml:3"
    assert str(policy.source("timeouts.idle")) == "policies/default.yaml:2"


def test_an_extension_sees_only_its_own_folder_of_the_outputs_unless_its_policy_says_tenant() -> None:
    scopes = {entry.tenant: entry.scope for entry in effective().paths if isinstance(entry, TenantPath)}
    assert scopes == {"input": "tenant", "output": "extension", "temp": "extension"}


def test_a_value_over_the_ceiling_is_refused_naming_both_lines(store: PolicyStore, write: Write) -> None:
    write("default", "ceilings:\n  memory: 4GiB\n")
    write("blur", "cpus: 1\nmemory: 8GiB\n")
    with pytest.raises(CeilingError) as caught:
        store.effective(BLUR)
    assert str(caught.value) == (
        "policies/blur.yaml:2:1: memory 8GiB is over the ceiling of 4GiB (policies/default.yaml:2); "
        "write at most 4GiB, or raise 'ceilings.memory' in default.yaml if you are the operator"
    )
    assert (caught.value.code, caught.value.line) == ("policy-ceiling", 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cpus: 64", "cpus 64 is over the ceiling of 8 (built-in)"),
        ("pids: 9999", "pids 9999 is over the ceiling of 2048"),
        ("nofile: 99999", "nofile 99999 is over the ceiling of 8192"),
        ("tmp: 5GiB", "tmp 5GiB is over the ceiling of 4GiB"),
        ("scratch: 5GiB", "scratch 5GiB is over the ceiling of 4GiB"),
        ("shared_memory: 9GiB", "shared_memory 9GiB is over the ceiling of 8GiB"),
        ("timeouts: {import: 1h}", "timeouts.import 1h is over the ceiling of 10m"),
        ("timeouts: {call: 7h}", "timeouts.call 7h is over the ceiling of 6h"),
        ("timeouts: {idle: 25h}", "timeouts.idle 25h is over the ceiling of 24h"),
        ("timeouts: {grace: 1m}", "timeouts.grace 1m is over the ceiling of 30s"),
        ("gpus: [0, 1, 2, 3, 4]", "gpus 5 GPUs is over the ceiling of 4"),
        ("limits: {output_bytes: 9GiB}", "limits.output_bytes 9GiB is over the ceiling of 8GiB"),
        ("limits: {outputs: 65537}", "limits.outputs 65537 is over the ceiling of 65536"),
        ("limits: {log_rate: 10001}", "limits.log_rate 10001 is over the ceiling of 10000"),
        ("limits: {log_bytes: 65MiB}", "limits.log_bytes 65MiB is over the ceiling of 64MiB"),
        ("limits: {expansion_nodes: 10001}", "limits.expansion_nodes 10001 is over the ceiling of 10000"),
        ("limits: {expansion_depth: 10001}", "limits.expansion_depth 10001 is over the ceiling of 10000"),
        ("network: {allow: [a.com:443]}", "network a.com:443 is not in the ceiling, none (built-in)"),
        (
            "secrets: [{name: K, host: 'a.com:443', header: A}]",
            "secret K for a.com:443 is not in the ceiling (built-in)",
        ),
    ],
)
def test_each_capped_key_has_a_ceiling_even_when_no_file_names_one(text: str, said: str) -> None:
    with pytest.raises(CeilingError) as caught:
        effective(text)
    assert said in str(caught.value)


def test_an_allowlist_is_refused_until_the_operator_allows_it_and_the_error_has_the_line_to_write() -> None:
    text = "network:\n  allow:\n    - api.example.com:443\n    - a.example.org:443\n"
    with pytest.raises(CeilingError) as caught:
        effective(text)
    assert caught.value.hint == (
        "the operator may allow it in default.yaml: "
        """'ceilings: {network: ["api.example.com:443", "a.example.org:443"]}'"""
    )
    assert effective(text, caught.value.hint.split("'")[1]).network.allow == (
        "api.example.com:443",
        "a.example.org:443",
    )
    with pytest.raises(CeilingError) as caught:
        effective(text, "ceilings:\n  network: ['*.example.com:443']\n")
    assert str(caught.value) == (
        "policies/blur.yaml:4:7: network a.example.org:443 is not in the ceiling, [*.example.com:443] "
        """(policies/default.yaml:2); the operator may add "a.example.org:443" to 'ceilings.network' """
        "(policies/default.yaml:2)"
    )
    assert effective(text, "ceilings: {network: any}").network
    assert not effective("network: none", "ceilings: {network: any}").network


def test_a_tenants_network_ceiling_takes_from_the_defaults_and_refuses_an_extensions_own() -> None:
    defaults = (
        "defaults: {network: {allow: [a.com:443, b.com:443]}}\nceilings: {network: any}\n"
        "tenants: {trial: {ceilings: {network: [b.com:443]}}}\n"
    )
    assert effective("", defaults).network.allow == ("a.com:443", "b.com:443")
    assert effective("", defaults, TRIAL).network.allow == ("b.com:443",)
    assert str(effective("", defaults, TRIAL).source("network")) == "policies/default.yaml:3"
    with pytest.raises(CeilingError, match=r"network a\.com:443 is not in the ceiling"):
        effective("network: {allow: [a.com:443]}", defaults, TRIAL)


SECRET = "secrets:\n  - {name: KEY, host: 'a.com:443', header: Authorization, format: 'Bearer {}'}\n"
RAISED = "ceilings: {network: any, secrets: {KEY: 'a.com:443'}}"
NETWORK = "network: {allow: ['a.com:443']}\n"


def test_a_secret_goes_only_where_the_operator_says_that_it_may_go() -> None:
    policy = effective(SECRET + NETWORK, "ceilings: {network: any, secrets: {KEY: 'a.com:443'}}")
    assert [(s.name, s.host, s.header, s.format) for s in policy.secrets] == [
        ("KEY", "a.com:443", "Authorization", "Bearer {}")
    ]
    with pytest.raises(
        CeilingError, match=r"blur.yaml:2:5: secret KEY for a\.com:443 is for b\.com:443 only"
    ):
        effective(SECRET + NETWORK, "ceilings: {network: any, secrets: {KEY: 'b.com:443'}}")


def test_a_secret_is_for_a_host_of_the_allowlist() -> None:
    with pytest.raises(PolicyError, match=r"blur.yaml:2:5: secrets\[0\]: a.com:443 is not in 'network'"):
        effective(SECRET, "ceilings: {network: any, secrets: {KEY: 'a.com:443'}}")


def test_a_secrets_name_is_no_other_variable() -> None:
    with pytest.raises(PolicyError, match="KEY is a variable in 'environment' as well"):
        effective(
            SECRET + NETWORK + "environment: {KEY: x}",
            "ceilings: {network: any, secrets: {KEY: 'a.com:443'}}",
        )


def test_an_operator_can_demand_gvisor_of_all_or_of_one_tenant() -> None:
    demand = "tenants: {trial: {ceilings: {isolation: gvisor}}}"
    assert effective("", demand).isolation == "runc"
    assert effective("", demand, TRIAL).isolation == "gvisor"
    assert effective("isolation: gvisor", demand, TRIAL).isolation == "gvisor"
    with pytest.raises(
        CeilingError,
        match=r"blur.yaml:1:1: isolation runc is weaker than the gvisor that is demanded \(.*:1\)",
    ):
        effective("isolation: runc", demand, TRIAL)
    assert effective("", "ceilings: {isolation: gvisor}").isolation == "gvisor"
    # A tenant's section cannot ask for less than the general one.
    both = "ceilings: {isolation: gvisor}\ntenants: {trial: {ceilings: {isolation: runc}}}"
    assert effective("", both, TRIAL).isolation == "gvisor"


def test_a_ceiling_of_variables_is_a_list_of_names_and_beginnings() -> None:
    ceiling = "ceilings: {environment: [OMP_NUM_THREADS, 'HF_*']}"
    assert effective("environment: {OMP_NUM_THREADS: 2, HF_HOME: x}", ceiling).environment["HF_HOME"] == "x"
    with pytest.raises(
        CeilingError, match=r"blur.yaml:1:15: variable OMP is not in the ceiling, \[OMP_NUM_THREADS"
    ):
        effective("environment: {OMP: 1}", ceiling)


def test_ceilings_of_builds_are_switches_and_times() -> None:
    for text, said in (
        ("build: {source_builds: true}", "build.source_builds true is over the ceiling of false"),
        ("build: {network: true}", "build.network true is over the ceiling of false"),
        ("build: {timeout: 2m}", "build.timeout 2m is over the ceiling of 1m"),
    ):
        with pytest.raises(CeilingError, match=said):
            effective(text, "ceilings: {build: {source_builds: false, network: false, timeout: 1m}}")
    lowered = effective("", "ceilings: {build: {network: false, timeout: 1m}}").build
    assert (lowered.network, lowered.timeout_s) == (False, 60)


def test_an_operator_may_raise_a_ceiling_over_the_built_in_one() -> None:
    assert effective("memory: 64GiB", "ceilings: {memory: 128GiB}").memory == 64 * 2**30


def test_what_nobody_wrote_is_lowered_to_the_ceiling_and_says_so() -> None:
    policy = effective("", "ceilings:\n  memory: 1GiB\n")
    assert policy.memory == 2**30
    assert policy.source("memory").layer == "ceiling"
    assert str(policy.source("memory")) == "policies/default.yaml:2"


def test_defaults_over_their_own_ceilings_are_refused() -> None:
    with pytest.raises(
        CeilingError, match=r"policies/default.yaml:2:3: memory 2GiB is over .*default.yaml:4"
    ):
        effective("", "defaults:\n  memory: 2GiB\nceilings:\n  memory: 1GiB\n")


def test_a_tenants_ceiling_lowers_the_defaults_and_refuses_an_extensions_own_value() -> None:
    defaults = "defaults: {memory: 2GiB}\ntenants:\n  trial:\n    ceilings: {memory: 1GiB}\n"
    assert effective("", defaults).memory == 2 * 2**30
    assert effective("", defaults, TRIAL).memory == 2**30
    assert effective("memory: 2GiB", defaults).memory == 2 * 2**30
    with pytest.raises(CeilingError, match=r"over the ceiling of 1GiB \(policies/default.yaml:4\)"):
        effective("memory: 2GiB", defaults, TRIAL)


def test_a_tenants_ceiling_cannot_raise_the_general_one() -> None:
    defaults = "ceilings: {memory: 1GiB}\ntenants: {trial: {ceilings: {memory: 8GiB}}}\n"
    with pytest.raises(CeilingError):
        effective("memory: 2GiB", defaults, TRIAL)
    assert effective("", defaults, TRIAL).memory == 2**30


def test_gvisor_with_too_few_pids_is_refused_before_it_fails_to_start() -> None:
    with pytest.raises(
        PolicyError, match=r"blur.yaml:2:1: pids 20 is too few for isolation gvisor.*at least 64"
    ):
        effective("isolation: gvisor\npids: 20\n")
    assert effective("isolation: gvisor").pids >= 64


def test_more_variables_than_a_sandbox_needs_are_refused_across_layers() -> None:
    half = {f"A{i}": "x" for i in range(40)}
    other = {f"B{i}": "x" for i in range(40)}
    with pytest.raises(PolicyError, match="80 environment variables"):
        effective(f"environment: {half}", f"defaults: {{environment: {other}}}")


def test_a_host_path_is_kept_with_its_links_resolved(
    store: PolicyStore, write: Write, tmp_path: Path
) -> None:
    (tmp_path / "models" / "real").mkdir(parents=True)
    (tmp_path / "models" / "alias").symlink_to("real")
    write("default", f"path_roots: [{tmp_path}/models]\n")
    write("blur", f"paths:\n  - {{host: {tmp_path}/models/alias, mount: /mnt/m}}\n")
    (entry,) = store.effective(BLUR).paths
    assert isinstance(entry, HostPath)
    assert (entry.host, entry.mount, entry.access) == (f"{tmp_path}/models/real", "/mnt/m", "ro")


def test_a_host_path_that_leads_out_of_the_roots_is_refused_with_its_line(
    store: PolicyStore, write: Write, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "out").symlink_to("/etc")
    write("default", f"path_roots: [{tmp_path}/models]\n")
    write("blur", f"paths:\n  - {{tenant: input}}\n  - {{host: {tmp_path}/models/out, mount: /mnt/m}}\n")
    with pytest.raises(PathEscapeError) as caught:
        store.effective(BLUR)
    assert str(caught.value).startswith("policies/blur.yaml:3:6: paths[1]: path '")
    assert "leads to '/etc', which is outside the allowed roots" in str(caught.value)


def test_a_link_swapped_after_the_file_was_read_is_noticed(
    store: PolicyStore, write: Write, tmp_path: Path
) -> None:
    inside = tmp_path / "models" / "a"
    inside.mkdir(parents=True)
    write("default", f"path_roots: [{tmp_path}/models]\n")
    write("blur", f"paths: [{{host: {inside}, mount: /mnt/m}}]\n")
    store.effective(BLUR)
    inside.rmdir()
    inside.symlink_to("/etc")
    with pytest.raises(PathEscapeError):
        store.effective(BLUR)


@pytest.mark.parametrize("path", ["policies", ""])
def test_no_policy_can_mount_the_policies_or_what_contains_them(
    store: PolicyStore, write: Write, tmp_path: Path, path: str
) -> None:
    target = (tmp_path / path) if path else tmp_path
    write("default", f"path_roots: [{tmp_path}]\n")
    write("blur", f"paths: [{{host: {target}, mount: /mnt/m, access: rw}}]\n")
    with pytest.raises(PathEscapeError, match="overlaps Ringfence's own directory"):
        store.effective(BLUR)


def test_without_path_roots_no_host_path_is_allowed() -> None:
    with pytest.raises(PathEscapeError, match=r"\(none is set\); .*add a root to 'path_roots'"):
        effective("paths: [{host: /usr/share, mount: /mnt/m}]")


def test_a_tenants_path_roots_take_away_and_never_add(
    store: PolicyStore, write: Write, tmp_path: Path
) -> None:
    for name in ("shared/a", "shared/b", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    write(
        "default",
        f"path_roots: [{tmp_path}/shared]\ntenants:\n"
        f"  trial: {{path_roots: [{tmp_path}/shared/a, {tmp_path}/elsewhere]}}\n  none: {{path_roots: []}}\n",
    )

    def mounts(path: str, tenant: str) -> bool:
        text = f"paths: [{{host: {tmp_path}/{path}, mount: /mnt/m}}]\n"
        file = store.directory / "blur.yaml"
        if tenant != "local":
            file = store.directory / "tenants" / tenant / "blur.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        try:
            return len(store.effective(BLUR, TenantId(tenant)).paths) == 1
        except PathEscapeError:
            return False

    assert [mounts("shared/b", tenant) for tenant in ("local", "other", "trial", "none")] == [
        True,
        True,
        False,
        False,
    ]
    assert [mounts("shared/a", tenant) for tenant in ("trial", "none")] == [True, False]
    assert not mounts("elsewhere", "trial")


def test_the_core_nodes_see_all_of_output_and_temp(store: PolicyStore) -> None:
    policy = store.effective(CORE_EXTENSION)
    assert {(p.tenant, p.access, p.scope) for p in policy.paths if isinstance(p, TenantPath)} == {
        ("input", "ro", "tenant"),
        ("output", "rw", "tenant"),
        ("temp", "rw", "tenant"),
    }


def test_the_digest_is_of_the_values_and_not_of_the_files_that_said_them() -> None:
    assert effective("memory: 1GiB").digest() == effective("", "defaults: {memory: 1024MiB}").digest()
    assert effective("memory: 1GiB").digest() != effective("memory: 2GiB").digest()
    assert effective("environment: {A: x, B: y}").digest() == effective("environment: {B: y, A: x}").digest()


@pytest.mark.parametrize(
    "text",
    [
        "memory: 1GiB", "cpus: 2", "pids: 99", "nofile: 99", "tmp: 1MiB", "scratch: 1MiB", "shared_memory: 1MiB",
        "isolation: gvisor", "transport: stdio", "gpus: [0]", "environment: {A: x}", "paths: []", "group: g",
        "timeouts: {import: 1s}", "timeouts: {call: 1s}", "timeouts: {idle: 1s}", "timeouts: {grace: 1s}",
        "limits: {output_bytes: 1}", "limits: {outputs: 1}", "limits: {log_rate: 1}", "limits: {log_bytes: 1}",
        "limits: {expansion_nodes: 1}", "limits: {expansion_depth: 1}", "limits: {message_bytes: 4KiB}",
        "build: {network: false}", "network: {allow: [a.com:443]}", SECRET + NETWORK, "routes: true", "web_files: true",
        "build: {timeout: 1s}", "build: {source_builds: true}",
    ],
)  # fmt: skip
def test_every_key_of_a_policy_changes_the_digest(text: str) -> None:
    assert effective(text, RAISED).digest() != effective(defaults=RAISED).digest()


def test_nothing_of_an_effective_policy_can_be_changed_afterwards() -> None:
    policy = effective("environment: {A: x}")
    with pytest.raises(ValueError, match="frozen"):
        policy.memory = 1
    with pytest.raises(ValueError, match="frozen"):
        policy.timeouts.call_s = 1
    with pytest.raises(TypeError):
        policy.environment["LD_PRELOAD"] = "x"  # type: ignore[index]
    with pytest.raises(TypeError):
        policy.sources["memory"] = policy.source("cpus")  # type: ignore[index]


def test_an_explanation_names_every_value_as_a_file_would_write_it() -> None:
    rows = {row.key: row for row in explain(effective("memory: 1536MiB\nenvironment: {A: x}\ngroup: g\n"))}
    assert rows["memory"].value == "1536MiB"
    assert rows["timeouts.import"].value == "2m"
    assert rows["environment.A"].value == "x"
    assert rows["paths[1]"].value == "{tenant: output, access: rw, scope: extension}"
    assert rows["build.network"].value == "true"
    assert rows["gpus"].value == "[]"
    assert str(rows["group"].source) == "policies/blur.yaml:3"
    assert {key.partition("[")[0] for key in rows} == set(effective("environment: {A: x}\ngroup: g").sources)


SIZES = st.integers(min_value=2**24, max_value=2**36)


@given(st.none() | SIZES, st.none() | SIZES, st.none() | SIZES, st.none() | SIZES)
def test_no_mix_of_layers_ends_above_any_ceiling(
    own: int | None, default: int | None, general: int | None, tenants: int | None
) -> None:
    extension = f"memory: {own}" if own else ""
    parts = [f"defaults: {{memory: {default}}}"] if default else []
    parts += [f"ceilings: {{memory: {format_bytes(general)}}}"] if general else []
    parts += [f"tenants: {{trial: {{ceilings: {{memory: {tenants}}}}}}}"] if tenants else []
    try:
        policy = effective(extension, "\n".join(parts), TRIAL)
    except CeilingError:
        assert own or default  # only what somebody wrote is refused
        return
    assert policy.memory <= (general or 16 * 2**30)
    assert policy.memory <= (tenants or policy.memory)
    assert not own or policy.memory == own
