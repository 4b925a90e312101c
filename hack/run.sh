#!/usr/bin/env bash
# Runs registry and runner on this host until Ctrl-C. The programs are in bin/
# already; what the runner drives is installed from Debian where it is missing.
# Both have their defaults, or what the environment says: BERTH_HTTP_ADDR,
# BERTH_STORAGE_DATA, BERTH_RUNNER_SOCKET_PATH, BERTH_RUNNER_DATA, …
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/debian.sh

registry=${BERTH_HTTP_ADDR:-localhost:5000}
socket=${BERTH_RUNNER_SOCKET_PATH:-/run/berth/runner.sock}

if [ "$(id -u)" != 0 ]; then
	echo "the runner needs root: sudo make run (the registry alone does not: bin/berth serve)" >&2
	exit 1
fi
install_debian '
	conmon conmon
	crun   crun
	nft    nftables
'

pids=()
stop() {
	trap - INT TERM
	kill -TERM "${pids[@]}" 2>/dev/null || true
	wait "${pids[@]}" || true
}
trap 'stop; exit 0' INT TERM
# In groups of their own: Ctrl-C is this script's to pass on, once.
set -m
"${BERTH_BIN:-bin/berth}" serve &
pids+=($!)
"${BERTH_RUNNER_BIN:-bin/berth-runner}" serve &
pids+=($!)
set +m

# ready: both answer, or one has ended.
answers() {
	(exec 3<>"/dev/tcp/${registry%:*}/${registry##*:}") 2>/dev/null && [ -S "$socket" ]
}
until answers; do
	for pid in "${pids[@]}"; do
		kill -0 "$pid" 2>/dev/null || { stop; exit 1; }
	done
	sleep 0.1
done

cat <<TEXT

  registry  http://$registry
  runner    unix://$socket

In another terminal:

  docker tag mongo $registry/mongo
  docker push $registry/mongo
  export DOCKER_HOST=unix://$socket
  docker run -d --name mongo -p 27017:27017 $registry/mongo
  bin/berth-runner deploy -f compose.yaml

Ctrl-C stops both; containers go on running, and are there again at the next start.

TEXT
wait -n "${pids[@]}" || true
echo "one of the two has ended: stopping the other" >&2
stop
exit 1
