#!/bin/sh
# quick.sh: what `make docker-test` runs in the container: the study of `make quick`, on a copy that may be written.
set -eu
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -R . "$copy"
cd "$copy"
export DVC_SITE_CACHE_DIR="$copy/.dvc/tmp/site"
git init --quiet # an experiment is a commit, and the image holds no history
git add --all
git -c user.name=vitquant -c user.email=vitquant@localhost commit --quiet --message 'the image'
vitquant experiment studies/quick.yaml
