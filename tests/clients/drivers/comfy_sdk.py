"""comfy-sdk: assets by hash, a run with live events, results in whole and in part, cancelling, listing, errors.

The same program speaks to this server's own Comfy API v2 and to comfy-api-proxy in front of its V1.
"""

import asyncio
import base64
import json
import os
import sys
from pathlib import Path

facts = json.loads(sys.argv[1])
os.environ["COMFY_BASE_URL"] = facts["url"]

import comfy_sdk  # noqa: E402 - it reads its address from the environment
from comfy_sdk import AsyncComfy, Comfy, Log, OutputReady, Preview, Progress, StatusChange  # noqa: E402

report = {}


def encoded(data):
    return base64.b64encode(data).decode()


def error_of(call):
    try:
        call()
    except comfy_sdk.ComfyError as error:
        cause = getattr(error, "error", None)
        detail = (
            {name: getattr(cause, name, None) for name in ("code", "node_id", "message")} if cause else None
        )
        return {"name": type(error).__name__, "code": error.code, "message": str(error), "error": detail}
    return None


def with_picture(client, graph):
    workflow = client.workflows.from_json(graph)
    workflow.set_input("1", "image", client.assets.from_file(facts["picture"]))
    return workflow


def settled(job):
    """Wait for a job's end.

    comfy-api-proxy looks into the history, then into the queue: a job that ends between the two looks is "expired"
    until somebody asks again.
    """
    job.wait(timeout=60)
    return job.refresh() if job.status == "expired" else job


def run(client, graph):
    return settled(client.submit(with_picture(client, graph))).result()


def watched(job):
    seen = {"status": [], "progress": [], "previews": [], "outputs": [], "logs": 0}
    for event in job.events():
        match event:
            case StatusChange():
                seen["status"].append(event.status)
            case Progress():
                seen["progress"].append([event.value, event.current_node, event.step, event.steps])
            case Preview():
                seen["previews"].append([event.node_id, event.content_type, encoded(event.data)])
            case OutputReady():
                seen["outputs"].append([event.output.node_id, event.output.name])
            case Log():
                seen["logs"] += 1
    return seen


with Comfy() as client:
    asset = client.assets.from_file(facts["picture"])
    report["asset"] = [asset.commit(), asset.hash, asset.created_new]
    again = client.assets.from_file(facts["picture"])
    report["again"] = [again.commit(), again.created_new]

    job = client.submit(with_picture(client, facts["developed"]))
    report["watched"] = watched(job)
    settled(job).result()
    report["status"] = job.status
    output = job.get_outputs("3")[0]
    report["output"] = [output.name, output.type, output.content_type, output.size_bytes]
    data = output.to_bytes()
    report["pictures"] = [encoded(data)]
    report["part"] = [
        output.to_bytes(range=(0, 7)) == data[:8],
        output.to_file("whole.png").read_bytes() == data,
    ]
    produced = job.get_workflow()
    report["workflow"] = [produced.format, sorted(produced.graph)]

    report["plain"] = [encoded(run(client, facts["plain"]).get_outputs("3")[0].to_bytes())]

    sleeping = client.submit(client.workflows.from_json(facts["sleeping"]))
    for event in sleeping.events():
        if isinstance(event, Progress) and event.current_node:
            break
    sleeping.cancel()
    report["cancelled"] = settled(sleeping).status
    report["cancelled_error"] = error_of(sleeping.result)

    report["failed"] = error_of(lambda: run(client, facts["failing"]))
    report["refused"] = error_of(lambda: client.submit(client.workflows.from_json(facts["invalid"])))
    report["ui_format"] = error_of(
        lambda: client.submit(client.workflows.from_json({"nodes": [], "links": []}))
    )
    report["unknown"] = error_of(lambda: client.jobs.get("00000000-0000-4000-8000-000000000000"))
    key = "the-same-key"
    first = client.submit(with_picture(client, facts["plain"]), idempotency_key=key)
    report["reused"] = error_of(
        lambda: client.submit(with_picture(client, facts["plain"]), idempotency_key=key)
    )
    settled(first).result()
    report["jobs"] = [one.id for one in client.list_jobs()].count(job.id)


async def asynchronous():
    async with AsyncComfy() as client:
        workflow = client.workflows.from_json(facts["plain"])
        workflow.set_input("1", "image", client.assets.from_file(facts["picture"]))
        job = await client.submit(workflow)
        await job.wait(timeout=60)
        if job.status == "expired":  # see settled()
            await job.refresh()
        await job.result()
        return encoded(await job.get_outputs("3")[0].to_bytes())


report["asynchronous"] = [asyncio.run(asynchronous())]
report["left"] = Path("whole.png").stat().st_size
print(json.dumps(report))
