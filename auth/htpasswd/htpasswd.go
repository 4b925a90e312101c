// Package htpasswd knows the accounts of a file as Apache's htpasswd -B writes it:
// lines of user:hash, empty ones, and comments that start with "#".
//
// It promises that the file is followed when it changes, through symbolic links
// and renames too, and that one that is half written, wrong, empty or gone leaves
// the last good one in force. It takes no hash but bcrypt's, and no password of
// more than 72 bytes, of which bcrypt would ignore the rest; htpasswd does not
// refuse those.
//
// It does not slow down who guesses, nor does it hide by time that an account
// does not exist: its caller does.
package htpasswd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/internal/watch"
)

// Source is the name of a File as an auth.Source.
const Source = "htpasswd"

const (
	maxFile     = 16 << 20 // bytes
	maxPassword = 72       // bytes: bcrypt ignores all behind them
	// maxLooks is how many times a file that keeps changing is looked at before it
	// is taken as it is.
	maxLooks = 10
)

// Options change how a File works. The zero value is usable.
type Options struct {
	// Log is told what the file was taken for when it changed. Nil for nobody.
	Log *slog.Logger
	// Interval is how often the file is looked at; watch.Interval if it is 0. A
	// change is in force once the file has stayed the same for as long.
	Interval time.Duration
}

// File is a password file that is followed as it changes. Its methods may be
// called concurrently.
type File struct {
	path     string
	log      *slog.Logger
	interval time.Duration
	wait     func()

	loading sync.Mutex // held by who reads the file
	users   atomic.Pointer[map[string]user]
}

// user is what a line says.
type user struct {
	hash  string // bcrypt's
	epoch string
}

var _ auth.Source = (*File)(nil)

// Open reads the file at path, and follows it until ctx ends. It fails if the
// file is not there, or wrong: the error names the line.
func Open(ctx context.Context, path string, o Options) (*File, error) {
	f := &File{path: path, log: o.Log, interval: o.Interval}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if f.interval <= 0 {
		f.interval = watch.Interval
	}
	following, cancel := context.WithCancel(ctx)
	// It is watched before it is read, so that no change falls in between.
	f.wait = watch.Files(following, f.interval, func() { f.changed(following) }, path)
	if err := f.Reload(); err != nil {
		cancel()
		f.wait()
		return nil, err
	}
	context.AfterFunc(ctx, cancel)
	return f, nil
}

// Wait waits, after the context of Open has ended, until the file is not looked
// at any more.
func (f *File) Wait() { f.wait() }

// Reload reads the file now, without waiting for it to settle. If it fails, what
// was read last stays in force.
func (f *File) Reload() error {
	f.loading.Lock()
	defer f.loading.Unlock()
	data, err := read(f.path)
	if err != nil {
		return err
	}
	return f.take(data)
}

// take puts what the file says in force. f.loading is held.
func (f *File) take(data []byte) error {
	users, err := parse(data)
	if err != nil {
		return fmt.Errorf("%s:%w", f.path, err)
	}
	if last := f.users.Load(); len(data) == 0 && last != nil && len(*last) > 0 {
		return fmt.Errorf("%s: %w", f.path, errEmpty)
	}
	f.users.Store(&users)
	return nil
}

// errEmpty is what is said of a file that had users and has no byte any more.
var errEmpty = errors.New("the file is empty, as if it was being written; to have no users, leave a comment in it")

// changed reads the file when it has changed, and is twice the same: one that is
// written in pieces may be cut between two lines, and then it looks whole.
func (f *File) changed(ctx context.Context) {
	last, _ := read(f.path)
	tick := time.NewTicker(f.interval)
	defer tick.Stop()
	for looks := 1; ; looks++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if f.follow(ctx, &last, looks == maxLooks) {
			return
		}
	}
}

// follow reads the file and puts it in force if it is still as it was last, or in
// any case if it must.
func (f *File) follow(ctx context.Context, last *[]byte, must bool) (done bool) {
	f.loading.Lock()
	defer f.loading.Unlock()
	data, err := read(f.path)
	if !must && !bytes.Equal(data, *last) {
		*last = data
		return false
	}
	if err == nil {
		err = f.take(data)
	}
	if err != nil {
		f.log.ErrorContext(ctx, "the password file is wrong; the last good one stays in force", "error", err)
		return true
	}
	f.log.InfoContext(ctx, "the password file was read", "file", f.path, "users", len(*f.users.Load()))
	return true
}

// read reads a whole file, unless it is too large or none.
func read(path string) ([]byte, error) {
	// A named pipe would be waited for.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s: larger than %d MiB", path, maxFile>>20)
	}
	return data, nil
}

// Name implements auth.Source.
func (*File) Name() string { return Source }

// Login implements auth.Source.
func (f *File) Login(ctx context.Context, account, password string) (*auth.Identity, error) {
	u, ok := (*f.users.Load())[account]
	if !ok {
		return nil, auth.ErrUnknown
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// A password that cannot be takes as long as a wrong one.
	err := bcrypt.CompareHashAndPassword([]byte(u.hash), []byte(password[:min(len(password), maxPassword)]))
	if err != nil || !sound(password) {
		return nil, auth.ErrWrong
	}
	return &auth.Identity{Account: account, Source: Source, Epoch: u.epoch}, nil
}

// sound says whether s can be a password. RFC 7617, section 2 keeps control
// characters out of them; and bcrypt takes "a\x00a" for "a".
func sound(s string) bool {
	return len(s) <= maxPassword && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// Current implements auth.Source. Of an identity that signed in with an API key
// it says whether the account is still there; the key is its store's to judge.
func (f *File) Current(id *auth.Identity) bool {
	u, ok := (*f.users.Load())[id.Account]
	return ok && id.Source == Source && (id.Key != "" || u.epoch == id.Epoch)
}

// Knows says whether there is a user of that name.
func (f *File) Knows(account string) bool {
	_, ok := (*f.users.Load())[account]
	return ok
}

// epoch is another one for another hash, from which it tells nothing.
func epoch(hash string) string {
	sum := sha256.Sum256([]byte(hash))
	return hex.EncodeToString(sum[:8])
}
