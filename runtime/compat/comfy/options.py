"""``comfy.options``: whether the command line is read. It never is here."""

args_parsing = False


def enable_args_parsing(enable: bool = True) -> None:
    """Accepted and without effect: a sandbox has no command line of ComfyUI's."""
    global args_parsing
    args_parsing = enable
