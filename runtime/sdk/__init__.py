"""What code inside a sandbox may ask of the worker: the one door between ``compat/`` (or a pack) and the runtime.

=================  ==================================================================================================
``context``        ``current()``: the node call this code runs in (prompt, node, list index), or ``None``
``progress``       ``report(value, maximum, node_id=, preview=, legacy=)``, ``check_interrupted()``
``interruption``   ``InterruptProcessingException``, ``interrupt_current()``, ``is_interrupted()``
``events``         ``send(event, data, sid)``, ``progress_text(text, node_id)``
``paths``          ``app() input() output() temp() user() models()``: directories as strings
``state``          ``get set delete contains flush``: what the running node keeps on the host
``resources``      ``tensors(path)``: a safetensors file, read once by the host and shared
``registry``       the tables that packs patch: node classes, display names, web directories, HTTP routes
=================  ==================================================================================================

Every function works without a worker too (nothing is sent, nothing is interrupted): unit tests need no host.
"""
