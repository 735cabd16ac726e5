#!/bin/sh
# slicer-core in an environment of its own, build/slicer-venv: it needs NumPy 2, the server NumPy 1.
set -eu
cd "$(dirname "$0")/../.."
wanted=tests/viewers/slicer_requirements.txt
venv=build/slicer-venv

. tests/viewers/debian_packages.sh

# Off-screen drawing with OpenGL, and Qt.
libraries="libegl1 libgl1 libgl1-mesa-dri libxkbcommon0 libdbus-1-3 libfontconfig1 libglib2.0-0"
# shellcheck disable=SC2046,SC2086 # words
install_or_say "what draws may fail." $(missing_of $libraries)

if cmp -s "$wanted" "$venv/.installed"; then
    exit 0
fi
echo "Setting up $venv: 1.7 GB, a minute or two on the first run."
"${PYTHON:-python3.11}" -m venv "$venv"
if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$wanted"; then
    rm -rf "$venv"
    echo "slicer-core could not be installed: the journeys in 3D Slicer will be skipped." >&2
    exit 1
fi
cp "$wanted" "$venv/.installed"
