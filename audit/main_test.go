package audit_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"testing"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
)

// What the test program does instead of testing when it is told to: it is there to
// be killed.
const (
	roleEnv = "BERTH_TEST_AUDIT" // name of a role
	pathEnv = "BERTH_TEST_PATH"  // file that it works on
	urlEnv  = "BERTH_TEST_URL"   // of the receiver
	fromEnv = "BERTH_TEST_FROM"  // number of the first event
)

func TestMain(m *testing.M) {
	var err error
	switch role := os.Getenv(roleEnv); role {
	case "":
		os.Exit(m.Run())
	case "log":
		err = writeLog(os.Getenv(pathEnv))
	case "full":
		err = fillLog(os.Getenv(pathEnv))
	case "outbox":
		err = fillOutbox(os.Getenv(pathEnv), os.Getenv(urlEnv))
	default:
		err = fmt.Errorf("no role %q", role)
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child is a command that plays a role.
func child(t *testing.T, role, path string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(append(os.Environ(), roleEnv+"="+role, pathEnv+"="+path), env...)
	cmd.Stderr = os.Stderr
	return cmd
}

// writeLog writes lines, and says the number of each that it has written.
func writeLog(path string) error {
	l, err := audit.NewLog(audit.LogOptions{Output: path, MaxSize: 4000, Keep: 100_000})
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(os.Getenv(fromEnv))
	for ; err == nil && l.Failures() == 0; n++ {
		l.Record(context.Background(), numbered(n))
		_, err = fmt.Println(n) //nolint:forbidigo // its parent reads it
	}
	return fmt.Errorf("stopped after %d: %w", n, err)
}

// fillLog writes lines to a file that may have 5,000 bytes only, then to one that
// may be larger again, and says how many lines have failed.
func fillLog(path string) error {
	signal.Ignore(syscall.SIGXFSZ)
	l, err := audit.NewLog(audit.LogOptions{Output: path})
	if err != nil {
		return err
	}
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 5000, Max: was.Max}); err != nil {
		return err
	}
	n := 0
	for ; l.Failures() < 3; n++ {
		l.Record(context.Background(), numbered(n))
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		return err
	}
	for range 3 {
		l.Record(context.Background(), numbered(n))
		n++
	}
	fmt.Println(n, l.Failures()) //nolint:forbidigo // its parent reads it
	return nil
}

var errRollback = errors.New("not this one")

// fillOutbox appends events to an outbox, one in three in a transaction that fails
// then, says the number of each that is durable, and delivers meanwhile.
func fillOutbox(path, url string) error {
	ctx := context.Background()
	meta, err := bolt.Open(path)
	if err != nil {
		return err
	}
	out, err := audit.NewOutbox(meta, []audit.Webhook{{Name: "w", URL: url, Secret: secret}},
		audit.OutboxOptions{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	go out.Run(ctx)
	n, err := strconv.Atoi(os.Getenv(fromEnv))
	for ; err == nil; n++ {
		err = meta.Update(ctx, func(tx storage.Tx) error {
			if err := out.Append(tx, numbered(n)); err != nil || n%3 == 2 {
				return errors.Join(err, errRollback)
			}
			return nil
		})
		if n%3 == 2 && errors.Is(err, errRollback) {
			err = nil
			continue
		}
		out.Wake()
		if err == nil {
			_, err = fmt.Println(n) //nolint:forbidigo // its parent reads it
		}
	}
	return err
}

// numbered is an event that can be told from others.
func numbered(n int) audit.Event {
	return audit.Event{Kind: audit.Push, Repo: "team/web", Tag: "n" + strconv.Itoa(n)}
}
