#!/usr/bin/env bash
# Puts CPU builds of torch and torchvision into build/wheels when this machine's pip knows where to get them (its index,
# a PIP_FIND_LINKS folder). Where it does not, the image builds ask the index of torch's own CPU backend, by way of uv.
. "$(dirname "$0")/lib.sh"
cd "$root"

pip=.venv/bin/pip
wheels=build/wheels

# The exact local version, so that an index with nothing but a CUDA build of several GB answers at once with a 'no'.
fetch() { "$pip" download --quiet --no-deps --only-binary :all: --dest "$wheels" "$1+cpu"; }

mkdir -p "$wheels"
[ -x "$pip" ] || die "$pip is missing" "run 'make venv' first"
while read -r requirement; do
    name=${requirement%%==*} version=${requirement##*==}
    find "$wheels" -name "$name-*.whl" ! -name "$name-$version+*" -delete
    if ls "$wheels/$name-$version+"*.whl >/dev/null 2>&1; then continue; fi
    if fetch "$requirement" >/dev/null 2>&1; then
        say "wheels: $(basename "$wheels/$name"-*.whl)"
    fi
done <.ci/torch.pin
