#!/bin/sh
# Draw the secrets of compose.yaml into docker/secrets (or $DIHAL_SECRETS), once. Nothing is printed or overwritten.
set -eu
folder=${DIHAL_SECRETS:-$(dirname "$0")/secrets}
umask 077
mkdir -p "$folder"
# For gated models; empty is none. It is the one file you write yourself, so it stays writable.
[ -e "$folder/hf_token" ] || (umask 022 && : >"$folder/hf_token")
if [ -e "$folder/prefect_auth" ]; then
    echo "secrets are in $folder already; remove the folder to draw new ones (and the postgres volume with them)"
    exit 0
fi
draw() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
key=$(draw)
secret=$(draw)
printf '%s\n' "$(draw)" >"$folder/postgres_password"
printf 'dihal:%s\n' "$(draw)" >"$folder/prefect_auth"
printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$key" "$secret" >"$folder/aws_credentials"
cat >"$folder/s3_identities.json" <<END
{"identities": [{"name": "dihal", "credentials": [{"accessKey": "$key", "secretKey": "$secret"}],
 "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
END
# Containers read the files under other user ids; the folder keeps other people of this machine out.
chmod 700 "$folder"
chmod 444 "$folder/postgres_password" "$folder/prefect_auth" "$folder/aws_credentials" "$folder/s3_identities.json"
echo "secrets drawn in $folder; log in to the UI with the content of $folder/prefect_auth"
