#!/bin/sh
# Take secrets from files: NAME__FILE=/run/secrets/x becomes NAME=<first line of the file>, so that no secret is
# part of the image, the compose file or `docker inspect`. NAME__OPTIONAL_FILE may name a file that is missing or empty,
# and then there is no NAME; NAME__FILE may not, for an empty password would be none.
set -eu
for setting in $(env | sed -n 's/^\([A-Z][A-Z0-9_]*__\(OPTIONAL_\)\{0,1\}FILE\)=.*/\1/p'); do
    eval "file=\${${setting}}"
    unset "$setting"
    case $setting in
    *__OPTIONAL_FILE) variable=${setting%__OPTIONAL_FILE} needed= ;;
    *) variable=${setting%__FILE} needed=yes ;;
    esac
    value=
    if [ -r "$file" ] && [ ! -d "$file" ]; then
        value=$(head -n 1 "$file")
    elif [ -n "$needed" ] || [ -e "$file" ]; then
        echo "dihal: ${setting} names ${file}, which cannot be read; see docker/README.md, 'Secrets'" >&2
        exit 2
    fi
    if [ -n "$value" ]; then
        export "${variable}=${value}"
    elif [ -n "$needed" ]; then
        echo "dihal: ${setting} names ${file}, whose first line is empty; see docker/README.md, 'Secrets'" >&2
        exit 2
    fi
done
exec "$@"
