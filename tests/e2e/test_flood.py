"""One tenant floods with everything it has; the other works on, slower but without an error. A server of its own."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from benchmarks.flood import Samples, flooding, tenant
from benchmarks.served import OPERATOR, server

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


def test_a_tenant_that_floods_is_refused_by_its_quotas_and_the_other_gets_every_prompt_done(
    tmp_path: Path,
) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "default.yaml").write_text(
        "tenants: {a: {quotas: {queued: 5, websockets: 8, requests: 20, burst: 40, cpu_seconds: 20, disk: 8MiB}}}\n"
    )
    with server(tmp_path) as served:
        url, samples = served.url, Samples()
        b, a = tenant(url, "b", "small"), tenant(url, "a", "burner")
        with flooding(url, a):
            samples.add(url, b, 15)
            assert len(samples.heard_ms) == len(samples.served_ms) == 15
            headers = {"Authorization": f"Bearer {OPERATOR}"}
            with httpx2.Client(base_url=url, headers=headers, timeout=60) as http:
                quotas = http.get("/ringfence/v1/tenants/a/usage").json()["quotas"]
                metrics = http.get("/metrics").text
        assert quotas["websockets"]["used"] <= 8
        assert quotas["queued"]["used"] <= 5
        assert quotas["queued"]["source"] == "policies/default.yaml:1"
        assert 'ringfence_quota_refusals{quota="requests",tenant="a"}' in metrics
        assert 'tenant="b"} 0.0' in metrics
