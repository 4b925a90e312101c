package stack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// security reads the profiles of seccomp, as the docker command does.
func (t *translation) security(p keys, opts []string) (out []string, unconfined bool) {
	for i, opt := range opts {
		if opt == "systempaths=unconfined" {
			unconfined = true
			continue
		}
		key, value, ok := strings.Cut(opt, "=")
		if !ok {
			key, value, ok = strings.Cut(opt, ":")
		}
		switch {
		case !ok && opt != "no-new-privileges":
			t.addf(p.index(i), "invalid security-opt: %q", opt)
		case key == "seccomp" && value != "unconfined" && value != "builtin":
			profile, err := t.seccomp(value)
			if err != nil {
				t.addf(p.index(i), "%v", err)
			}
			out = append(out, "seccomp="+profile)
		default:
			out = append(out, opt)
		}
	}
	return out, unconfined
}

func (t *translation) seccomp(file string) (string, error) {
	if !filepath.IsAbs(file) && !t.local {
		return "", fmt.Errorf("the seccomp profile %s is a file beside the Compose file, which a published one has not", file)
	}
	data, err := readFile(t.project.RelativePath(file))
	if err != nil {
		return "", fmt.Errorf("opening seccomp profile (%s) failed: %w", file, err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, data); err != nil {
		return "", fmt.Errorf("compacting json for seccomp profile (%s) failed: %w", file, err)
	}
	return b.String(), nil
}

// maxFile bounds a file of a config, a secret or a seccomp profile, in bytes. It
// travels with the stack.
const maxFile = 1 << 20

// readFile reads a regular file of at most maxFile. One of /proc or /sys is refused:
// some of them are read for ever.
func readFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO does not wait for its writer
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return nil, err
	}
	switch {
	case info.IsDir():
		return nil, runner.Errorf(runner.ErrInvalid, "%s is a directory", name)
	case !info.Mode().IsRegular(), fs.Type == unix.PROC_SUPER_MAGIC, fs.Type == unix.SYSFS_MAGIC:
		return nil, runner.Errorf(runner.ErrInvalid, "%s is not a regular file", name)
	case info.Size() > maxFile:
		return nil, runner.Errorf(runner.ErrInvalid, "%s has %d bytes, and %d are allowed", name, info.Size(), maxFile)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile { // it grows
		return nil, runner.Errorf(runner.ErrInvalid, "%s has more than the %d bytes that are allowed", name, maxFile)
	}
	return data, err
}
