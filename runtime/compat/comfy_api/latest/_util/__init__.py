"""Value types of the API that are neither inputs nor outputs by themselves."""

from .geometry_types import MESH, SPLAT, VOXEL, File3D
from .image_types import SVG
from .video_types import VideoCodec, VideoComponents, VideoContainer

__all__ = ["MESH", "SPLAT", "SVG", "VOXEL", "File3D", "VideoCodec", "VideoComponents", "VideoContainer"]
