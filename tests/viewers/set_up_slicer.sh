#!/bin/sh
# slicer-core in an environment of its own, build/slicer-venv: it needs NumPy 2, the server NumPy 1.
set -eu
cd "$(dirname "$0")/../.."
wanted=tests/viewers/slicer_requirements.txt
venv=build/slicer-venv

# Off-screen drawing with OpenGL, and Qt; packages of Debian.
libraries="libegl1 libgl1 libgl1-mesa-dri libxkbcommon0 libdbus-1-3 libfontconfig1 libglib2.0-0"
missing=""
for library in $libraries; do
    dpkg -s "$library" >/dev/null 2>&1 || missing="$missing $library"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -qq -y --no-install-recommends $missing ||
            echo "Could not install$missing; what draws may fail." >&2
    else
        echo "Not installed, and not root:$missing. What draws may fail." >&2
    fi
fi

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
