"""Nodes that do one odd thing each, for comparing what ComfyUI makes of it with what Ringfence does.

Names begin with what they are about: Ret(urns), Ui, Block, Hid(den), Ic (IS_CHANGED), V (VALIDATE_INPUTS), Lz (lazy),
Ex(pansion), T (V3). ``tests/compat/semantics.py`` holds the prompts.
"""

import asyncio
import json

from comfy.model_management import InterruptProcessingException
from comfy_api.latest import io, ui
from comfy_execution.graph import ExecutionBlocker
from comfy_execution.graph_utils import GraphBuilder
from comfy_execution.utils import get_executing_context


class Any(str):
    def __ne__(self, other):
        return False


ANY = Any("*")


def show(v):
    if isinstance(v, (list, tuple)):
        return [type(v).__name__] + [show(x) for x in v]
    if isinstance(v, dict):
        return {k: show(x) for k, x in v.items()}
    if v is None or isinstance(v, (str, int, float, bool)):
        return v
    return type(v).__name__


def N(name, required=None, optional=None, hidden=None, returns=(), fn=None, output=False, **attrs):
    d = {"required": required or {}}
    if optional is not None:
        d["optional"] = optional
    if hidden is not None:
        d["hidden"] = hidden
    body = {
        "INPUT_TYPES": classmethod(lambda c: d),
        "RETURN_TYPES": returns,
        "FUNCTION": "run",
        "CATEGORY": "t",
        "run": fn,
        "OUTPUT_NODE": output,
    }
    body.update(attrs)
    cls = type(name, (), body)
    NODE_CLASS_MAPPINGS[name] = cls
    return cls


NODE_CLASS_MAPPINGS = {}


def out(**ui):
    return {"ui": ui}


N("Out", {"x": (ANY,)}, fn=lambda self, x: out(v=[show(x)]), output=True)
N("OutKw", {}, {"a": (ANY,)}, fn=lambda self, **kw: out(v=[show(kw)]), output=True)
N("OutList", {"x": (ANY,)}, fn=lambda self, x: out(v=[show(x)]), output=True, INPUT_IS_LIST=True)
N("OutTruthy", {"x": (ANY,)}, fn=lambda self, x: out(v=[show(x)]), output=1)
N(
    "OutPass",
    {"x": (ANY,)},
    returns=(ANY,),
    fn=lambda self, x: {"ui": {"v": [show(x)]}, "result": (x,)},
    output=True,
)
N("I", {"v": ("INT", {"min": -10, "max": 10, "default": 0})}, returns=("INT",), fn=lambda self, v: (v,))
N("F", {"v": ("FLOAT", {"min": -10.0, "max": 10.0})}, returns=("FLOAT",), fn=lambda self, v: (v,))
N("S", {"v": ("STRING",)}, returns=("STRING",), fn=lambda self, v: (v,))
N("B", {"v": ("BOOLEAN",)}, returns=("BOOLEAN",), fn=lambda self, v: (v,))
N("U", {"v": ("INT,FLOAT", {"min": 0})}, returns=("INT,FLOAT",), fn=lambda self, v: (v,))
N("C", {"v": (["a", "b", 3, True],)}, returns=(["a", "b"],), fn=lambda self, v: (v,))
N("C2", {"v": ("COMBO", {"options": ["a", "b"]})}, returns=("COMBO",), fn=lambda self, v: (v,))
N("CMany", {"v": ([f"o{i}" for i in range(30)],)}, returns=("STRING",), fn=lambda self, v: (v,))
N("W", {"v": ("WEIRD", {"min": 5})}, returns=("WEIRD",), fn=lambda self, v: (v,))
N(
    "Opt",
    {"a": ("INT",)},
    {"b": ("INT", {"min": 0}), "c": ("STRING",)},
    returns=("STRING",),
    fn=lambda self, a, b="dflt", c="dflt": (json.dumps([a, b, c]),),
)
N("List3", {"n": ("INT",)}, returns=("INT",), fn=lambda self, n: (list(range(n)),), OUTPUT_IS_LIST=(True,))
N(
    "ListS",
    {"s": ("STRING",)},
    returns=("STRING",),
    fn=lambda self, s: ([x for x in s.split(",") if x],),
    OUTPUT_IS_LIST=(True,),
)
N("Add", {"a": (ANY,), "b": (ANY,)}, returns=(ANY,), fn=lambda self, a, b: (a + b,))
N("AddDef", {"a": (ANY,)}, {"b": (ANY,)}, returns=(ANY,), fn=lambda self, a=100, b=200: (a + b,))
N(
    "SumList",
    {"a": (ANY,)},
    {"k": ("INT",)},
    returns=(ANY, ANY),
    fn=lambda self, a, k=None: (sum(a), show(k)),
    INPUT_IS_LIST=True,
)
N("Two", {"a": (ANY,)}, returns=(ANY, ANY), fn=lambda self, a: (a, [a, a]), OUTPUT_IS_LIST=(False, True))
N("Fewer", {"a": (ANY,)}, returns=(ANY, ANY, ANY), fn=lambda self, a: (a,))
N("More", {"a": (ANY,)}, returns=(ANY,), fn=lambda self, a: (a, "more", "most"))
N("MoreL", {"a": (ANY,)}, returns=(ANY,), fn=lambda self, a: (a, "more", "most"), OUTPUT_IS_LIST=(False,))
N("Vary", {"a": ("INT",)}, returns=(ANY, ANY), fn=lambda self, a: (a,) if a else (a, a))
N("Vary2", {"a": ("INT",)}, returns=(ANY, ANY), fn=lambda self, a: (a, a) if a else (a,))
N("RetNone", {"a": (ANY,)}, returns=(ANY,), fn=lambda self, a: None)
N("RetStr", {"a": (ANY,)}, returns=(ANY,), fn=lambda self, a: "xyz")
N("RetInt", {"a": (ANY,)}, returns=(ANY,), fn=lambda self, a: 7)
N("RetList", {"a": (ANY,)}, returns=(ANY, ANY), fn=lambda self, a: [a, 9])
N("RetEmptyT", {"a": (ANY,)}, returns=(ANY,), fn=lambda self, a: ())
N("RetEmptyD", {"a": (ANY,)}, returns=(ANY,), fn=lambda self, a: {})
N("RetUi", {"a": (ANY,)}, returns=(ANY,), fn=lambda self, a: {"ui": {"k": [a]}}, output=True)
N("RetResNone", {"a": (ANY,)}, returns=(ANY,), fn=lambda self, a: {"result": None})
N("RetSet", {"a": (ANY,)}, returns=(ANY,), fn=lambda self, a: {1, 2})
N("NotList", {"a": (ANY,)}, returns=(ANY,), fn=lambda self, a: (5,), OUTPUT_IS_LIST=(True,))
N("StrList", {"a": (ANY,)}, returns=(ANY,), fn=lambda self, a: ("abc",), OUTPUT_IS_LIST=(True,))
N("UiBad", {"a": (ANY,)}, returns=(), fn=lambda self, a: {"ui": {"k": 5}}, output=True)
N("UiStr", {"a": (ANY,)}, returns=(), fn=lambda self, a: {"ui": {"k": "abc"}}, output=True)
N("UiDict", {"a": (ANY,)}, returns=(), fn=lambda self, a: {"ui": {"k": {"p": 1}}}, output=True)
N(
    "UiVary",
    {"a": ("INT",)},
    returns=(),
    fn=lambda self, a: {"ui": {"k": [a]}} if a % 2 else {"ui": {"k": [a], "j": [a]}},
    output=True,
)
N(
    "UiMiss",
    {"a": ("INT",)},
    returns=(),
    fn=lambda self, a: {"ui": {"k": [a], "j": [a]}} if a == 0 else {"ui": {"k": [a]}},
    output=True,
)
N(
    "UiSome",
    {"a": ("INT",)},
    returns=(ANY,),
    fn=lambda self, a: {"ui": {"k": (a,)}, "result": (a,)} if a % 2 else (a,),
    output=True,
)
N("UiEmpty", {"a": (ANY,)}, returns=(), fn=lambda self, a: {"ui": {}}, output=True)
N("Raise", {"a": (ANY,)}, returns=(ANY,), fn=lambda self, a: 1 / 0)


class MyError(Exception):
    pass


def _raise(self, a):
    raise MyError("odd text")


N("RaiseMine", {"a": (ANY,)}, {"t": (ANY,)}, returns=(ANY,), fn=_raise)


def _int(self, a):
    raise InterruptProcessingException


N("Interrupt", {"a": (ANY,)}, returns=(ANY,), fn=_int)
N(
    "Block",
    {"a": (ANY,), "m": ("STRING",)},
    returns=(ANY, ANY),
    fn=lambda self, a, m: (ExecutionBlocker(m or None), a),
)
N(
    "BlockAll",
    {"a": (ANY,), "m": ("STRING",)},
    returns=(ANY, ANY),
    fn=lambda self, a, m: ExecutionBlocker(m or None),
)
N(
    "BlockRes",
    {"a": (ANY,), "m": ("STRING",)},
    returns=(ANY, ANY),
    fn=lambda self, a, m: {"result": ExecutionBlocker(m or None)},
)
N(
    "BlockUi",
    {"a": (ANY,), "m": ("STRING",)},
    returns=(ANY,),
    fn=lambda self, a, m: {"ui": {"k": [1]}, "result": (ExecutionBlocker(m or None),)},
    output=True,
)
N(
    "BlockIf",
    {"a": ("INT",), "m": ("STRING",)},
    returns=(ANY,),
    fn=lambda self, a, m: (ExecutionBlocker(m or None) if a == 1 else a,),
)
N(
    "BlockInList",
    {"m": ("STRING",)},
    returns=(ANY,),
    fn=lambda self, m: ([1, ExecutionBlocker(m or None), 3],),
    OUTPUT_IS_LIST=(True,),
)
N(
    "BlockAsList",
    {"m": ("STRING",)},
    returns=(ANY,),
    fn=lambda self, m: (ExecutionBlocker(m or None),),
    OUTPUT_IS_LIST=(True,),
)
# hidden
N(
    "Hid",
    {"a": (ANY,)},
    hidden={
        "p": "PROMPT",
        "d": "DYNPROMPT",
        "e": "EXTRA_PNGINFO",
        "u": "UNIQUE_ID",
        "t": "AUTH_TOKEN_COMFY_ORG",
        "k": "API_KEY_COMFY_ORG",
        "o": "OTHER",
        "q": ("*",),
    },
    output=True,
    fn=lambda self, a, p="D", d="D", e="D", u="D", t="D", k="D", o="D", q="D": out(
        v=[show(p), type(d).__name__, sorted(d.all_node_ids()), show(e), u, t, k, o, q]
    ),
)
N(
    "HidList",
    {"a": (ANY,)},
    hidden={"u": "UNIQUE_ID"},
    output=True,
    INPUT_IS_LIST=True,
    fn=lambda self, **kw: out(v=[show(kw)]),
)
N(
    "Ctx",
    {"a": (ANY,)},
    output=True,
    fn=lambda self, a: out(v=[get_executing_context().node_id, get_executing_context().list_index]),
)
N("Raw", {"x": (ANY, {"rawLink": True})}, fn=lambda self, x: out(v=[show(x)]), output=True)
N("RawOpt", {}, {"x": (ANY, {"rawLink": True})}, fn=lambda self, x="none": out(v=[show(x)]), output=True)


class Flex(dict):
    def __contains__(self, k):
        return True

    def __getitem__(self, k):
        return (ANY,) if k not in self.keys() else dict.__getitem__(self, k)


N("FlexIn", {}, Flex(), fn=lambda self, **kw: out(v=[show(kw)]), output=True)


# state
def counter(self):
    self.n = getattr(self, "n", 0) + 1
    return out(n=[self.n])


N(
    "Counter",
    {},
    {"x": (ANY,)},
    fn=lambda self, x=None: counter(self),
    output=True,
    IS_CHANGED=classmethod(lambda c, **kw: float("nan")),
)


# is changed
def ic(name, f, **kw):
    N(
        name,
        {"a": (ANY,)},
        {"b": (ANY,)},
        fn=kw.pop("fn", lambda self, a, b=None: out(v=[show(a)])),
        output=True,
        IS_CHANGED=f,
        **kw,
    )


ic("IcTrue", classmethod(lambda c, a, b=None: True))
ic("IcNan", classmethod(lambda c, a, b=None: float("nan")))
ic("IcArg", classmethod(lambda c, a, b="dflt": [a, b]))
ic("IcStatic", staticmethod(lambda a, b="dflt": a))
ic("IcRaise", classmethod(lambda c, a, b=None: 1 / 0))
ic("IcMissing", classmethod(lambda c, a, b, z: 1))
ic("IcDict", classmethod(lambda c, a, b=None: {"k": [1, 2]}))
ic("IcObj", classmethod(lambda c, a, b=None: object()))
ic("IcBytes", classmethod(lambda c, a, b=None: b"xx"))


async def _aic(c, a, b=None):
    await asyncio.sleep(0)
    return 3


ic("IcAsync", classmethod(_aic))
N(
    "IcHid",
    {"a": (ANY,)},
    hidden={"u": "UNIQUE_ID", "p": "PROMPT", "e": "EXTRA_PNGINFO", "d": "DYNPROMPT"},
    output=True,
    IS_CHANGED=classmethod(lambda c, a, u, p, e, d: [a, u, show(p), e, show(d)]),
    fn=lambda self, a, u, p, e, d: out(v=[show(p[u].get("is_changed"))]),
)
N(
    "IcList",
    {"a": (ANY,)},
    {"b": (ANY,)},
    INPUT_IS_LIST=True,
    output=True,
    IS_CHANGED=classmethod(lambda c, a, b="dd": [show(a), show(b)]),
    hidden={"p": "PROMPT", "u": "UNIQUE_ID"},
    fn=lambda self, a, p, u, b=None: out(v=[show(p[0][u[0]].get("is_changed"))]),
)


# validators
def val(name, f, **kw):
    N(
        name,
        {"a": ("INT", {"min": 0, "max": 5})},
        {"b": (["x", "y"],), "c": (ANY,)},
        fn=lambda self, a, b=None, c=None: out(v=[a]),
        output=True,
        VALIDATE_INPUTS=f,
        **kw,
    )


val("VTrue", classmethod(lambda c, a: True))
val("VFalse", classmethod(lambda c, a: False))
val("VText", classmethod(lambda c, a: "no good"))
val("VNone", classmethod(lambda c, a: None))
val("VOne", classmethod(lambda c, a: 1))
val("VEmpty", classmethod(lambda c, a: ""))
val("VNoArg", classmethod(lambda c: "lost"))
val("VKw", classmethod(lambda c, **kw: "kw " + json.dumps(show(kw), sort_keys=True)))
val("VNamed", classmethod(lambda c, a, b="dflt": f"{a} {b}" if a != 1 else True))
val("VNeeds", classmethod(lambda c, a, b: True))
val("VTypes", classmethod(lambda c, input_types: json.dumps(input_types, sort_keys=True)))
val("VTypesOk", classmethod(lambda c, input_types: True))
val("VStatic", staticmethod(lambda a: "static"))
val("VRaise", classmethod(lambda c, a: 1 / 0))


async def _av(c, a):
    await asyncio.sleep(0)
    return "async no"


val("VAsync", classmethod(_av))
val(
    "VList",
    classmethod(lambda c, a, b=None, c_=None: "L " + json.dumps([show(a), show(b)])),
    INPUT_IS_LIST=True,
)
val("VBlock", classmethod(lambda c, a: ExecutionBlocker("m")))
N(
    "VHid",
    {"a": ("INT",)},
    hidden={"u": "UNIQUE_ID", "p": "PROMPT", "e": "EXTRA_PNGINFO", "d": "DYNPROMPT", "o": "OTHER"},
    output=True,
    VALIDATE_INPUTS=classmethod(lambda c, **kw: json.dumps(show(kw), sort_keys=True)),
    fn=lambda self, **kw: out(v=[1]),
)
val(
    "VKwLink",
    classmethod(lambda c, **kw: True if kw.get("a") is None else json.dumps(show(kw), sort_keys=True)),
)


# lazy
class Lazy:
    @classmethod
    def INPUT_TYPES(s):
        return {"required": {"c": ("BOOLEAN",), "a": (ANY, {"lazy": True}), "b": (ANY, {"lazy": True})}}

    RETURN_TYPES = (ANY,)
    FUNCTION = "run"
    CATEGORY = "t"

    def check_lazy_status(self, c, a=None, b=None):
        if c and a is None:
            return ["a"]
        if not c and b is None:
            return ["b"]
        return None

    def run(self, c, a=None, b=None):
        return (a if c else b,)


NODE_CLASS_MAPPINGS["Lazy"] = Lazy


def lz(name, f, **kw):
    N(
        name,
        {"a": (ANY, {"lazy": True})},
        {"b": (ANY, {"lazy": True}), "k": ("INT",)},
        fn=kw.pop("fn", lambda self, **kw: out(v=[show(kw)])),
        output=True,
        check_lazy_status=f,
        **kw,
    )


lz("LzAll", lambda self, **kw: list(kw))
lz("LzNone", lambda self, **kw: None)
lz("LzStr", lambda self, **kw: "a")
lz("LzTuple", lambda self, **kw: ("a",))
lz("LzUnknown", lambda self, **kw: ["zzz"])
lz("LzConst", lambda self, **kw: ["k"])
lz("LzMixed", lambda self, **kw: ["a", 5, None])
lz("LzRaise", lambda self, **kw: 1 / 0)
lz("LzList", lambda self, **kw: ["a"] if kw["a"] in ((None,), [None]) else [], INPUT_IS_LIST=True)
lz("LzShow", lambda self, **kw: (print("LZ", show(kw)), ["a"])[1], INPUT_IS_LIST=True)


async def _lz(self, **kw):
    await asyncio.sleep(0.01)
    return ["a"] if kw.get("a") is None else []


lz("LzAsync", _lz)
N("LzPlain", {"a": (ANY, {"lazy": True})}, fn=lambda self, a="D": out(v=[show(a)]), output=True)


class LzSeq:
    @classmethod
    def INPUT_TYPES(s):
        return {"required": {}, "optional": {f"x{i}": (ANY, {"lazy": True}) for i in range(4)}}

    RETURN_TYPES = ()
    FUNCTION = "run"
    CATEGORY = "t"
    OUTPUT_NODE = True

    def check_lazy_status(self, **kw):
        for k in sorted(kw):
            if kw[k] is None:
                return [k]
            if kw[k] == 3:
                return []
        return []

    def run(self, **kw):
        return out(v=[show(kw)])


NODE_CLASS_MAPPINGS["LzSeq"] = LzSeq


# async
async def _sl(self, a, s):
    await asyncio.sleep(s)
    return (a,)


N("Sleep", {"a": (ANY,), "s": ("FLOAT",)}, returns=(ANY,), fn=_sl)


async def _ar(self, a):
    await asyncio.sleep(0.01)
    raise MyError(f"async {a}")


N("AsyncRaise", {"a": (ANY,)}, returns=(ANY,), fn=_ar)


async def _ai(self, a):
    return (a,)


N("AsyncNow", {"a": (ANY,)}, returns=(ANY,), fn=_ai)


# expansion
def ex_copy(self, x):
    g = GraphBuilder()
    n = g.node("Add", a=x, b=1000)
    return {"result": (n.out(0),), "expand": g.finalize()}


N("ExCopy", {"x": (ANY,)}, returns=(ANY,), fn=ex_copy)


def ex_ui(self, x):
    g = GraphBuilder()
    n = g.node("OutPass", x=x)
    g.node("Out", x="orphan")
    g.node("Add", a=1, b=1)  # not reachable
    return {"result": (n.out(0), "lit"), "expand": g.finalize(), "ui": {"mine": [1]}}


N("ExUi", {"x": (ANY,)}, returns=(ANY, ANY), fn=ex_ui, output=True)


def ex_loop(self, n, acc):
    if n <= 0:
        return (acc,)
    g = GraphBuilder()
    a = g.node("Add", a=acc, b=n)
    r = g.node("ExLoop", n=n - 1, acc=a.out(0))
    return {"result": (r.out(0),), "expand": g.finalize()}


N("ExLoop", {"n": ("INT",), "acc": (ANY,)}, returns=(ANY,), fn=ex_loop)


def ex_dup(self, x):
    return {"result": (["1", 0],), "expand": {"1": {"class_type": "I", "inputs": {"v": 1}}}}


N("ExDup", {"x": (ANY,)}, returns=(ANY,), fn=ex_dup)


def ex_unknown(self, x):
    return {"result": (["zz", 0],), "expand": {"zz": {"class_type": "NoSuchClass", "inputs": {}}}}


N("ExUnknown", {"x": (ANY,)}, returns=(ANY,), fn=ex_unknown)


def ex_badlink(self, x):
    return {"result": (["nowhere", 0],), "expand": {"zz": {"class_type": "I", "inputs": {"v": 1}}}}


N("ExBadLink", {"x": (ANY,)}, returns=(ANY,), fn=ex_badlink)


def ex_badlink2(self, x):
    return {
        "result": (["zz2", 0],),
        "expand": {"zz2": {"class_type": "Add", "inputs": {"a": ["gone", 0], "b": 1}}},
    }


N("ExBadLink2", {"x": (ANY,)}, returns=(ANY,), fn=ex_badlink2)


def ex_badslot(self, x):
    return {"result": (["zs", 4],), "expand": {"zs": {"class_type": "I", "inputs": {"v": 1}}}}


N("ExBadSlot", {"x": (ANY,)}, returns=(ANY,), fn=ex_badslot)


def ex_list(self, x):
    g = GraphBuilder()
    n = g.node("List3", n=3)
    return {"result": (n.out(0), "after"), "expand": g.finalize()}


N("ExList", {"x": (ANY,)}, returns=(ANY, ANY), fn=ex_list)


def ex_listo(self, x):
    g = GraphBuilder()
    n = g.node("List3", n=3)
    m = g.node("I", v=5)
    return {"result": ([n.out(0), m.out(0), 7],), "expand": g.finalize()}


N("ExListOut", {"x": (ANY,)}, returns=(ANY,), fn=ex_listo, OUTPUT_IS_LIST=(True,))


def ex_mixed(self, x):
    if x % 2:
        return (x,)
    g = GraphBuilder()
    n = g.node("Add", a=x, b=100)
    return {"result": (n.out(0),), "expand": g.finalize()}


N("ExMixed", {"x": ("INT",)}, returns=(ANY,), fn=ex_mixed)


def ex_obj(self, x):
    g = GraphBuilder()
    n = g.node("OutPass", x={"a": (1, 2), "b": {3}, "c": 1 + 2j})
    g.node("OutList", x=[1, 2, 3])
    return {"result": (n.out(0),), "expand": g.finalize()}


N("ExObj", {"x": (ANY,)}, returns=(ANY,), fn=ex_obj, output=True)


def ex_cycle(self, x):
    g = GraphBuilder()
    a = g.node("Add", a=1, b=1)
    b = g.node("Add", a=a.out(0), b=1)
    a.set_input("a", b.out(0))
    return {"result": (a.out(0),), "expand": g.finalize()}


N("ExCycle", {"x": (ANY,)}, returns=(ANY,), fn=ex_cycle)


def ex_self(self, x, u):
    return {"result": (["w", 0],), "expand": {"w": {"class_type": "Add", "inputs": {"a": [u, 0], "b": 1}}}}


N("ExSelf", {"x": (ANY,)}, hidden={"u": "UNIQUE_ID"}, returns=(ANY,), fn=ex_self)


def ex_raise(self, x):
    g = GraphBuilder()
    n = g.node("Raise", a=1)
    return {"result": (n.out(0),), "expand": g.finalize()}


N("ExRaise", {"x": (ANY,)}, returns=(ANY,), fn=ex_raise)


def ex_block(self, x):
    g = GraphBuilder()
    n = g.node("Block", a=1, m="inner")
    return {"result": (n.out(0), n.out(1)), "expand": g.finalize()}


N("ExBlock", {"x": (ANY,)}, returns=(ANY, ANY), fn=ex_block)


def ex_disp(self, x):
    g = GraphBuilder()
    n = g.node("OutPass", x=x)
    n.set_override_display_id("1")
    return {"result": (n.out(0),), "expand": g.finalize()}


N("ExDisp", {"x": (ANY,)}, returns=(ANY,), fn=ex_disp)


def ex_nores(self, x):
    g = GraphBuilder()
    g.node("Out", x="inside")
    return {"expand": g.finalize()}


N("ExNoRes", {"x": (ANY,)}, returns=(ANY,), fn=ex_nores, output=True)


def ex_empty(self, x):
    return {"result": (x,), "expand": {}}


N("ExEmpty", {"x": (ANY,)}, returns=(ANY,), fn=ex_empty)


def ex_bad(self, x):
    return {"result": (x,), "expand": {"q": {"inputs": {}}}}


N("ExBad", {"x": (ANY,)}, returns=(ANY,), fn=ex_bad)


def ex_nested(self, d):
    g = GraphBuilder()
    n = g.node("ExNested", d=d - 1) if d > 0 else g.node("I", v=7)
    return {"result": (n.out(0),), "expand": g.finalize()}


N("ExNested", {"d": ("INT",)}, returns=(ANY,), fn=ex_nested)


def ex_dyn(self, x, d, u):
    return {
        "ui": {
            "v": [
                sorted(d.all_node_ids()),
                d.get_parent_node_id(u),
                d.get_real_node_id(u),
                d.get_display_node_id(u),
                show(d.get_node(u)),
                sorted(d.get_original_prompt()),
            ]
        },
        "result": (x,),
    }


N(
    "ShowDyn",
    {"x": (ANY,)},
    hidden={"d": "DYNPROMPT", "u": "UNIQUE_ID"},
    returns=(ANY,),
    fn=ex_dyn,
    output=True,
)


def ex_showdyn(self, x):
    g = GraphBuilder()
    n = g.node("ShowDyn", x=x)
    return {"result": (n.out(0),), "expand": g.finalize()}


N("ExShowDyn", {"x": (ANY,)}, returns=(ANY,), fn=ex_showdyn)
N("NotIdem", {"a": (ANY,)}, returns=(ANY,), fn=lambda self, a: (a,), NOT_IDEMPOTENT=True)
N("ByKwargs", {"a": (ANY,)}, fn=lambda self, **kw: out(v=[show(kw)]), output=True)


def inference(self, x):
    import torch

    return out(v=["loaded"] if x == "load" else [torch.is_inference_mode_enabled(), torch.is_grad_enabled()])


N("Inference", {"x": (ANY,)}, fn=inference, output=True)


# V3


def v3(name, inputs=(), outputs=(), execute=None, methods=None, **schema):
    def define_schema(cls):
        return io.Schema(node_id=name, category="t", inputs=list(inputs), outputs=list(outputs), **schema)

    body = {"define_schema": classmethod(define_schema), "execute": classmethod(execute)}
    body.update({key: classmethod(function) for key, function in (methods or {}).items()})
    NODE_CLASS_MAPPINGS[name] = type(name, (io.ComfyNode,), body)


X = io.AnyType.Input("x")
OX = io.AnyType.Input("x", optional=True)
OUT = io.AnyType.Output()
v3("TPass", [X], [OUT], lambda cls, x: io.NodeOutput(x))
v3("TTwo", [X], [OUT, io.AnyType.Output(is_output_list=True)], lambda cls, x: io.NodeOutput(x, [x, x]))
v3("TOut", [X], [], lambda cls, x: io.NodeOutput(ui={"v": [show(x)]}), is_output_node=True)
v3("TText", [X], [], lambda cls, x: io.NodeOutput(ui=ui.PreviewText(str(x))), is_output_node=True)
v3("TTuple", [X], [OUT, io.AnyType.Output()], lambda cls, x: (x, 5))
v3("TNone", [X], [OUT], lambda cls, x: None)
v3("TEmpty", [X], [OUT], lambda cls, x: io.NodeOutput())
v3("TBlock", [X, io.String.Input("m")], [OUT], lambda cls, x, m: io.NodeOutput(x, block_execution=m))
v3(
    "TBlockIf",
    [io.Int.Input("x"), io.String.Input("m")],
    [OUT],
    lambda cls, x, m: io.NodeOutput(x, block_execution=m if x == 1 else None),
)
v3("TList", [X], [OUT], lambda cls, x: io.NodeOutput(show(x)), is_input_list=True)
v3(
    "THid",
    [X],
    [],
    lambda cls, x: io.NodeOutput(
        ui={
            "v": [
                cls.hidden.unique_id,
                show(cls.hidden.extra_pnginfo),
                show(cls.hidden.prompt),
                cls.hidden.auth_token_comfy_org,
            ]
        }
    ),
    is_output_node=True,
    hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo, io.Hidden.prompt],
)
v3(
    "TFinger",
    [X, io.AnyType.Input("y", optional=True)],
    [],
    lambda cls, x, y=None: io.NodeOutput(ui={"v": [show(x)]}),
    {"fingerprint_inputs": lambda cls, x, y="dflt": [x, y]},
    is_output_node=True,
)
v3(
    "TFingerNan",
    [X],
    [],
    lambda cls, x: io.NodeOutput(ui={"v": [show(x)]}),
    {"fingerprint_inputs": lambda cls, x: float("nan")},
    is_output_node=True,
)
v3(
    "TValid",
    [io.Int.Input("x", min=0, max=5)],
    [],
    lambda cls, x: io.NodeOutput(ui={"v": [x]}),
    {"validate_inputs": lambda cls, x: True if x == 1 else f"not {x}"},
    is_output_node=True,
)
v3(
    "TLazy",
    [io.Boolean.Input("c"), io.AnyType.Input("a", lazy=True), io.AnyType.Input("b", lazy=True)],
    [OUT],
    lambda cls, c, a=None, b=None: io.NodeOutput(a if c else b),
    {
        "check_lazy_status": lambda cls, c, a=None, b=None: (
            ["a"] if c and a is None else ["b"] if not c and b is None else []
        )
    },
)
v3(
    "TLazyOwn",
    [io.AnyType.Input("a", lazy=True)],
    [],
    lambda cls, a=None: io.NodeOutput(ui={"v": [show(a)]}),
    is_output_node=True,
)
v3("TRaise", [X], [OUT], lambda cls, x: 1 / 0)
v3("TIdem", [X], [OUT], lambda cls, x: io.NodeOutput(x), not_idempotent=True)
v3("TRange", [io.Int.Input("x", min=0, max=5)], [OUT], lambda cls, x: io.NodeOutput(x))
v3("TCombo", [io.Combo.Input("x", options=["a", "b"])], [OUT], lambda cls, x: io.NodeOutput(x))


async def t_sleep(cls, x):
    await asyncio.sleep(0.01)
    return io.NodeOutput(x)


v3("TAsync", [X], [OUT], t_sleep)


def t_expand(cls, x):
    g = GraphBuilder()
    n = g.node("TPass", x=x)
    return io.NodeOutput(n.out(0), expand=g.finalize())


v3("TExpand", [X], [OUT], t_expand, enable_expand=True)
v3("TExpandOff", [X], [OUT], t_expand)
