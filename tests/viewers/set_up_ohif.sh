#!/bin/sh
# What the journeys in OHIF need beside `make setup`: a PACS, a browser, and the viewer itself.
set -u
cd "$(dirname "$0")/../.."

missing=""
for package in orthanc orthanc-dicomweb chromium npm; do
    # npm may come with a Node from elsewhere.
    [ "$package" = npm ] && command -v npm >/dev/null && continue
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -qq -y --no-install-recommends $missing ||
            echo "Could not install$missing: the journeys in OHIF will be skipped." >&2
    else
        echo "Not installed, and not root:$missing. The journeys in OHIF will be skipped." >&2
    fi
fi

"${PYTHON:-python3}" buildtools/fetch_ohif.py .ohif
