"""Reads, lists or writes a path that its policy does not name."""

import os


class ReadFile:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"path": ("STRING", {"default": "/etc/shadow"})}}

    RETURN_TYPES = ("STRING",)
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "tests/hostile"

    def run(self, path):
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(10_000)
        return {"ui": {"text": [text]}, "result": (text,)}


class ListDirectory(ReadFile):
    def run(self, path):
        names = sorted(os.listdir(path))
        return {"ui": {"text": names}, "result": ("\n".join(names),)}


class WriteFile(ReadFile):
    def run(self, path):
        with open(path, "w", encoding="utf-8") as file:
            file.write("was here")
        return {"ui": {"text": ["written"]}, "result": ("written",)}


NODE_CLASS_MAPPINGS = {"RFReadFile": ReadFile, "RFListDirectory": ListDirectory, "RFWriteFile": WriteFile}
