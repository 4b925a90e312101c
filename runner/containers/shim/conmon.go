package shim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// bundleFlag is the option that names the directory of a monitor; it is how a
// monitor is found again.
const bundleFlag = "-b"

// monitorArgs returns the command line of conmon for the bundle in dir of a
// container. --sync keeps conmon from forking once more into the background:
// it has a session of its own already, and its number is known at once. The log
// is not synced at the end, as Docker's is not.
func (s *Shim) monitorArgs(id, uuid, dir string, r runtimeProgram) []string {
	program, first := s.monitored(r)
	args := []string{
		s.conmon, "--api-version", "1", "--sync", "--full-attach", "--no-sync-log",
		"--log-level", "error", "-c", id, "-u", uuid, "-n", id, bundleFlag, dir,
		"-p", filepath.Join(dir, "pid"), "-r", program,
	}
	for _, arg := range slices.Concat(first, []string{"--root=" + s.stateDir(r)}, r.Args) {
		args = append(args, "--runtime-arg", arg)
	}
	return args
}

// stateDir is where a runtime keeps its own state.
func (s *Shim) stateDir(r runtimeProgram) string { return filepath.Join(s.dir, "oci", r.Name) }

// environment is that of conmon and the runtime: nothing of this process's
// (notification sockets, locales) may reach them.
func (s *Shim) environment(tmp string, more ...string) []string {
	path := os.Getenv("PATH")
	if path == "" {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	return append([]string{"PATH=" + path, "TMPDIR=" + tmp}, more...)
}

// pipes are what conmon is started with beside its standard streams. For each
// pipe it holds both ends: it must neither die of writing to a process that
// ended, nor take the end of that process for a permission to go on.
type pipes struct {
	ours, theirs []*os.File
	env          []string
}

// addReader makes a pipe that conmon writes to, named by a variable of its
// environment, and returns the end to read from.
func (p *pipes) addReader(name string) (*os.File, error) {
	r, w, err := p.add(true)
	if err != nil {
		return nil, err
	}
	p.theirs = append(p.theirs, w, r)
	p.env = append(p.env, fmt.Sprintf("%s=%d", name, p.next()-2))
	return r, nil
}

// addWriter makes a pipe that conmon reads from.
func (p *pipes) addWriter(name string) (*os.File, error) {
	r, w, err := p.add(false)
	if err != nil {
		return nil, err
	}
	p.theirs = append(p.theirs, r, w)
	p.env = append(p.env, fmt.Sprintf("%s=%d", name, p.next()-2))
	return w, nil
}

// add makes a pipe. Its ends are blocking, as conmon expects of those that it
// uses, except that reading may be made not to be.
func (p *pipes) add(nonblock bool) (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	if nonblock {
		if err := unix.SetNonblock(fds[0], true); err != nil {
			return nil, nil, errors.Join(err, unix.Close(fds[0]), unix.Close(fds[1]))
		}
	}
	r, w = os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe")
	p.ours = append(p.ours, r, w)
	return r, w, nil
}

func (p *pipes) next() int { return 3 + len(p.theirs) }

// closeBut closes all ends but those to keep.
func (p *pipes) closeBut(keep ...*os.File) {
	for _, f := range p.ours {
		kept := false
		for _, k := range keep {
			kept = kept || k == f
		}
		if !kept {
			_ = f.Close()
		}
	}
}

// consoles is where the monitors of a container make sockets for terminals. It is
// as short as can be, to fit into an address.
func (s *Shim) consoles(id string) string {
	return filepath.Join(s.dir, "tmp", id[:min(len(id), 12)])
}

// spawn starts a monitor of container id in the bundle's directory dir, on a
// thread that prepare puts into the right namespaces.
func (s *Shim) spawn(id string, argv []string, dir string, p *pipes, prepare func() error) (*process, error) {
	if err := os.MkdirAll(s.consoles(id), 0o700); err != nil {
		return nil, err
	}
	// What conmon says before it has opened its pipes.
	stderr, err := os.OpenFile(filepath.Join(dir, "conmon.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	cmd := command{argv: argv, env: s.environment(s.consoles(id), p.env...), dir: dir}
	cmd.files = []uintptr{s.null.Fd(), s.null.Fd(), stderr.Fd()}
	for _, f := range p.theirs {
		fd, err := rawFD(f)
		if err != nil {
			return nil, err
		}
		cmd.files = append(cmd.files, fd)
	}
	var monitor *process
	err = onThread(func() error {
		if err := prepare(); err != nil {
			return err
		}
		var err error
		monitor, err = cmd.start()
		return err
	})
	if err != nil {
		return nil, err
	}
	return monitor, writePID(filepath.Join(dir, "monitor"), monitor.pid)
}

// rawFD returns a file's descriptor without making it blocking, as Fd would.
func rawFD(f *os.File) (fd uintptr, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	err = conn.Control(func(n uintptr) { fd = n })
	return fd, err
}

// message is what conmon says on a pipe: the number of a process, or a negative
// one with what the runtime wrote to standard error.
type message struct {
	Data    int    `json:"data"`
	Message string `json:"message"`
}

// readMessage reads one message. Its error is that of ctx if it was done before.
func readMessage(ctx context.Context, r *os.File) (message, error) {
	var m message
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if err != nil {
		if ctx.Err() != nil {
			return m, ctx.Err()
		}
		return m, err
	}
	// conmon leaves control characters of the runtime's text as they are.
	for i, c := range line {
		if c < ' ' {
			line[i] = ' '
		}
	}
	err = json.Unmarshal(line, &m)
	return m, err
}

// silence explains why a monitor ended without a message.
func silence(dir string, err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	text, _ := os.ReadFile(filepath.Join(dir, "conmon.log"))
	if said := strings.TrimSpace(string(text)); said != "" {
		return fmt.Errorf("conmon: %s", said)
	}
	return errors.New("conmon ended without a word")
}
