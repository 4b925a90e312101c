package build

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/internal/durable"
)

const (
	stateFile = "state"
	layout    = "1" // of the files; of another, nothing is read
	onDisk    = "on disk"

	// idleFor is how long nothing is built before the cache is written out: a sync
	// in the middle would hold up the builds.
	idleFor = 30 * time.Second
)

// guard knows whether the cache is on the disk, and puts it there when nothing is
// built. So no step of a build waits for the disk.
type guard struct {
	root, boot string
	log        *slog.Logger

	mu     sync.Mutex
	users  int
	synced bool
	timer  *time.Timer
	closed bool
}

// trust says whether what is in a cache's directory is what was written there:
// all of it was put on the disk, or the kernel that took it still runs.
func trust(root string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(root, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	boot, err := bootID()
	if err != nil {
		return false, err
	}
	state, ok := strings.CutPrefix(strings.TrimSpace(string(b)), layout+" ")
	return ok && (state == onDisk || state == boot), nil
}

func openGuard(root string, log *slog.Logger) (*guard, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	g := &guard{root: root, boot: boot, log: log}
	if err := g.write(boot); err != nil {
		return nil, err
	}
	return g, nil
}

func (g *guard) write(state string) error {
	if err := durable.WriteFile(filepath.Join(g.root, stateFile), []byte(layout+" "+state+"\n")); err != nil {
		return fmt.Errorf("the state of the build cache: %w", err)
	}
	return nil
}

// use says that the cache is about to change, until the returned function is
// called.
func (g *guard) use() (done func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.synced {
		if err := g.write(g.boot); err != nil {
			return nil, err
		}
		g.synced = false
	}
	g.users++
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.users--; g.users == 0 && !g.closed {
			g.timer = time.AfterFunc(idleFor, g.sync)
		}
	}), nil
}

// sync writes the cache out.
func (g *guard) sync() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.users > 0 || g.closed || g.synced {
		return
	}
	err := syncfs(g.root)
	if err == nil {
		err = g.write(onDisk)
	}
	if err != nil {
		g.log.Error("the build cache cannot be written out", "error", err)
		return
	}
	g.synced = true
}

// close ends what goes on in the background.
func (g *guard) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.timer != nil {
		g.timer.Stop()
	}
	return nil
}

func syncfs(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd())))
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}
