#!/bin/sh
# Take secrets from files: NAME__FILE=/run/secrets/x becomes NAME=<first line of the file>, so that no secret is
# part of the image, the compose file or `docker inspect`.
set -eu
for variable in $(env | sed -n 's/^\([A-Z][A-Z0-9_]*\)__FILE=.*/\1/p'); do
    eval "file=\${${variable}__FILE}"
    if [ ! -r "$file" ]; then
        echo "dihal: ${variable}__FILE names ${file}, which cannot be read; see docker/README.md, 'Secrets'" >&2
        exit 2
    fi
    value=$(head -n 1 "$file")
    export "${variable}=${value}"
    unset "${variable}__FILE"
done
exec "$@"
