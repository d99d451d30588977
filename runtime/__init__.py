"""What runs inside a sandbox: the worker, and the stand-ins that packs import.

Standard library only at start; torch and numpy are imported inside functions, when a value needs them. Every import
in here is relative, so the node image installs this folder as ``ringfence_runtime`` and no pack's names clash with it.
"""
