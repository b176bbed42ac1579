#!/bin/sh
# Build the image and prove that it works: user, versions, one whole smoke study. With --stack also the compose
# stack: PostgreSQL, server with basic auth, object store, worker, one study by deployment. Needs a container engine.
#   docker/smoke.sh [cpu|gpu] [--stack]
set -eu
cd "$(dirname "$0")/.."
target=cpu
stack=
for word in "$@"; do
    case $word in
    cpu | gpu) target=$word ;;
    --stack) stack=yes ;;
    *)
        echo "dihal: unknown argument $word; usage: docker/smoke.sh [cpu|gpu] [--stack]" >&2
        exit 2
        ;;
    esac
done
engine=${ENGINE:-docker}
if ! "$engine" info >/dev/null 2>&1; then
    echo "dihal: no container engine answers to '$engine info'; start one, or set ENGINE=podman" >&2
    exit 2
fi
image=dihal:$target
"$engine" build -f docker/Dockerfile --target "$target" ${TORCH_INDEX+--build-arg TORCH_INDEX="$TORCH_INDEX"} -t "$image" .

run="$engine run --rm --cap-drop ALL --security-opt no-new-privileges"
[ "$($run "$image" id -u)" = 10001 ] || { echo "dihal: the image does not run as user 10001" >&2; exit 1; }
$run "$image" dihal doctor --profile smoke
$run --tmpfs /runs:uid=10001,gid=10001 "$image" sh -c 'dihal study --profile smoke && test -s /runs/studies/*/report.html'
echo "image $image: a smoke study runs in it as user 10001"

[ -n "$stack" ] || exit 0
docker/secrets.sh
compose="$engine compose -f docker/compose.yaml"
trap '$compose down --timeout 30' EXIT
$compose up --build --wait --wait-timeout 600
status=$(curl -s -o /dev/null -w '%{http_code}' -X POST http://127.0.0.1:4200/api/flow_runs/filter)
[ "$status" = 401 ] || { echo "dihal: the server answers without a password (HTTP $status)" >&2; exit 1; }
$compose exec -T worker /opt/dihal-docker/entrypoint.sh \
    prefect --no-prompt deployment run dihal/full-study -p profile=smoke --watch
$compose exec -T worker /opt/dihal-docker/entrypoint.sh dihal report
echo "stack: a study ran by deployment, its stores are in the object store"
