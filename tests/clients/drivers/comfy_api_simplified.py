"""comfy-api-simplified: upload, run, previews, fetch; the queue; an interruption; errors."""

import asyncio
import base64
import json
import sys
import time

from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper

facts = json.loads(sys.argv[1])
api = ComfyApiWrapper(facts["url"], user=facts["user"], password=facts["password"])
report = {}


def encoded(pictures):
    return [base64.b64encode(picture).decode() for picture in pictures]


def error_of(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


stored = api.upload_image(facts["picture"], subfolder="simplified")
report["stored"] = stored
name = f"{stored['subfolder']}/{stored['name']}"

# It connects after it has posted, and takes what previews it still sees for the result.
workflow = ComfyWorkflowWrapper(facts["developed"])
workflow.set_node_param("Load", "image", name)
prompt_id, previews = asyncio.run(api.queue_prompt_and_wait(workflow))
report["previews"] = encoded(previews)
images = api.get_history(prompt_id)[prompt_id]["outputs"][workflow.get_node_id("Save")]["images"]
report["pictures"] = encoded(api.get_image(i["filename"], i["subfolder"], i["type"]) for i in images)

# Without previews it fetches the files.
plain = ComfyWorkflowWrapper(facts["plain"])
plain.set_node_param("Load", "image", name)
report["plain"] = encoded(api.queue_and_wait_images(plain, "Save").values())
report["again"] = encoded(api.queue_and_wait_images(plain, "Save").values())

queued = [api.queue_prompt(facts["sleeping"])["prompt_id"] for _ in range(6)]
end = time.monotonic() + 30
while api.get_queue_size_before(queued[0]) and time.monotonic() < end:
    pass
report["before"] = [api.get_queue_size_before(queued[0]), api.get_queue_size_before(queued[-1])]
while (queue := api.get_queue())["queue_running"] or queue["queue_pending"]:
    assert time.monotonic() < end, queue
    api.interrupt()
report["interrupted"] = [api.get_history(one)[one]["status"]["status_str"] for one in queued]

report["refused"] = error_of(lambda: api.queue_prompt(facts["invalid"]))
failing = ComfyWorkflowWrapper(facts["failing"])
failing.set_node_param("Load", "image", name)
report["failed"] = error_of(lambda: asyncio.run(api.queue_prompt_and_wait(failing)))
report["unknown"] = error_of(lambda: api.get_queue_size_before("no-such-prompt"))
report["os"] = api.get_system_stats()["system"]["os"]
report["embeddings"] = api.get_embeddings()
print(json.dumps(report))
