package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berth-registry/berth/storage"
)

// ErrUnknown says that the connection was lost in a commit, and that nobody can tell
// any more whether it was done.
var ErrUnknown = errors.New("it is unknown whether the transaction was committed")

// errSlow is the cause when the time for an answer is up.
var errSlow = errors.New("PostgreSQL has not answered in time")

// errBusy is the cause when no connection came free.
var errBusy = errors.New("no connection to PostgreSQL came free in time; raise storage.postgres.max_conns")

// failure is what an error means for the transaction.
type failure int

const (
	final    failure = iota // it would fail again
	conflict                // it met another one
	lost                    // the connection is gone, or there is none
)

// meaning says what an error of the server or of the connection means.
func meaning(err error) failure {
	var answer *pgconn.PgError
	switch {
	case errors.Is(err, errGone):
		return lost
	case errors.Is(err, context.Canceled), errors.Is(err, errSlow), errors.Is(err, errBusy), errors.Is(err, ErrUnknown):
		return final
	case errors.As(err, &answer):
		return meaningOf(answer.Code)
	}
	var (
		connect *pgconn.ConnectError
		network net.Error
	)
	switch {
	case errors.As(err, &connect), errors.As(err, &network),
		errors.Is(err, pgconn.ErrConnClosed), errors.Is(err, net.ErrClosed),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		pgconn.SafeToRetry(err):
		return lost
	}
	return final
}

// meaningOf says what a code of the server means (PostgreSQL, appendix A).
func meaningOf(code string) failure {
	switch code {
	case "40001", "40P01", "55P03": // serialization failure, deadlock, lock not available
		return conflict
	case "57P01", "57P02", "57P03", "57P05", // the server ends, has crashed, starts; the session was idle
		"53300",          // too many connections
		"25P03", "25P04": // the transaction was idle, or took too long
		return lost
	}
	if strings.HasPrefix(code, "08") { // connection exception
		return lost
	}
	return final
}

// ended says that an answer is the last one of a session, whatever was under way.
func ended(answer *pgconn.PgError) bool {
	return answer.SeverityUnlocalized == "FATAL" || answer.SeverityUnlocalized == "PANIC" || meaningOf(answer.Code) == lost
}

// told is an error as others may see it: with what storage calls it, with what can be
// done about it, and without the DSN.
func told(err error) error {
	var (
		answer  *pgconn.PgError
		connect *pgconn.ConnectError
		parse   *pgconn.ParseConfigError
		step    *migrationError
	)
	switch {
	case err == nil, errors.Is(err, ErrUnknown), errors.As(err, &step):
		return err
	case errors.As(err, &parse):
		return errors.New("the DSN of PostgreSQL cannot be read")
	case errors.As(err, &answer):
		return toldOf(answer)
	case errors.As(err, &connect):
		return fmt.Errorf("cannot reach PostgreSQL; check that it runs, and that storage.postgres names its host and port: %w", &attempts{connect.Unwrap()})
	}
	return err
}

// attempts are what came of trying to connect, at one address after the other, and with TLS
// and without: in one line, each once.
type attempts struct{ error }

// Error implements error.
func (t *attempts) Error() string {
	return strings.Join(slices.Compact(strings.Split(t.error.Error(), "\n")), "; ")
}

// Unwrap returns them all.
func (t *attempts) Unwrap() error { return t.error }

func toldOf(answer *pgconn.PgError) error {
	switch code := answer.Code; {
	case code == "53100":
		return fmt.Errorf("PostgreSQL: %w: %w", storage.ErrNoSpace, answer)
	case code == "25006":
		return fmt.Errorf("PostgreSQL: %w: %w", storage.ErrReadOnly, answer)
	case strings.HasPrefix(code, "XX00"), code == "58030", code == "58P01":
		return fmt.Errorf("PostgreSQL: %w: %w", storage.ErrUnreadable, answer)
	case strings.HasPrefix(code, "28"):
		return fmt.Errorf("PostgreSQL refuses the user or the password: %w", answer)
	case code == "3D000":
		return fmt.Errorf("PostgreSQL has no such database; create it first: %w", answer)
	case code == "42501":
		return fmt.Errorf("the user may not do that in PostgreSQL; have it own the schema: %w", answer)
	case code == "53300":
		return fmt.Errorf("PostgreSQL has no connection left; lower storage.postgres.max_conns, or raise its max_connections: %w", answer)
	}
	return fmt.Errorf("PostgreSQL: %w", answer)
}
