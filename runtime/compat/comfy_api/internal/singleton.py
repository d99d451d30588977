"""``comfy_api.internal.singleton``: classes of which there is one object."""

from __future__ import annotations

from typing import Any, ClassVar


class SingletonMetaclass(type):
    """Calling the class gives the one object."""

    _instances: ClassVar[dict[type, Any]] = {}

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.get_instance(*args, **kwargs)

    def inject_instance(cls, instance: Any) -> None:
        """Make ``instance`` the one object; there must be none yet.

        Raises:
            RuntimeError: there is one.
        """
        if cls in SingletonMetaclass._instances:
            raise RuntimeError(f"{cls.__name__} has an object already")
        SingletonMetaclass._instances[cls] = instance

    def get_instance(cls, *args: Any, **kwargs: Any) -> Any:
        """The one object, made on first use."""
        made = SingletonMetaclass._instances
        return made[cls] if cls in made else made.setdefault(cls, super().__call__(*args, **kwargs))


class ProxiedSingleton(metaclass=SingletonMetaclass):
    """Base of such classes. Nothing is proxied here: the objects live where the node runs."""
