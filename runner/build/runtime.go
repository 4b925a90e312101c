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
// know is left out: there a container is gone when it has ended, and need not be
// deleted. It takes no hierarchy of version 2 beside those of version 1 either.
const (
	runtimeScript = `#!/bin/sh
exec %[1]s --root %[2]s "$@"
`
	crunScript = `#!/bin/sh
for a; do
	shift
	case $a in
	--keep) ;;
	delete) gone=yes; set -- "$@" delete --force ;;
	*) set -- "$@" "$a" ;;
	esac
done
[ "$gone" ] && [ ! -e %[2]s/"$a" ] && exit 0
`
	hybridScript = `exec %[3]s --mount --propagation slave /bin/sh -c '%[4]s -l ` + cgroupRoot + `/unified && exec "$@"' - %[1]s --root %[2]s "$@"
`
)

// writeRuntime writes the script that calls the runtime, and returns its path.
func writeRuntime(o Options) (string, error) {
	path, err := exec.LookPath(o.Runtime)
	if err != nil {
		return "", fmt.Errorf("the OCI runtime of builds: %w", err)
	}
	text, hide := runtimeScript, [2]string{}
	help, _ := exec.Command(path, "run", "--help").CombinedOutput() //nolint:noctx // what is said is looked at, however it ends
	if !strings.Contains(string(help), "--keep") {
		text = crunScript + strings.TrimPrefix(runtimeScript, "#!/bin/sh\n")
		if isCgroup2(cgroupRoot + "/unified") {
			text = crunScript + hybridScript
			for i, name := range []string{"unshare", "umount"} {
				if hide[i], err = exec.LookPath(name); err != nil {
					return "", fmt.Errorf("the cgroups of this host, with crun: %w", err)
				}
			}
		}
	}
	file := filepath.Join(o.Run, "runtime")
	text = fmt.Sprintf(text, quote(path), quote(filepath.Join(o.Run, "oci")), hide[0], hide[1])
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
