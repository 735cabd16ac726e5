# Read by the set-up scripts beside it. Which of some Debian packages are not here, and how to get them.

# missing_of PACKAGE...: those that are not installed.
missing_of() {
    for package in "$@"; do
        dpkg -s "$package" >/dev/null 2>&1 || printf '%s ' "$package"
    done
}

# install_or_say CONSEQUENCE PACKAGE...: install them, or say what will follow from their absence.
install_or_say() {
    consequence=$1
    shift
    [ $# = 0 ] && return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -qq -y --no-install-recommends "$@" ||
            echo "Could not install $*: $consequence" >&2
    else
        echo "Not installed, and not root: $*: $consequence" >&2
    fi
}
