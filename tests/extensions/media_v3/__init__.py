"""Sound and video through the V3 API's helpers; brings PyAV, which the node image does not have."""

import json
import os
from fractions import Fraction

import av
import folder_paths
import torch
from comfy_api.latest import ComfyExtension, InputImpl, Types, io, ui


def tone(rate):
    time = torch.linspace(0, 1, rate)
    return {"waveform": torch.sin(2 * torch.pi * 440 * time).repeat(1, 2, 1), "sample_rate": rate}


def tags(path):
    with av.open(path) as container:
        stream = container.streams[0]
        return {**container.metadata, **stream.metadata}


class Sound(io.ComfyNode):
    """Saves a tone in every format, and says what is in the files."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            "RFSound",
            inputs=[io.Int.Input("rate", default=44100)],
            outputs=[io.String.Output()],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, rate):
        found = {}
        for form in ("flac", "mp3", "opus"):
            (saved,) = ui.AudioSaveHelper.save_audio(tone(rate), "sound/rf", io.FolderType.output, cls, form)
            path = os.path.join(folder_paths.get_output_directory(), saved.subfolder, saved.filename)
            with av.open(path) as container:
                stream = container.streams.audio[0]
                samples = sum(frame.samples for frame in container.decode(stream))
                found[form] = [stream.codec.name, stream.rate, samples, json.loads(tags(path)["workflow"])]
        return io.NodeOutput(json.dumps(found), ui=ui.PreviewAudio(tone(rate), cls=cls))


class Film(io.ComfyNode):
    """Makes a video of frames and sound, saves it, and takes it apart again."""

    @classmethod
    def define_schema(cls):
        return io.Schema("RFFilm", outputs=[io.String.Output()], is_output_node=True)

    @classmethod
    def execute(cls):
        parts = Types.VideoComponents(
            images=torch.rand(12, 48, 64, 3), audio=tone(44100), frame_rate=Fraction(12)
        )
        folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(
            "film/rf", folder_paths.get_output_directory()
        )
        name = f"{stem}_{counter:05}_.{Types.VideoContainer.get_extension('mp4')}"
        path = os.path.join(folder, name)
        InputImpl.VideoFromComponents(parts).save_to(path, metadata={"workflow": {"n": 2}})
        video = InputImpl.VideoFromFile(path)
        back, cut = video.get_components(), InputImpl.VideoFromFile(path, start_time=0.25, duration=0.5)
        found = {
            "size": video.get_dimensions(),
            "seconds": [video.get_duration(), cut.get_duration()],
            "frames": [len(back.images), len(cut.get_components().images)],
            "rate": str(back.frame_rate),
            "sound": [back.audio["sample_rate"], back.audio["waveform"].shape[1]],
            "workflow": json.loads(tags(path)["workflow"]),
        }
        shown = ui.PreviewVideo([ui.SavedResult(name, subfolder, io.FolderType.output)])
        return io.NodeOutput(json.dumps(found), ui=shown)


class Media(ComfyExtension):
    async def get_node_list(self):
        return [Sound, Film]


def comfy_entrypoint():
    return Media()
