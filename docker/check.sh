#!/bin/sh
# check.sh build|run|gpu ENGINE…: one line on stderr and exit code 2 if this host lacks what ENGINE needs for that.
set -eu
purpose=$1
shift

lacks() {
    echo "Error: $*" >&2
    exit 2
}

case "$purpose $*" in
    build*) ;;
    *buildah*) lacks "buildah only builds images: to run them, install Docker" ;;
esac
command -v "$1" >/dev/null ||
    lacks "$1 is not on PATH: install Docker, https://docs.docker.com/engine/install/"
case $* in *buildah*) exit 0 ;; esac # it has no service
"$@" info >/dev/null 2>&1 ||
    lacks "\`$* info\` fails: is its service running, and may you use it? https://docs.docker.com/engine/install/linux-postinstall/"
[ "$purpose" = gpu ] || exit 0

command -v nvidia-smi >/dev/null ||
    lacks "no NVIDIA driver (nvidia-smi is not on PATH): install r580 or newer, https://www.nvidia.com/drivers"
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
case $driver in
    [0-9]*) ;;
    *) lacks "the NVIDIA driver finds no GPU: \`nvidia-smi\` says why" ;;
esac
[ "${driver%%.*}" -ge 535 ] ||
    lacks "NVIDIA driver $driver is too old for CUDA 13: install r580 or newer, https://www.nvidia.com/drivers"
command -v nvidia-ctk >/dev/null ||
    lacks "no NVIDIA Container Toolkit (nvidia-ctk is not on PATH): https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html"
