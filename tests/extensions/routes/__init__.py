"""Routes of every kind that packs register, one that hangs, one that lies, and prompt handlers."""

import asyncio
import os

from aiohttp import web
from comfy_api.latest import io
from server import PromptServer

HERE = os.path.dirname(os.path.abspath(__file__))
server = PromptServer.instance
routes = server.routes


@routes.get("/rf/hello")
async def hello(request):
    return web.json_response({"hello": request.query.get("name", "nobody"), "path": request.path})


@routes.get("/rf/items/{item}")
async def item(request):
    return web.json_response({"item": request.match_info["item"]})


@routes.post("/rf/echo")
async def echo(request):
    body = await request.read()
    headers = sorted(f"{name.lower()}: {value}" for name, value in request.headers.items())
    return web.json_response({"bytes": len(body), "start": body[:20].decode(), "headers": headers})


@routes.post("/rf/form")
async def form(request):
    data = await request.post()
    return web.json_response({name: getattr(value, "filename", value) for name, value in data.items()})


@routes.get("/rf/large")
async def large(request):
    """As many bytes as asked for, written piece by piece."""
    left = int(request.query["bytes"])
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    await response.prepare(request)
    while left > 0:
        piece = min(left, 100_000)
        await response.write(b"x" * piece)
        left -= piece
    return response


@routes.get("/rf/socket")
async def socket(request):
    """Says what it was asked with, answers each message, and does as it is told by some."""

    def tell(state, **more):
        server.send_sync("rf.socket", {"who": request.query.get("who"), "state": state, **more})

    ws = web.WebSocketResponse(protocols=("rf.v2", "rf.v1"))
    if not ws.can_prepare(request):
        return web.Response(status=426, text="a WebSocket is expected")
    if "refuse" in request.query:
        raise web.HTTPForbidden(text="not today")
    await ws.prepare(request)
    headers = sorted(f"{name.lower()}: {value}" for name, value in request.headers.items())
    await ws.send_json({"path": request.path_qs, "protocol": ws.ws_protocol, "headers": headers})
    async for message in ws:
        if message.type == web.WSMsgType.BINARY:
            await ws.send_bytes(message.data[::-1])
        elif message.data == "close":
            await ws.close(code=4321, message=b"as you wish")
        elif message.data == "raise":
            raise RuntimeError("this handler fails")
        elif message.data == "exit":
            os._exit(3)
        elif message.data == "leave":
            return ws
        elif message.data.startswith("large "):
            await ws.send_str("x" * int(message.data.removeprefix("large ")))
        elif message.data.startswith("flood "):
            for number in range(int(message.data.removeprefix("flood "))):
                await ws.send_str(str(number))
            tell("all sent")
        elif message.data == "sleep":
            tell("asleep")
            await waiting.wait()
        elif message.data == "late":
            routes.get("/rf/late")(hello)
            await ws.send_str("registered")
        elif message.data == "ask":
            await ws.send_str("which?")
            await ws.send_json({"json": await ws.receive_json(), "text": await ws.receive_str()})
        else:
            await ws.send_str(message.data.upper())
    tell("ended", code=ws.close_code, closed=ws.closed, exception=repr(ws.exception()))
    return ws


waiting = asyncio.Event()


@routes.get("/rf/hangs")
async def hangs(request):
    """Tells that it began, and never answers."""
    server.send_sync("rf.hangs", {"state": "began"})
    await waiting.wait()


@routes.get("/rf/raises")
async def raises(request):
    raise RuntimeError("this route always fails")


@routes.get("/rf/breaks")
async def breaks(request):
    """Promises more than it sends."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"only this")
    request.transport.close()
    return response


@routes.get("/rf/page")
async def page(request):
    return web.Response(text="<script>alert(1)</script>", content_type="text/html")


@routes.get("/rf/script")
async def script(request):
    return web.Response(text="alert(1)", content_type="text/javascript")


@routes.get("/rf/headers")
async def headers(request):
    response = web.Response(text="x", headers={"X-Own": "1", "Service-Worker-Allowed": "/", "ETag": '"e"'})
    response.set_cookie("session", "stolen")
    return response


@routes.get("/rf/leave")
async def leave(request):
    raise web.HTTPFound(request.query["to"])


@routes.get("/system_stats")
async def shadow(request):
    """ComfyUI's own routes always win."""
    return web.json_response({"shadowed": True})


@routes.view("/rf/view")
class View(web.View):
    async def get(self):
        return web.Response(text="a view")


@routes.get("/{everything:.*}")
async def everything(request):
    return web.Response(text="everything")


server.app.router.add_get("/rf/on_app", hello)
server.app.add_routes([web.put("/rf/put", echo)])
routes.static("/rf/static", os.path.join(HERE, "static"))


@web.middleware
async def stamp(request, handler):
    response = await handler(request)
    response.headers["ETag"] = '"stamped"'
    return response


server.app.middlewares.append(stamp)


def rename(body):
    """Turns a class that nobody has into ours."""
    for entry in body.get("prompt", {}).values():
        if entry.get("class_type") == "RFOldName":
            entry["class_type"] = "RFRoutes"
    body.setdefault("extra_data", {})["rf_seen"] = sorted(body["extra_data"])
    return body


def broken(body):
    raise ValueError("a handler that fails")


server.add_on_prompt_handler(broken)
server.add_on_prompt_handler(rename)
server.node_replace_manager.register(
    io.NodeReplace("RFRoutes", "RFAncient", input_mapping=[{"new_id": "text", "old_id": "words"}])
)


class RFRoutes:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"text": ("STRING", {"default": ""})}})
    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "tests"
    OUTPUT_NODE = True

    def run(self, text):
        return {"ui": {"text": [text]}, "result": (text,)}


class RFWho:
    """What a node learns of the prompt that it is part of."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "tests"
    OUTPUT_NODE = True

    def run(self):
        running = [entry[1] for entry in server.prompt_queue.currently_running.values()]
        told = [server.client_id, server.last_node_id, server.last_prompt_id == running[0]]
        return {"ui": {"told": told}, "result": (str(told),)}


NODE_CLASS_MAPPINGS = {"RFRoutes": RFRoutes, "RFWho": RFWho}
