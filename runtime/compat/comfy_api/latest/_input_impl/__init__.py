"""Ways to make the values that nodes receive."""

from .video_types import VideoFromComponents, VideoFromFile

__all__ = ["VideoFromComponents", "VideoFromFile"]
