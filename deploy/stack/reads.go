package stack

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/dotenv"

	"github.com/berth-registry/berth/runner"
)

// elsewhere is why a Compose file of another host is refused.
const elsewhere = "Compose files of other hosts are not read: fetch it, and name the file"

// remote are the Compose files of other hosts, which compose-go would look for among
// those of this one.
type remote struct{}

func (remote) Accept(name string) bool {
	return strings.Contains(name, "://") || strings.HasPrefix(name, "git@")
}

func (remote) Load(_ context.Context, name string) (string, error) {
	return "", runner.Errorf(runner.ErrInvalid, "%s: %s", name, elsewhere)
}

func (remote) Dir(name string) string { return filepath.Dir(name) }

// checkReads looks at the files of variables and labels that services name before
// compose-go reads them: it would say no line, wait for the writer of a FIFO, and read
// a device for ever. It returns false if there is one that cannot be read.
func checkReads(ps *problems, profiles []string) bool {
	before := len(ps.errs)
	services, _ := ps.src.model["services"].(map[string]any)
	for name, v := range byKey(services) {
		s, _ := v.(map[string]any)
		if !enabled(v, profiles) {
			continue
		}
		p := keys{"services", name}
		for i, f := range list(s["env_file"]) {
			m, _ := f.(map[string]any)
			path, _ := m["path"].(string)
			at := p.at("env_file").index(i)
			switch m["format"] {
			case nil, "", dotenv.DotEnv, "raw":
			default:
				ps.addf(at, "the format %q is not known: say raw, or none", m["format"])
				continue
			}
			err := checkRead(path)
			if os.IsNotExist(err) && m["required"] == false {
				continue
			}
			if err != nil {
				ps.addf(at, "%v", err)
			}
		}
		for i, f := range list(s["label_file"]) {
			path, _ := f.(string)
			if err := checkRead(path); err != nil {
				ps.addf(p.at("label_file").index(i), "%v", err)
			}
		}
	}
	return len(ps.errs) == before
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

// checkRead says why a file of variables cannot be read.
func checkRead(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	switch {
	case info.IsDir():
		return fmt.Errorf("%s is a directory", path)
	case path != os.DevNull && !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	case info.Size() > maxFile:
		return fmt.Errorf("%s has %d bytes, and %d are allowed", path, info.Size(), maxFile)
	}
	return nil
}

// registerRaw has compose-go know the format raw of env_file, as docker compose does.
// Its table of formats is one for the process.
var registerRaw = sync.OnceFunc(func() { dotenv.RegisterFormat("raw", readRaw) })

// readRaw reads KEY=VALUE in lines, whose values are taken as they are: without quotes
// and variables. A key alone has its value of the environment, if that has one.
func readRaw(r io.Reader, file string, vars map[string]string, lookup func(string) (string, bool)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxFile)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if n == 1 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		line = strings.TrimLeft(line, " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, stated := strings.Cut(line, "=")
		if key == "" || strings.ContainsAny(key, " \t") {
			return fmt.Errorf("failed to read %s: line %d: invalid variable %q", file, n, key)
		}
		if !stated {
			if value, stated = lookup(key); !stated {
				continue
			}
		}
		vars[key] = value
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("failed to read %s: %w", file, err)
	}
	return nil
}
