#!/bin/sh
# Installs torch and torchvision into /opt/venv, in the build that $VARIANT asks for:
#   cpu   the CPU build; where no matching CPU build of torchvision can be had, the Python part of the ordinary one, or
#         none, and says so
#   full  torch and torchvision together, from whichever source has both
#   cuda  the CUDA build that $TORCH_BACKEND names
# Sources, in this order: the wheels that the build context brought, the index of torch's own backend, the default index.
. /ci/index.sh

uv=/opt/uv/bin/uv
torch=$(grep '^torch==' /wheels/torch.pin)
torchvision=$(grep '^torchvision==' /wheels/torch.pin)
absent=/opt/ringfence/absent
partial=/opt/ringfence/partial
export VIRTUAL_ENV=/opt/venv UV_HTTP_RETRIES="${UV_HTTP_RETRIES:-1}"
mkdir -p "$absent" "$partial"

from_context() { ls /wheels/"${1%%==*}"-*.whl >/dev/null 2>&1 && "$uv" pip install --no-deps --no-index --find-links /wheels "$1"; }
from_backend() { "$uv" pip install --torch-backend "$@"; }
from_index() { "$uv" pip install "$@"; }

torch_works() { /opt/venv/bin/python -I -c 'import torch; torch.zeros(1)'; }

# torchvision imports beside a foreign build of torch, too, but then lacks its compiled operators.
torchvision_works() {
    /opt/venv/bin/python -I -c 'import torch, torchvision
torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)'
}

# The ordinary wheel beside a CPU build of torch: its libraries need CUDA's and cannot be loaded, so they are dropped. The
# rest is Python, and the worker declares the operators that are missing (runtime/partial_torchvision.py).
keep_python_part() {
    found=$(/opt/venv/bin/python -I -c 'import importlib.util; print(importlib.util.find_spec("torchvision").submodule_search_locations[0])') || return 1
    rm -rf "$found"/*.so "${found%/*}/torchvision.libs"
    # Only the compiled operators may be what it lacks.
    error=$(/opt/venv/bin/python -I -c 'import torchvision' 2>&1) || echo "$error" | grep -q 'operator torchvision::[a-z_]* does not exist'
}

case $VARIANT in
cpu)
    # On x86_64 the default index has CUDA builds only; elsewhere it may have a CPU build.
    from_context "$torch" || from_backend "${TORCH_BACKEND:-cpu}" --no-deps "$torch" ||
        { [ "$(uname -m)" != x86_64 ] && from_index --no-deps "$torch" && torch_works; } || {
        echo "error: no CPU build of $torch could be had, neither among the wheels in build/wheels nor from the index" \
            "that uv uses for --torch-backend ${TORCH_BACKEND:-cpu}." >&2
        echo "  Put the wheel into a folder and set PIP_FIND_LINKS to it, or let the build reach that index (a proxy:" \
            "https_proxy), or take the build argument VARIANT=full. See docs/install.md." >&2
        exit 1
    }
    if ! { from_context "$torchvision" && torchvision_works; } &&
        ! { from_backend "${TORCH_BACKEND:-cpu}" --no-deps "$torchvision" && torchvision_works; } &&
        ! { from_index --no-deps "$torchvision" && torchvision_works; }; then
        if { "$uv" pip show torchvision >/dev/null 2>&1 || from_index --no-deps "$torchvision"; } && keep_python_part; then
            echo "without its compiled operators (roi_align, deform_conv2d, the picture codecs of torchvision.io ...): no" \
                "CPU build of $torchvision that works with $torch could be had when this image was built; the image" \
                "variants 'full' and 'cuda' have them" >"$partial/torchvision"
            echo "the image has torchvision in part: $(cat "$partial/torchvision")"
        else
            "$uv" pip uninstall torchvision >/dev/null 2>&1 || true
            echo "no build of $torchvision that works with $torch could be had when this image was built;" \
                "the image variants 'full' and 'cuda' have it" >"$absent/torchvision"
            echo "the image goes on without torchvision: $(cat "$absent/torchvision")"
        fi
    fi
    ;;
full)
    { from_backend "${TORCH_BACKEND:-cpu}" "$torch" "$torchvision" && torchvision_works; } ||
        { from_index "$torch" "$torchvision" && torchvision_works; } || {
        echo "error: no source has both $torch and $torchvision in builds that work together." >&2
        echo "  Name another backend with the build argument TORCH_BACKEND, or an index with PIP_INDEX_URL." >&2
        exit 1
    }
    ;;
cuda)
    { from_backend "${TORCH_BACKEND:-cu130}" "$torch" "$torchvision" && torchvision_works; } ||
        { from_index "$torch" "$torchvision" && torchvision_works; } || {
        echo "error: $torch and $torchvision could not be installed for ${TORCH_BACKEND:-cu130}." >&2
        echo "  Name the backend that fits your driver with the build argument TORCH_BACKEND (cu126, cu128, cu130)." >&2
        exit 1
    }
    ;;
*)
    echo "error: unknown VARIANT '$VARIANT': take cpu, full or cuda" >&2
    exit 1
    ;;
esac
"$uv" pip check
