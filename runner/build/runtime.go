package build

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
)

type spec = specs.Spec

// ociVersion is one that all versions of the runtimes take.
const ociVersion = "1.0.2"

const networkNamespace = specs.NetworkNamespace

// The runtime is called by a script: its state is to be in our directory, and
// BuildKit speaks to all runtimes as to runc. What a version of crun does not
// know is left out: a container that is not kept is gone when it has ended, and
// to delete it then is no error.
const (
	runtimeScript = `#!/bin/sh
exec %s --root %s "$@"
`
	crunScript = `#!/bin/sh
for a; do
	shift
	case $a in
	--keep) ;;
	delete) set -- "$@" delete --force ;;
	*) set -- "$@" "$a" ;;
	esac
done
`
	// crun takes no hierarchy of version 2 beside those of version 1.
	hybridScript = `exec unshare --mount --propagation slave sh -c 'umount -l ` + cgroupRoot + `/unified && exec "$@"' - %s --root %s "$@"
`
)

// writeRuntime writes the script that calls the runtime, and returns its path.
func writeRuntime(o Options) (string, error) {
	path, err := exec.LookPath(o.Runtime)
	if err != nil {
		return "", fmt.Errorf("the OCI runtime of builds: %w", err)
	}
	text := runtimeScript
	help, _ := exec.Command(path, "run", "--help").CombinedOutput() //nolint:noctx,gosec // what is said is looked at, however it ends
	if !strings.Contains(string(help), "--keep") {
		text = crunScript + strings.TrimPrefix(runtimeScript, "#!/bin/sh\n")
		if isCgroup2(cgroupRoot + "/unified") {
			text = crunScript + hybridScript
		}
	}
	file := filepath.Join(o.Run, "runtime")
	text = fmt.Sprintf(text, quote(path), quote(filepath.Join(o.Run, "oci")))
	return file, os.WriteFile(file, []byte(text), 0o700) //nolint:gosec // a program
}

func isCgroup2(dir string) bool {
	list, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.Mountpoint != dir || m.FSType != "cgroup2", false
	})
	return err == nil && len(list) > 0
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func newID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // it never fails
	return hex.EncodeToString(b)
}
