"""Extensions: add, list, reload, remove. An extension arrives as a tar archive, or as the URL of a git repository."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from api.auth import Identity
from api.bodies import BodyError
from api.errors import OrjsonResponse
from api.progress import ProgressResponse, Report
from api.remarks import remarks_of
from api.services import Caller, ForTenant, Have, Services
from api.uploads import Uploads, pack_in
from engine import ANYTHING, Consent, ExtensionInfo, GitSource, check_source, parse_pin, parse_source
from policies import ExtensionName, PolicyError, TenantId, parse_extension_name, suggest_extension_name

router = APIRouter()

_POLICY_LIMIT = 256 * 1024
_CONSENTS = 8
_CONSENT = re.compile(r"[0-9a-f]{32}\Z")


@router.get("/extensions")
async def list_extensions(request: Request, services: Have, tenant: ForTenant) -> Response:
    """The caller's extensions and how they are."""
    found = await services.engine.extensions.list(tenant)
    uploads = _uploads(request)
    shown = await anyio.to_thread.run_sync(lambda: [_shown(uploads, info) for info in found])
    holes = await services.engine.extensions.supply.counts(tenant)
    for item in shown:
        item["vulnerabilities"] = dict(holes.get(item["name"], {}))
    return OrjsonResponse({"extensions": shown})


@router.post("/extensions")
async def add_extension(request: Request, services: Have, caller: Caller) -> Response:
    """Add one. Form fields: ``archive`` (a tar file) or ``git`` (a URL), ``name``, ``policy`` (YAML), ``origin``, and
    ``pin``, the content hash (``sha256:...``) that it has to have.

    Answers with progress as NDJSON. A policy and a git URL are the operator's to give: the one grants, the other makes
    this machine fetch.
    """
    # The form is read before the answer begins; the work below owns what it needs of it.
    form = await request.form(max_files=2, max_fields=8, max_part_size=64 * 1024)
    try:
        policy = await _policy_text(form, caller)
        git = _text(form, "git")
        pin = _pin(form)
        archive = form.get("archive")
        if git is not None:
            caller.require_operator()
            source = parse_source(git)
            if not isinstance(source, GitSource):
                raise BodyError("git must be the URL of a repository", hint="send a directory as an archive")
            name = parse_extension_name(_text(form, "name") or suggest_extension_name(source.name))
        elif isinstance(archive, UploadFile):
            name = parse_extension_name(
                _text(form, "name")
                or suggest_extension_name(Path(archive.filename or "").name.split(".tar")[0])
            )
        else:
            raise BodyError("the form needs 'archive' (a tar file) or 'git' (a URL)")
    except BaseException:
        await form.close()
        raise
    uploads = _uploads(request)
    remarks = remarks_of(request.scope)
    remarks.extension = name
    if policy is not None:
        remarks.details["policy"] = f"sha256:{hashlib.sha256(policy).hexdigest()}"

    async def work(report: Report) -> Any:
        try:
            async with _policy_file(name, policy) as policy_file:
                if git is not None:
                    info = await services.engine.extensions.add(
                        caller.tenant,
                        source,
                        name=name,
                        policy_file=policy_file,
                        progress=report,
                        by_operator=True,
                        pin=pin,
                    )
                else:
                    info = await _add_archive(services, uploads, caller, form, name, policy_file, report, pin)
            return await anyio.to_thread.run_sync(_shown, uploads, info)
        finally:
            with anyio.CancelScope(shield=True):
                await form.close()

    return ProgressResponse(work)


@router.delete("/extensions/{name}")
async def remove_extension(name: str, request: Request, services: Have, tenant: ForTenant) -> Response:
    """End its sandboxes and delete what belongs to it."""
    extension = parse_extension_name(name)
    uploads = _uploads(request)
    async with uploads.turn(tenant, extension):
        await services.engine.extensions.remove(tenant, extension)
        await anyio.to_thread.run_sync(uploads.remove, tenant, extension)
    return OrjsonResponse({"removed": extension})


@router.post("/extensions/{name}/reload")
async def reload_extension(name: str, request: Request, services: Have, caller: Caller) -> Response:
    """Read the original again; with a form field ``archive``, that archive is the new original. ``pin`` as for adding;
    ``upgrade`` (``true``) resolves its packages anew.
    """
    tenant = caller.tenant
    extension = parse_extension_name(name)
    form = await request.form(max_files=1, max_fields=4, max_part_size=64 * 1024)
    try:
        pin, upgrade = _pin(form), _text(form, "upgrade") == "true"
    except BaseException:
        await form.close()
        raise
    uploads = _uploads(request)

    async def work(report: Report) -> Any:
        try:
            staged = await _stage_version(services, uploads, tenant, extension, form, pin, report)
            async with uploads.turn(tenant, extension):
                if staged is not None:
                    await anyio.to_thread.run_sync(uploads.keep, tenant, extension, staged)
                info = await services.engine.extensions.reload(
                    tenant, extension, report, by_operator=caller.is_operator, pin=pin, upgrade=upgrade
                )
            return await anyio.to_thread.run_sync(_shown, uploads, info)
        finally:
            with anyio.CancelScope(shield=True):
                await form.close()

    return ProgressResponse(work)


@router.post("/extensions/{name}/update")
async def update_extension(name: str, request: Request, services: Have, caller: Caller) -> Response:
    """As ``reload``, for a new version by somebody else: 409 when it asks for more than the one that is there.

    The error lists what for, and a ``consent`` that stands for exactly this list of exactly this content: a form field
    ``consent`` with it (several: with commas between) says yes, and so does ``anything`` to whatever comes.
    """
    tenant = caller.tenant
    extension = parse_extension_name(name)
    form = await request.form(max_files=1, max_fields=5, max_part_size=64 * 1024)
    try:
        pin, upgrade = _pin(form), _text(form, "upgrade") == "true"
        consent = _consent(form)
    except BaseException:
        await form.close()
        raise
    uploads = _uploads(request)
    remarks = remarks_of(request.scope)
    remarks.extension = extension
    remarks.details["consent"] = ", ".join(sorted(consent.keys)) or "none"

    async def update(report: Report) -> ExtensionInfo:
        return await services.engine.extensions.reload(
            tenant,
            extension,
            report,
            by_operator=caller.is_operator,
            pin=pin,
            upgrade=upgrade,
            consent=consent,
        )

    async def work(report: Report) -> Any:
        try:
            staged = await _stage_version(services, uploads, tenant, extension, form, pin, report)
            async with uploads.turn(tenant, extension):
                if staged is not None:
                    async with _original(uploads, tenant, extension, staged):
                        info = await update(report)
                else:
                    info = await update(report)
            return await anyio.to_thread.run_sync(_shown, uploads, info)
        finally:
            with anyio.CancelScope(shield=True):
                await form.close()

    return ProgressResponse(work)


@asynccontextmanager
async def _original(
    uploads: Uploads, tenant: TenantId, name: ExtensionName, staged: Path
) -> AsyncIterator[None]:
    """A staged upload is the original meanwhile, and afterwards unless the update was refused or given up."""
    with anyio.CancelScope(shield=True):
        aside = await anyio.to_thread.run_sync(uploads.put, tenant, name, staged)
    try:
        yield
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(uploads.put_back, tenant, name, aside)
        raise
    if aside is not None:
        await anyio.to_thread.run_sync(uploads.discard, aside)


def _consent(form: FormData) -> Consent:
    keys = frozenset(filter(None, (_text(form, "consent") or "").split(",")))
    if len(keys) > _CONSENTS or not all(key == ANYTHING or _CONSENT.match(key) for key in keys):
        raise BodyError(
            f"consent must be the keys that a refusal named, at most {_CONSENTS}, or '{ANYTHING}'",
            hint="ask without it first: the error names the key",
        )
    return Consent(keys)


async def _add_archive(
    services: Services,
    uploads: Uploads,
    caller: Identity,
    form: FormData,
    name: ExtensionName,
    policy_file: Path | None,
    report: Report,
    pin: str | None,
) -> ExtensionInfo:
    tenant = caller.tenant
    extensions = services.engine.extensions
    staged = await _stage(uploads, tenant, name, form, report)
    try:
        async with uploads.turn(tenant, name):
            taken = {info.name for info in await extensions.list(tenant) if info.state != "failed"}
            if name in taken:
                # The registry refuses it; the upload of the one that is there stays.
                pack = await anyio.to_thread.run_sync(pack_in, staged, name)
            else:
                pack = await anyio.to_thread.run_sync(uploads.keep, tenant, name, staged)
            return await extensions.add(
                tenant,
                pack,
                name=name,
                policy_file=policy_file,
                by_operator=caller.is_operator,
                progress=report,
                pin=pin,
            )
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(uploads.discard, staged)


async def _stage(
    uploads: Uploads, tenant: TenantId, name: ExtensionName, form: FormData, report: Report
) -> Path:
    report("unpacking")
    archive, origin = cast("UploadFile", form["archive"]), _text(form, "origin") or ""
    return await anyio.to_thread.run_sync(lambda: uploads.stage(tenant, name, archive.file, origin=origin))


async def _stage_version(
    services: Services,
    uploads: Uploads,
    tenant: TenantId,
    name: ExtensionName,
    form: FormData,
    pin: str | None,
    report: Report,
) -> Path | None:
    """The upload that may become the original of an extension that is there; None where none was sent."""
    if not isinstance(form.get("archive"), UploadFile):
        return None
    await services.engine.extensions.get(tenant, name)  # unknown names keep no upload
    staged = await _stage(uploads, tenant, name, form, report)
    if pin is not None:
        # Before it takes the place of the original that is there.
        await _check_pin(uploads, staged, name, pin)
    return staged


@asynccontextmanager
async def _policy_file(name: ExtensionName, text: bytes | None) -> AsyncIterator[Path | None]:
    if text is None:
        yield None
        return
    path = await anyio.to_thread.run_sync(_write_policy, name, text)
    try:
        yield path
    except PolicyError as error:
        # The user knows the file by its name; where it lay on this machine for a moment tells nobody anything.
        if Path(error.file) == path:
            error.file = path.name
        raise
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(shutil.rmtree, path.parent, True)


def _write_policy(name: ExtensionName, text: bytes) -> Path:
    path = Path(tempfile.mkdtemp(prefix="ringfence-policy-")) / f"{name}.yaml"
    path.write_bytes(text)
    return path


async def _policy_text(form: FormData, caller: Identity) -> bytes | None:
    upload = form.get("policy")
    if not isinstance(upload, UploadFile):
        return None
    caller.require_operator()
    text = await upload.read(_POLICY_LIMIT + 1)
    if len(text) > _POLICY_LIMIT:
        raise BodyError("the policy file is too large")
    return text


def _shown(uploads: Uploads, info: ExtensionInfo) -> dict[str, Any]:
    fields = {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}
    shown = {
        key: value.model_dump() if isinstance(value, BaseModel) else value for key, value in fields.items()
    }
    shown["source"] = uploads.shown(info.tenant, info.name, shown["source"])
    return shown


def _uploads(request: Request) -> Uploads:
    return cast("Uploads", request.app.state.uploads)


async def _check_pin(uploads: Uploads, staged: Path, name: ExtensionName, pin: str) -> None:
    try:
        await check_source(await anyio.to_thread.run_sync(pack_in, staged, name), pin, uploads.limits)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(uploads.discard, staged)
        raise


def _pin(form: FormData) -> str | None:
    text = _text(form, "pin")
    return None if text is None else parse_pin(text)


def _text(form: FormData, name: str) -> str | None:
    value = form.get(name)
    return value if isinstance(value, str) and value else None
