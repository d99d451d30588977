"""What the node classes of ``comfy_extras`` have in common: V1 ones that can be called in both styles, and V3 ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    io: Any

    class V3Node:
        """A node of the V3 API, where inputs depend on each other."""

        @classmethod
        def GET_SCHEMA(cls) -> Any:
            """The class's own declaration."""
else:
    from ..comfy_api.latest import io

    V3Node = io.ComfyNode


class ExtraNode:
    """A V1 node with a class method ``execute``, for packs written when ComfyUI had made the same class a V3 one."""

    FUNCTION = "execute"
    RETURN_TYPES: tuple[Any, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.FUNCTION != "execute" and "execute" not in cls.__dict__:

            def execute(cls: type, *args: Any, **inputs: Any) -> Any:
                return getattr(cls(), cls.FUNCTION)(*args, **inputs)  # type: ignore[attr-defined]

            cls.execute = classmethod(execute)  # type: ignore[attr-defined]
