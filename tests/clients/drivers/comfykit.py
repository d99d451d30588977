"""comfykit: parameters by the titles of nodes, uploads, results by name; by polling and by WebSocket; errors."""

import asyncio
import json
import sys

from comfykit import ComfyKit

facts = json.loads(sys.argv[1])
report = {}
graph = facts["plain"]
graph["1"]["_meta"]["title"] = "Load, $~image!"
graph["3"]["_meta"]["title"] = "$output.saved"


async def main():
    for kind in ("http", "websocket"):
        kit = ComfyKit(comfyui_url=facts["url"], executor_type=kind)
        done = await kit.execute_json(graph, {"image": facts["picture"]})
        report[kind] = [done.status, done.images_by_var, done.msg]
        failing = json.loads(json.dumps(facts["failing"]))
        failing["1"]["_meta"]["title"] = "Load, $~image!"
        failed = await kit.execute_json(failing, {"image": facts["picture"]})
        report[f"{kind} failed"] = [failed.status, failed.msg]


asyncio.run(main())
print(json.dumps(report))
