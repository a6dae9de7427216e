#!/bin/sh
# bench.sh COMMAND…: what `make docker-bench` runs in the container: the command, if it may write what DVC writes.
set -eu
for path in ./ ./.dvc ./data ./models ./results ./results/cuda ./dvc.lock; do
    if [ -e "$path" ] && [ ! -w "$path" ]; then
        echo "Error: user $(id -u) may not write $PWD${path#.}: nothing was run, nothing is changed; on the host, chown it to your user" >&2
        exit 2
    fi
done
export DVC_SITE_CACHE_DIR="$PWD/.dvc/tmp/site" # the host's .dvc/config.local names a folder that is not in here
exec "$@"
