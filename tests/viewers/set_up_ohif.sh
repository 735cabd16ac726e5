#!/bin/sh
# What the journeys in OHIF need beside `make setup`: a PACS, a browser, and the viewer itself.
set -u
cd "$(dirname "$0")/../.."
. tests/viewers/debian_packages.sh

npm=npm
command -v npm >/dev/null && npm="" # it may come with a Node from elsewhere
# shellcheck disable=SC2046,SC2086 # words
install_or_say "the journeys in OHIF will be skipped." $(missing_of orthanc orthanc-dicomweb chromium $npm)

"${PYTHON:-python3}" buildtools/fetch_ohif.py .ohif
