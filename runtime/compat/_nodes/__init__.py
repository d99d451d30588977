"""The classes of ``nodes``, by topic. ``nodes.py`` is what packs import; it gathers these."""
