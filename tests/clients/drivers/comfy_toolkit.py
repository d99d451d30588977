"""comfy-toolkit: submits with an open WebSocket, follows steps and nodes, collects; and by polling; errors."""

import base64
import json
import sys

from comfy_toolkit import ComfyClient

facts = json.loads(sys.argv[1])
client = ComfyClient(facts["url"])
report = {"online": client.is_online(), "steps": [], "nodes": []}


def error_of(call):
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return None


tracked = client.submit_and_track(
    facts["developed"],
    on_progress=lambda step, total: report["steps"].append([step, total]),
    on_node=report["nodes"].append,
)
report["pictures"] = [base64.b64encode(client.download(image)).decode() for image in tracked["images"]]
polled = client.wait(client.submit(facts["plain"]))
report["polled"] = [base64.b64encode(client.download(image)).decode() for image in polled["images"]]
report["failed"] = error_of(lambda: client.submit_and_track(facts["failing"]))
report["refused"] = error_of(lambda: client.submit(facts["invalid"]))
report["queue"] = client.queue_status()
report["memory"] = client.vram_stats()["name"]
print(json.dumps(report))
