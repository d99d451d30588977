"""Stand-ins for the ComfyUI modules that packs import: one file here per module there, under the same name.

``aliases.py`` makes ``import folder_paths`` reach ``compat/folder_paths.py``. Written from descriptions of those
modules, from what they were seen to do and, where both left a question open, from facts looked up in their source; none
of their code is in here (``tests/compat/licence_distance.py`` looks for likeness).
Three kinds of things live here:

* real behaviour for what packs use without a model: ``folder_paths``, ``nodes`` (image, mask, latent, text),
  ``comfy.utils``, ``comfy.model_management``, ``server``, ``comfy_execution``, the whole V3 API ``comfy_api``;
* names only for what needs a model runtime (``_standins.py`` says which): they import, subclass and compare, and
  raise an error that names them when called;
* private helpers (leading underscore) shared by the two.
"""

from . import _standins

_standins.install(__name__)
