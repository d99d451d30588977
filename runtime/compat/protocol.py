"""``protocol``: numbers of the binary WebSocket messages."""


class BinaryEventTypes:
    """First four bytes of a binary message to a client."""

    PREVIEW_IMAGE = 1
    UNENCODED_PREVIEW_IMAGE = 2
    TEXT = 3
    PREVIEW_IMAGE_WITH_METADATA = 4
