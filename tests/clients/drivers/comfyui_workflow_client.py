"""comfyui-workflow-client: results by the titles of nodes; it reads /history when ``executing`` says null."""

import asyncio
import base64
import io
import json
import sys
from pathlib import Path
from urllib.parse import urlsplit

from comfyuiclient import ComfyUIClient, ComfyUIClientAsync
from PIL import Image

facts = json.loads(sys.argv[1])
Path("workflow.json").write_text(json.dumps(facts["plain"]), encoding="utf-8")
address = urlsplit(facts["url"]).netloc
picture = Image.open(facts["picture"])
report = {}


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


client = ComfyUIClient(address, "workflow.json")
client.connect()
client.set_data(key="Load", image=picture)
report["pictures"] = [encoded(client.generate(["Save"])["Save"])]
client.close()


async def main():
    client = ComfyUIClientAsync(address, "workflow.json")
    await client.connect()
    await client.set_data(key="Load", image=picture)
    report["asynchronous"] = [encoded((await client.generate(["Save"]))["Save"])]
    await client.close()


asyncio.run(main())
print(json.dumps(report))
