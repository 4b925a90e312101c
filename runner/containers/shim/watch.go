package shim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// watcher waits, in one goroutine and without a thread, for files to appear in
// directories and for processes to end, and hands exits on in order.
type watcher struct {
	log     *slog.Logger
	epoll   *os.File
	inotify int
	out     chan Exit
	stop    chan struct{}
	more    chan struct{} // the queue has grown
	done    sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	appeared map[int32]func(name string) // by watch descriptor
	exits    int32                       // watch descriptor of the directory of exits
	ended    map[int32]func()            // by key of a process
	changed  map[int32]func()            // by key of a file that is watched until it is closed
	lastKey  int32
	lost     func() // the kernel dropped events
	queue    []told
}

// told is an exit, and what to do when it has been taken.
type told struct {
	exit  Exit
	taken func()
}

// inotifyKey marks the events of inotify among those of processes.
const inotifyKey = 0

func newWatcher(exits string, log *slog.Logger) (*watcher, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	// Not blocking, so that the Go runtime's poller takes it.
	if err := unix.SetNonblock(epoll, true); err != nil {
		return nil, errors.Join(err, unix.Close(epoll))
	}
	w := &watcher{
		log:      log,
		epoll:    os.NewFile(uintptr(epoll), "epoll"),
		out:      make(chan Exit),
		stop:     make(chan struct{}),
		more:     make(chan struct{}, 1),
		appeared: map[int32]func(string){},
		ended:    map[int32]func(){},
		changed:  map[int32]func(){},
	}
	if w.inotify, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
		return nil, errors.Join(err, w.epoll.Close())
	}
	err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, w.inotify, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: inotifyKey})
	if err == nil {
		w.exits, err = w.addDir(exits, nil)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(w.inotify), w.epoll.Close())
	}
	return w, nil
}

// addDir calls f with the name of each file that appears in a directory, until
// the directory is removed.
func (w *watcher) addDir(path string, f func(name string)) (int32, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, os.ErrClosed
	}
	wd, err := unix.InotifyAddWatch(w.inotify, path, unix.IN_MOVED_TO|unix.IN_ONLYDIR)
	if err != nil {
		return 0, fmt.Errorf("watch %s: %w", path, err)
	}
	w.appeared[int32(wd)] = f
	return int32(wd), nil
}

// addProcess calls f once when a process has ended, also if it has already.
func (w *watcher) addProcess(p *process, f func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return os.ErrClosed
	}
	w.lastKey++
	key := w.lastKey
	w.ended[key] = f
	p.mu.Lock()
	defer p.mu.Unlock()
	conn, err := w.epoll.SyscallConn()
	if err != nil {
		return err
	}
	cerr := conn.Control(func(epoll uintptr) {
		err = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_ADD, p.fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: key})
	})
	if err = errors.Join(err, cerr); err != nil {
		delete(w.ended, key)
		return fmt.Errorf("watch process %d: %w", p.pid, err)
	}
	return nil
}

// addFile calls f, which must not wait, each time that the kernel says that a file
// has changed, by one of the events of epoll. The caller ends that by closing the
// file, after forget.
func (w *watcher) addFile(file *os.File, events uint32, f func()) (key int32, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, os.ErrClosed
	}
	w.lastKey++
	key = w.lastKey
	conn, err := w.epoll.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := conn.Control(func(epoll uintptr) {
		// Only what is new is told, so that nothing has to be read from the file.
		err = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_ADD, int(file.Fd()), &unix.EpollEvent{Events: events | unix.EPOLLET, Fd: key})
	})
	if err = errors.Join(err, cerr); err != nil {
		return 0, fmt.Errorf("watch %s: %w", file.Name(), err)
	}
	w.changed[key] = f
	return key, nil
}

// forget ends the calls for a file of addFile.
func (w *watcher) forget(key int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.changed, key)
}

// run handles events until close.
func (w *watcher) run() {
	defer w.done.Done()
	conn, err := w.epoll.SyscallConn()
	if err != nil {
		return
	}
	events := make([]unix.EpollEvent, 64)
	for {
		var n int
		err := conn.Read(func(fd uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(fd), events, 0)
			return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
		})
		if err != nil {
			return // closed
		}
		for _, e := range events[:max(n, 0)] {
			if e.Fd == inotifyKey {
				w.files()
				continue
			}
			w.mu.Lock()
			f := w.ended[e.Fd]
			delete(w.ended, e.Fd)
			if f == nil {
				f = w.changed[e.Fd]
			}
			w.mu.Unlock()
			if f != nil {
				f()
			}
		}
	}
}

// files handles what inotify has.
func (w *watcher) files() {
	buf := make([]byte, 16<<10)
	for {
		w.mu.Lock()
		n, err := 0, os.ErrClosed
		if !w.closed {
			n, err = unix.Read(w.inotify, buf)
		}
		w.mu.Unlock()
		if err != nil || n <= 0 {
			return
		}
		for rest := buf[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(rest))
			mask := binary.NativeEndian.Uint32(rest[4:])
			size := int(binary.NativeEndian.Uint32(rest[12:]))
			name, _, _ := bytes.Cut(rest[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size], []byte{0})
			rest = rest[unix.SizeofInotifyEvent+size:]
			w.file(wd, mask, string(name))
		}
	}
}

func (w *watcher) file(wd int32, mask uint32, name string) {
	w.mu.Lock()
	f := w.appeared[wd]
	if mask&unix.IN_IGNORED != 0 {
		delete(w.appeared, wd)
	}
	w.mu.Unlock()
	switch {
	case mask&unix.IN_Q_OVERFLOW != 0:
		w.lost()
	case mask&unix.IN_MOVED_TO != 0 && f != nil:
		f(name)
	}
}

// tell queues an exit. taken, if not nil, is called when it has been received.
func (w *watcher) tell(e Exit, taken func()) {
	w.mu.Lock()
	w.queue = append(w.queue, told{e, taken})
	w.mu.Unlock()
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// deliver hands on queued exits until close, which closes the channel.
func (w *watcher) deliver() {
	defer w.done.Done()
	defer close(w.out)
	for {
		w.mu.Lock()
		queue := w.queue
		w.queue = nil
		w.mu.Unlock()
		for _, t := range queue {
			select {
			case w.out <- t.exit:
			case <-w.stop:
				return
			}
			if t.taken != nil {
				t.taken()
			}
		}
		if len(queue) > 0 {
			continue
		}
		select {
		case <-w.more:
		case <-w.stop:
			return
		}
	}
}

// start begins to watch. appeared gets the names of exit files; lost is called
// if events were dropped.
func (w *watcher) start(appeared func(name string), lost func()) {
	w.mu.Lock()
	w.appeared[w.exits] = appeared
	w.lost = lost
	w.mu.Unlock()
	w.done.Add(2)
	go w.run()
	go w.deliver()
}

// close ends both goroutines. Exits that were not taken are told again after the
// next Open.
func (w *watcher) close() {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return
	}
	w.closed = true
	_ = unix.Close(w.inotify)
	w.mu.Unlock()
	close(w.stop)
	_ = w.epoll.Close()
	w.done.Wait()
}
