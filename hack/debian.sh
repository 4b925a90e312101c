# Sourced by the scripts beside it: installs Debian's packages where missing.

# install_debian TABLE: a line of the table is a command, or the path of a file,
# and the package that has it. What is there already is left alone.
install_debian() {
	local missing=() command package
	while read -r command package; do
		[ -z "$command" ] || (PATH=$PATH:/usr/sbin:/sbin && command -v "$command") >/dev/null || missing+=("$package")
	done <<<"$1"
	[ ${#missing[@]} -gt 0 ] || return 0

	local apt="apt-get install -y --no-install-recommends ${missing[*]}"
	if ! command -v apt-get >/dev/null; then
		echo "${missing[*]} missing, and this is no Debian: install by hand" >&2
		return 1
	fi
	if [ "$(id -u)" != 0 ]; then
		echo "${missing[*]} missing: run as root: $apt" >&2
		return 1
	fi
	local policy=/usr/sbin/policy-rc.d status=0
	# The packages' daemons stay off: what is wanted starts its own. A policy
	# that the machine has is respected.
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod 755 $policy
	else
		policy=
	fi
	export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
	$apt </dev/null || { apt-get update && $apt; } </dev/null || status=$?
	[ -z "$policy" ] || rm -f "$policy"
	return $status
}
