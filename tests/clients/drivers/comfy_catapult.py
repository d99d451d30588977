"""comfy-catapult: all that the server answers goes through its pydantic models; a run with an id of its own choice."""

import asyncio
import base64
import json
import sys
import uuid
from pathlib import Path

from comfy_catapult.api_client import ComfyAPIClient

facts = json.loads(sys.argv[1])
picture = Path(facts["picture"])
data = picture.read_bytes()
report = {}


async def until(look):
    """Ask again until there is an answer: this client only polls."""
    async with asyncio.timeout(60):
        while not (found := await look()):  # noqa: ASYNC110 - the answer comes from the server
            await asyncio.sleep(0.1)
    return found


async def main():
    async with ComfyAPIClient(facts["url"]) as api:
        report["stats"] = (await api.GetSystemStats()).system.os
        report["nodes"] = sorted((await api.GetObjectInfo()).root)
        stored = await api.PostUploadImage(
            folder_type="input", subfolder="", filename=picture.name, data=data, overwrite=True
        )
        report["stored"] = stored.name
        facts["plain"]["1"]["inputs"]["image"] = stored.name
        prompt_id = str(uuid.uuid4())
        ticket = await api.PostPrompt(prompt_workflow=facts["plain"], prompt_id=prompt_id)
        report["ticket"] = ticket.prompt_id == prompt_id

        async def ended(prompt_id):
            return (await api.GetHistory(prompt_id=prompt_id)).root.get(prompt_id)

        entry = await until(lambda: ended(prompt_id))
        report["status"] = entry.status.status_str
        image = entry.outputs["3"].root["images"][0]
        shown = await api.GetView(
            folder_type=image["type"], subfolder=image["subfolder"], filename=image["filename"]
        )
        report["pictures"] = [base64.b64encode(shown).decode()]
        queued = await api.PostPrompt(prompt_workflow=facts["sleeping"])

        async def running():
            return (await api.GetQueue()).queue_running

        await until(running)
        report["remaining"] = (await api.GetPrompt()).exec_info.queue_remaining
        await api.PostInterrupt()
        report["interrupted"] = (await until(lambda: ended(queued.prompt_id))).status.status_str
        report["history"] = len((await api.GetHistory()).root) >= 2


asyncio.run(main())
print(json.dumps(report))
