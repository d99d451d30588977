"""The Comfy API v2 (jobs, events, assets) on the same engine as ComfyUI's own routes; the routes are in api/routes/."""
