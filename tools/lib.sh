# shellcheck shell=bash
# For the other tools, which source this under `set -euo pipefail`: virtual environments from the
# hash-pinned locks, Debian packages where installing them is permitted, and what stands where on a
# machine that the service is installed on.

root=$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")")

say() { printf 'tools/%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$@"; exit 1; }

# Prints the comment that a tool begins with, and ends it, if that is asked for.
help_if_asked() { # ARGUMENT...
    [[ " $* " == *' --help '* || " $* " == *' -h '* ]] || return 0
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
}

# Installs Debian packages, or says what to run and returns 1.
# Their services are left out: a test wants the program and starts it itself.
install_debian() { # PACKAGE...
    local as_root=() without_services=() package
    local by_hand="sudo apt-get install --no-install-recommends $*"
    if ! command -v apt-get >/dev/null; then
        say "there is no apt-get here; install what Debian calls $* by hand."
        return 1
    fi
    if [[ $EUID -ne 0 ]]; then
        as_root=(sudo -n)
        if ! sudo -n true 2>/dev/null; then
            say "$* cannot be installed without root; run: $by_hand"
            return 1
        fi
    fi
    for package; do
        without_services+=(-o "DPkg::Options::=--path-exclude=*/systemd/system/$package.service"
            -o "DPkg::Options::=--path-exclude=/etc/init.d/$package")
    done
    say "installing $* from Debian's packages"
    "${as_root[@]}" apt-get -qq update </dev/null >&2 || true # the lists at hand may do
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 \
        "${without_services[@]}" install --yes --no-install-recommends "$@" </dev/null >&2; then
        say "apt-get could not install $*; mend what it says above, then run: $by_hand"
        return 1
    fi
}

# Prints the path of the Python that $1 starts, outside any virtual environment; fails below 3.10.
base_python() { # COMMAND
    "$1" -I -c 'import sys; sys.version_info < (3, 10) and sys.exit(1)
print(sys._base_executable)' 2>/dev/null
}

# Prints the path of the Python to use: $PYTHON if set, else the first that is new enough.
find_python() {
    local name
    if [[ -n ${PYTHON:-} ]]; then
        base_python "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.10 or newer."
        return
    fi
    for name in python3 python3.{14,13,12,11,10}; do
        base_python "$name" && return
    done
    die 'no Python 3.10 or newer was found; run: sudo apt-get install python3, or set PYTHON.'
}

# Prints what a Python was made for, as in `armv7l 3.11`.
python_target() { # COMMAND
    "$1" -I -c 'import os, sys
machine = os.uname().machine
if sys.maxsize < 2**32 and machine in ("aarch64", "armv8l"):
    machine = "armv7l"  # 32-bit programs on a 64-bit kernel
print(machine, "%d.%d" % sys.version_info[:2])'
}

# Makes sure that $python can make virtual environments; Debian packs that part apart.
ensure_ensurepip() {
    local package
    ! "$python" -I -c 'import ensurepip, venv' 2>/dev/null || return 0
    package=$("$python" -I -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    [[ $python == /usr/bin/* ]] || die "$python lacks ensurepip; choose another with PYTHON."
    say "$python cannot make virtual environments: $package is missing."
    install_debian "$package" || exit 1
}

# Prints what $venv is made from. It changes when the checkout moves and when Debian's python3
# becomes another version.
venv_stamp() {
    printf '%s\n' "$venv" "$(readlink -f -- "$venv/bin/python")"
    sha256sum -- "$lock" "$root/pyproject.toml"
}

venv_is_current() {
    [[ -e $venv/stamp && $(<"$venv/stamp") == "$(venv_stamp)" ]] || return 1
    # Any interpreter will do unless one is asked for.
    [[ -z ${PYTHON:-} || $(base_python "$PYTHON") -ef $venv/bin/python ]]
}

# Makes the virtual environment $root/NAME from tools/LOCK, unless it is there and current.
# The stamp comes last, so one that was cut off in the making is made again.
ensure_venv() { # NAME LOCK [OPTIONS of pip install]
    local venv=$root/$1 lock=$root/tools/$2
    shift 2
    ! venv_is_current || return 0
    (
        flock 9 # of two started at once, the second waits here and finds it made
        ! venv_is_current || exit 0
        python=$(find_python)
        ensure_ensurepip
        say "making $venv with $python"
        { rm -rf -- "$venv" && mkdir -- "$venv"; } 2>/dev/null ||
            die "$venv cannot be written; run this as the owner of $root."
        trap 'rm -rf -- "$venv"' EXIT
        "$python" -I -m venv -- "$venv"
        pip=("$venv/bin/python" -I -m pip --quiet --disable-pip-version-check --no-input install)
        "${pip[@]}" --require-hashes --requirement "$lock" "$@" ||
            die 'the pinned packages could not be installed; pip says why above.'
        # With the build backend from the lock, so nothing unpinned is fetched.
        "${pip[@]}" --no-index --no-deps --no-build-isolation --editable "$root" ||
            die "$root could not be installed into $venv; pip says why above."
        venv_stamp >"$venv/stamp.new"
        mv -- "$venv/stamp.new" "$venv/stamp"
        trap - EXIT
    ) 9<"$root/tools/lib.sh" >&2
}

# --- An installed service ---
# shellcheck disable=SC2034 # those that source this use them
{
    prefix=/opt/dlm-edge                   # releases/, current and venv, which lead to one of them
    config_dir=/etc/dlm-edge
    state_dir=/var/lib/dlm-edge            # StateDirectory of the unit
    service_user=dlm-edge
    service=dlm-edge.service
    unit_dir=/usr/local/lib/systemd/system # so that /etc/systemd/system is left to the operator
    command_file=/usr/local/bin/dlm-edge
}

need_root() {
    [[ $EUID -eq 0 ]] || die "this needs root; run: sudo $0${*:+ $*}"
    # `su` leaves root without some of them, and with a user's own in front.
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
}

# Tells whether systemd is the init of this machine, as sd_booted(3) does; it is not in a chroot.
systemd_runs() { [[ -d /run/systemd/system ]]; }
