"""comfy-script: its Python API is built from /object_info; then run, progress, previews, results, cancel, errors."""

import base64
import contextlib
import io
import json
import sys
from pathlib import Path

import aiohttp
from comfy_script.runtime import Workflow, load, queue

facts = json.loads(sys.argv[1])
report = {}
said = io.StringIO()
picture = Path(facts["picture"]).read_bytes()


async def upload(picture):
    form = aiohttp.FormData()
    form.add_field("image", picture, filename="script.png", content_type="image/png")
    form.add_field("overwrite", "true")
    async with (
        aiohttp.ClientSession() as session,
        session.post(facts["url"] + "/upload/image", data=form) as answer,
    ):
        return (await answer.json())["name"]


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


async def develop(nodes, name):
    with Workflow(queue=False) as workflow:
        saved = nodes.SaveImage(nodes.RFDevelop(nodes.LoadImage(name)[0], 8, 0.1), "script")
    progress, previews = [], []
    task = await workflow._queue(source="")
    task.add_progress_callback(lambda seen: progress.append([seen.node_id, seen.value, seen.max]))
    task.add_preview_callback(lambda _task, node, image: previews.append([node, png(image)]))
    result = await task.result(saved)
    report["pictures"] = [png(image) for image in await result]
    await task
    report["progress"] = progress
    report["previews"] = previews


async def sleep(nodes, seconds):
    """A prompt that sleeps, and an event that says when it does."""
    with Workflow(queue=False) as workflow:
        nodes.RFSleep(seconds)
    task = await workflow._queue(source="")
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    task.add_progress_callback(lambda _seen: loop.call_soon_threadsafe(started.set))
    return task, started


async def cancel(nodes):
    """What runs is cancelled, and what waits begins; what waits is cancelled, too."""
    (first, first_started), (second, second_started) = await sleep(nodes, 60.0), await sleep(nodes, 61.0)
    for name, task, started in (("cancelled", first, first_started), ("next", second, second_started)):
        await asyncio.wait_for(started.wait(), 30)
        await queue._cancel_current()
        report[name] = [type(result).__name__ for result in await asyncio.wait_for(task, 30)]
    (_, started), (waiting, _) = await sleep(nodes, 62.0), await sleep(nodes, 63.0)
    await asyncio.wait_for(started.wait(), 30)
    await queue._cancel_remaining()
    async with aiohttp.ClientSession() as session, session.get(facts["url"] + "/queue") as answer:
        seen = await answer.json()
    report["queue"] = [len(seen["queue_running"]), len(seen["queue_pending"])]
    # With an empty queue this client ends the tasks that never ran and forgets the one that did: nobody waits for it.
    await queue._cancel_current()
    report["waiting"] = [type(result).__name__ for result in await asyncio.wait_for(waiting, 30)]


async def errors(nodes, name):
    with Workflow(queue=False) as workflow:
        nodes.SaveImage(nodes.RFDevelop(nodes.LoadImage(name)[0], 4, 0.1, facts["text"]), "script")
    failed = await workflow._queue(source="")
    report["failed"] = await asyncio.wait_for(failed, 30)
    with Workflow(queue=False) as workflow:
        nodes.RFReport("x", more=None)
    workflow._outputs[0].node_prompt["inputs"].pop("text")
    report["refused"] = await workflow._queue(source="") is None


async def main():
    from comfy_script.runtime import nodes

    name = await upload(picture)
    await develop(nodes, name)
    await cancel(nodes)
    await errors(nodes, name)


import asyncio  # noqa: E402 - comfy_script.runtime must patch it first

with contextlib.redirect_stdout(said):
    load(facts["url"])
    asyncio.run(main())
report["said"] = said.getvalue()
print(json.dumps(report))
