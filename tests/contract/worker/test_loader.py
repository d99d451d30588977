"""Loading rules, seen from the host: what packs may rely on while they are imported, and what comes of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests.contract.worker.workerhost import WorkerError, WorkerHost

NODE = """
class Node:
    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "test"
    said = "nothing"
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}
    def run(self):
        return (str(self.said),)
"""

_numbers = itertools.count()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerHost]:
    """One worker that loads every pack of this file, as a sandbox group would."""
    host = WorkerHost(tmp_path_factory.mktemp("loader") / "worker")
    host.hello()
    yield host
    host.close()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a pack of several files; returns its directory, named like no other."""

    def write_pack(**files: str) -> Path:
        place = tmp_path / f"pack{next(_numbers)}"
        for name, text in files.items():
            path = place / name.replace("__", "/").replace("_py", ".py").replace("_toml", ".toml")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))
        (place / "__init__.py").write_text(NODE + dedent(files.get("init", "")))
        return place

    return write_pack


def said(worker: WorkerHost, class_type: str) -> str:
    return str(worker.execute(class_type)["slots"][0][0])


def test_the_loop_runs_on_the_main_thread_in_the_application_root_with_its_arguments(
    worker: WorkerHost, write: Callable[..., Path]
) -> None:
    place = write(
        init="""
        import asyncio, os, sys, threading, logging
        loop = asyncio.get_running_loop()
        ran = threading.Event()
        async def later():
            ran.set()
        task = loop.create_task(later())
        logging.info("logged at import")
        is_main = threading.current_thread() is threading.main_thread()
        at_import = [os.getcwd(), is_main, sys.argv, os.access(os.environ["HOME"], os.W_OK)]
        class Rely(Node):
            @property
            def said(self):
                return at_import + [ran.wait(60), threading.current_thread() is threading.main_thread()]
        NODE_CLASS_MAPPINGS = {"Rely": Rely}
        """
    )
    assert worker.load("rely", place)["api"] == "v1"
    app = f"{worker.root}/app"
    assert said(worker, "Rely") == str([app, True, [f"{app}/main.py"], True, True, True])
    worker.wait_for(lambda: "logged at import" in worker.log("stderr"))


def test_the_module_goes_by_its_path_and_classes_by_their_pack(
    worker: WorkerHost, write: Callable[..., Path]
) -> None:
    place = write(
        part_py="NAME = __name__",
        init="""
        import sys
        from .part import NAME
        from . import part
        class Named(Node):
            @property
            def said(self):
                return [__name__, NAME, sys.modules[__name__].Named is Named, self.RELATIVE_PYTHON_MODULE]
        NODE_CLASS_MAPPINGS = {"Named": Named}
        """,
    )
    worker.load("named", place)
    name = f"{worker.root}/app/custom_nodes/{place.name}".replace(".", "_x_")
    assert said(worker, "Named") == str([name, f"{name}.part", True, f"custom_nodes.{place.name}"])


def test_a_single_file_is_a_pack(worker: WorkerHost, tmp_path: Path) -> None:
    file = tmp_path / "single_file.py"
    file.write_text(NODE + "NODE_CLASS_MAPPINGS = {'Single': Node}\n")
    assert worker.load("single_file", file)["nodes"][0]["class_type"] == "Single"


def test_prestartup_runs_first_and_its_failure_is_only_noted(
    worker: WorkerHost, write: Callable[..., Path]
) -> None:
    place = write(
        prestartup_script_py="import os, sys\nos.environ['RF_PRESTARTUP'] = 'ran'\nsys.exit('no')",
        init="""
        import os
        Node.said = os.environ["RF_PRESTARTUP"]
        NODE_CLASS_MAPPINGS = {"Pre": Node}
        """,
    )
    loaded = worker.load("pre", place)
    assert loaded["notes"] == ["prestartup_script.py failed: SystemExit: no"]
    assert said(worker, "Pre") == "ran"


def test_v1_mappings_win_over_a_v3_entry_point(worker: WorkerHost, write: Callable[..., Path]) -> None:
    place = write(init="NODE_CLASS_MAPPINGS = {'Both': Node}\ndef comfy_entrypoint(): raise RuntimeError")
    assert worker.load("both", place)["api"] == "v1"


def test_a_pack_is_executed_once_however_often_it_is_loaded(
    worker: WorkerHost, write: Callable[..., Path]
) -> None:
    place = write(
        init="""
        import builtins
        Node.said = builtins.rf_once = getattr(builtins, "rf_once", 0) + 1
        NODE_CLASS_MAPPINGS = {"Once": Node}
        """
    )
    worker.load("once", place)
    assert worker.load("once", place)["nodes"][0]["class_type"] == "Once"
    assert said(worker, "Once") == "1"


def test_classes_that_a_pack_enters_by_hand_and_routes_it_asks_for_are_reported(
    worker: WorkerHost, write: Callable[..., Path]
) -> None:
    place = write(
        init="""
        import nodes
        from server import PromptServer
        nodes.NODE_CLASS_MAPPINGS["ByHand"] = Node
        nodes.NODE_DISPLAY_NAME_MAPPINGS["ByHand"] = "By hand"
        @PromptServer.instance.routes.post("/rf/echo")
        async def echo(request): ...
        NODE_CLASS_MAPPINGS = {}
        """
    )
    loaded = worker.load("byhand", place)
    assert [(node["class_type"], node["info"]["display_name"]) for node in loaded["nodes"]] == [
        ("ByHand", "By hand")
    ]
    assert loaded["routes"] == [{"method": "POST", "path": "/rf/echo"}]


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"init": "WEB_DIRECTORY = './web'", "web__a": ""}, "web"),
        ({"init": "WEB_DIRECTORY = 'deep/js'", "deep__js__a": ""}, "deep/js"),
        ({"init": "WEB_DIRECTORY = 'missing'"}, None),
        ({"init": "WEB_DIRECTORY = '../..'"}, None),
        ({"init": "WEB_DIRECTORY = '/etc'"}, None),
        ({"init": "", "site__a": "", "pyproject_toml": "[tool.comfy]\nweb = 'site'"}, "site"),
        ({"init": "", "pyproject_toml": "not toml at all ["}, None),
        ({"init": "import nodes\nnodes.EXTENSION_WEB_DIRS['x'] = __file__[:-11] + 'js'", "js__a": ""}, "js"),
    ],
)  # fmt: skip
def test_the_web_directory_is_relative_and_inside_the_pack(
    worker: WorkerHost, write: Callable[..., Path], files: dict[str, str], found: str | None
) -> None:
    files["init"] += "\nNODE_CLASS_MAPPINGS = {}"
    place = write(**files)
    assert worker.load(place.name, place)["web_directory"] == found


def test_declarations_are_live_and_one_that_raises_for_a_while_comes_back(
    worker: WorkerHost, write: Callable[..., Path]
) -> None:
    place = write(
        init="""
        state = {"files": ["a"]}
        class Live(Node):
            @classmethod
            def INPUT_TYPES(cls):
                return {"required": {"file": (state["files"],)}}
            def run(self, file):
                state["files"] = {"break": None, "mend": ["a", "b"]}[file]
                if state["files"] is None:
                    del state["files"]
                return ("ok",)
        class Set(Node):
            def run(self):
                state["files"] = ["new"]
                return ("ok",)
        NODE_CLASS_MAPPINGS = {"Live": Live, "LiveSet": Set}
        """
    )
    worker.load("live", place)

    def describe() -> tuple[list[object], list[dict[str, str]]]:
        answer = worker.call("extension/describe", {"class_types": ["Live"]})
        return [node["info"]["input"]["required"]["file"][0] for node in answer["nodes"]], answer["skipped"]

    assert describe()[0] == [["a"]]
    worker.execute("Live", {"file": "mend"})
    assert describe()[0] == [["a", "b"]]
    worker.execute("Live", {"file": "break"})
    nodes, skipped = describe()
    assert nodes == []
    assert skipped[-1] == {"class_type": "Live", "error": "KeyError: 'files'"}
    worker.execute("LiveSet")
    assert describe()[0] == [["new"]]


def test_descriptions_of_any_length_come_in_pages(worker: WorkerHost, write: Callable[..., Path]) -> None:
    place = write(
        init="""
        def big(count):
            names = [f"model number {index} with a name of some length.safetensors" for index in range(count)]
            class Big(Node):
                INPUT_TYPES = classmethod(lambda cls: {"required": {"model": (names,)}})
            return Big
        NODE_CLASS_MAPPINGS = {f"Big{number}": big(20_000) for number in range(6)}
        NODE_CLASS_MAPPINGS["TooBig"] = big(100_000)
        """
    )
    page = worker.load("big", place)
    names = [[node["class_type"] for node in page["nodes"]]]
    skipped = page["skipped"]
    while page["more"] is not None:
        more = page["more"]
        page = worker.call("extension/describe", {"more": more})
        names.append([node["class_type"] for node in page["nodes"]])
        skipped += page["skipped"]
    assert names == [["Big0", "Big1", "Big2"], ["Big3", "Big4", "Big5"]]
    ((name, error),) = [(entry["class_type"], entry["error"]) for entry in skipped]
    assert name == "TooBig"
    assert error.startswith("its description has 6")
    assert error.endswith(" bytes, at most 3670016 may be; offer shorter lists of options")
    with pytest.raises(WorkerError, match="not kept any more"):
        worker.call("extension/describe", {"more": more})


def test_one_bad_v3_class_does_not_take_the_others_along(
    worker: WorkerHost, write: Callable[..., Path]
) -> None:
    place = write(
        init="""
        from comfy_api.latest import ComfyExtension, io
        class Good(io.ComfyNode):
            @classmethod
            def define_schema(cls):
                return io.Schema(node_id="V3Good", inputs=[], outputs=[io.Int.Output()])
            @classmethod
            def execute(cls):
                return io.NodeOutput(1)
        class Bad(io.ComfyNode):
            @classmethod
            def define_schema(cls):
                raise KeyError("no such list")
            @classmethod
            def execute(cls): ...
        class E(ComfyExtension):
            async def get_node_list(self):
                return [Bad, Good]
        async def comfy_entrypoint():
            return E()
        """
    )
    loaded = worker.load("v3mixed", place)
    assert [node["class_type"] for node in loaded["nodes"]] == ["V3Good"]
    assert [entry["class_type"] for entry in loaded["skipped"]] == ["Bad"]
    assert "no such list" in loaded["skipped"][0]["error"]


def test_the_earliest_drafts_list_of_nodes_works(worker: WorkerHost, write: Callable[..., Path]) -> None:
    place = write(
        init="""
        from comfy_api.latest import io
        class Early(io.ComfyNode):
            @classmethod
            def DEFINE_SCHEMA(cls):
                return io.Schema(node_id="Early", inputs=[], outputs=[io.Int.Output()])
            @classmethod
            def execute(cls):
                return io.NodeOutput(7)
        NODES_LIST = [Early]
        """
    )
    assert worker.load("early", place)["api"] == "v3"
    assert said(worker, "Early") == "7"


def test_a_core_extension_is_loaded_in_place(worker: WorkerHost, write: Callable[..., Path]) -> None:
    place = write(init="Node.said = __file__\nNODE_CLASS_MAPPINGS = {'Core': Node}")
    worker.load("core", place, core=True)
    assert said(worker, "Core") == str(place / "__init__.py")


V3_OVER_NAMES = """
    from comfy_api.latest import io
    from comfy_extras.nodes_lt import LTXVAddGuide

    class Guide(LTXVAddGuide):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Guide", category="t", inputs=[], outputs=[io.String.Output()])
        @classmethod
        def execute(cls):
            return io.NodeOutput("ran")

    class Show(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id="Show", category="t", inputs=[], outputs=[io.String.Output()])
        @classmethod
        def execute(cls):
            return io.NodeOutput(cls.named())
        @classmethod
        def named(cls):
            return "show"

    class ShowLazy(Show):
        @classmethod
        def named(cls):
            return "lazy"
"""


@pytest.mark.parametrize(
    "declared",
    [
        'NODE_CLASS_MAPPINGS = {"Guide": Guide}',
        """class Pack:
        async def get_node_list(self):
            return [Guide]
    async def comfy_entrypoint():
        return Pack()""",
    ],
    ids=["v1 mappings", "v3 entry point"],
)
def test_a_v3_class_over_a_core_class_that_is_a_name_only_is_one(
    worker: WorkerHost, write: Callable[..., Path], declared: str
) -> None:
    loaded = worker.load(f"guide{next(_numbers)}", write(init=f"{V3_OVER_NAMES}\n    {declared}\n"))
    assert [(node["class_type"], node["api"]) for node in loaded["nodes"]] == [("Guide", "v3")]
    assert said(worker, "Guide") == "ran"


def test_a_v3_class_in_v1_mappings_goes_by_its_name_there(
    worker: WorkerHost, write: Callable[..., Path]
) -> None:
    code = V3_OVER_NAMES + '    NODE_CLASS_MAPPINGS = {"Show": Show, "Show, deprecated": ShowLazy}\n'
    loaded = worker.load("showlazy", write(init=code))
    assert [node["info"]["name"] for node in loaded["nodes"]] == ["Show", "Show, deprecated"]
    assert said(worker, "Show, deprecated") == "lazy"


def test_the_main_module_lies_in_the_application_root_which_can_be_written(
    worker: WorkerHost, write: Callable[..., Path]
) -> None:
    place = write(
        init="""
        import os
        import __main__
        here = os.path.join(os.path.dirname(os.path.realpath(__main__.__file__)), "web", "extensions", "mine")
        os.makedirs(here)
        class Main(Node):
            said = os.path.relpath(here, os.getcwd())
        NODE_CLASS_MAPPINGS = {"Main": Main}
        """
    )
    worker.load("asksmain", place)
    assert said(worker, "Main") == "web/extensions/mine"


def test_a_pack_whose_files_lean_on_model_modules_when_they_are_imported_loads_and_says_what_it_lacks_when_it_runs(
    worker: WorkerHost, write: Callable[..., Path]
) -> None:
    place = write(
        init="""
        import importlib
        from comfy.samplers import k_diffusion_sampling
        from comfy.model_sampling import *
        from comfy.k_diffusion.utils import FolderOfImages
        import comfy.sd
        import comfy_extras.nodes_lt as nodes_lt

        importlib.reload(k_diffusion_sampling)
        SORTER = nodes_lt.SymmetricPatchifier(1, start_end=True)

        class Sampling(ModelSamplingDiscrete, CONST):
            pass

        class Plain(Node):
            said = ",".join(kind.name for kind in comfy.sd.CLIPType)[:20]

        class Shown(Node):
            @classmethod
            def INPUT_TYPES(cls):
                return {"optional": {"path": ("STRING", {"endings": sorted(FolderOfImages.IMG_EXTENSIONS)})}}

        class Needy(Node):
            def run(self, **kwargs):
                return (SORTER.patchify(None),)

        NODE_CLASS_MAPPINGS = {"PlainKind": Plain, "ShownKind": Shown, "NeedyKind": Needy}
        """
    )
    loaded = worker.load("leans", place)
    assert [node["class_type"] for node in loaded["nodes"]] == ["PlainKind", "ShownKind", "NeedyKind"]
    assert loaded["nodes"][1]["info"]["input"]["optional"]["path"][1]["endings"][0] == ".bmp"
    assert said(worker, "PlainKind") == "STABLE_DIFFUSION,STA"
    with pytest.raises(WorkerError, match=r"nodes_lt\.SymmetricPatchifier\.patchify needs a model runtime"):
        said(worker, "NeedyKind")
