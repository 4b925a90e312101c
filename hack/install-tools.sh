#!/usr/bin/env bash
# Installs what the tests drive: Debian's packages, and Go programs at the
# versions below into bin/tools. What is there already is left alone.
#
#	hack/install-tools.sh                  everything
#	hack/install-tools.sh golangci-lint    only that Go program; one of ours, too
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BERTH_TOOLS:-$PWD/bin/tools}
. hack/debian.sh

# A command that the tests run, and the Debian package that has it.
debian='
	awk             mawk
	busybox         busybox-static
	bzip2           bzip2
	chromium        chromium
	conmon          conmon
	containerd      containerd
	crun            crun
	curl            curl
	docker          docker.io
	docker-registry docker-registry
	dockerd         docker.io
	git             git
	haproxy         haproxy
	hostname        hostname
	htpasswd        apache2-utils
	igzip           isal
	ip              iproute2
	iperf3          iperf3
	journalctl      systemd
	linux.uml       user-mode-linux
	mkfs.ext4       e2fsprogs
	mount           mount
	nft             nftables
	nginx           nginx
	nsenter         util-linux
	openssl         openssl
	pigz            pigz
	podman          podman
	ps              procps
	rsyslogd        rsyslog rsyslog-gnutls
	runc            runc
	script          bsdutils
	setpriv         util-linux
	skopeo          skopeo
	slapd           slapd
	strace          strace
	sysbench        sysbench
	tini            tini
	xz              xz-utils

	/usr/bin/docker docker.io
	/usr/lib/cni/bridge containernetworking-plugins
	/usr/lib/postgresql/15/bin/postgres postgresql-15
	/usr/lib/python3/dist-packages/docker/__init__.py python3-docker
'

# A Go program, its package, its version.
programs='
	conformance         github.com/opencontainers/distribution-spec/conformance  v0.0.0-20260831232431-97274622c111
	cosign              github.com/sigstore/cosign/v3/cmd/cosign                 v3.1.3
	crane               github.com/google/go-containerregistry/cmd/crane         v0.22.1
	golangci-lint       github.com/golangci/golangci-lint/v2/cmd/golangci-lint   v2.15.0
	gotestsum           gotest.tools/gotestsum                                   v1.13.0
	helm                helm.sh/helm/v3/cmd/helm                                 v3.22.0
	oras                oras.land/oras/cmd/oras                                  v1.3.6
	pebble              github.com/letsencrypt/pebble/v2/cmd/pebble              v2.10.3
	pebble-challtestsrv github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv v2.10.3
	versitygw           github.com/versity/versitygw/cmd/versitygw               v1.8.0
'

# A Go program whose module cannot be installed by name, as it excludes versions of
# its dependencies: it is built where it was downloaded to. Its package there, the
# module, its version. The plugins of docker need their version told.
modules='
	buildctl       cmd/buildctl  github.com/moby/buildkit     v0.34.2
	buildkitd      cmd/buildkitd github.com/moby/buildkit     v0.34.2
	docker-buildx  cmd/buildx    github.com/docker/buildx     v0.38.2
	docker-compose cmd           github.com/docker/compose/v5 v5.6.0
	runsc          runsc         gvisor.dev/gvisor            v0.0.0-20260905035102-160fafc42237
'

# installed NAME VERSION: whether bin/tools has it; `built` notes that it does.
installed() { [ -x "$bin/$1" ] && [ "$(cat "$bin/.$1.version" 2>/dev/null)" = "$2" ]; }
built() { echo "$2" >"$bin/.$1.version"; }

install_programs() {
	local name package version
	while read -r name package version; do
		[ -n "$name" ] && [[ -z "${1-}" || $name = "$1" ]] || continue
		installed "$name" "$version" && continue
		echo "installing $name $version"
		GOBIN="$bin" go install "$package@$version" </dev/null
		built "$name" "$version"
	done <<<"$programs"
}

install_modules() {
	local name package module version dir
	while read -r name package module version; do
		[ -n "$name" ] && [[ -z "${1-}" || $name = "$1" ]] || continue
		installed "$name" "$version" && continue
		echo "installing $name $version"
		dir=$(cd / && go mod download -json "$module@$version" </dev/null | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
		CGO_ENABLED=0 go build -C "$dir" -trimpath -o "$bin/$name" \
			-ldflags "-s -w -X $module/version.Version=$version -X $module/internal.Version=$version" "./$package" </dev/null
		built "$name" "$version"
	done <<<"$modules"
}

# Programs of the tests that are modules of this repository: what uses testcontainers-go, the identity provider,
# and what checks manifests for Kubernetes. They are built anew when they have changed.
ours='containers idp kubecheck'

install_ours() {
	local name version
	for name in ${1-$ours}; do
		version=$(cat e2e/$name/*.go e2e/$name/go.* | sha256sum | cut -c -16)
		installed "$name" "$version" && continue
		echo "building $name"
		CGO_ENABLED=0 go build -C "e2e/$name" -trimpath -o "$bin/$name" .
		built "$name" "$version"
	done
}

mkdir -p "$bin"
if [ $# -gt 0 ]; then
	if [[ " $ours " = *" $1 "* ]]; then install_ours "$1"; else
		install_programs "$1"
		install_modules "$1"
	fi
	exit
fi
install_debian "$debian"
install_programs
install_modules
install_ours
