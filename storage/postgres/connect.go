package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// sideConns is how many connections there are for single statements.
	sideConns = 2
	// connectTime is how long a connection may take to be made, if the DSN does not say.
	connectTime = 5 * time.Second
	// answerTime is how long the server may take to answer: longer than it takes to
	// give up by itself.
	answerTime = 45 * time.Second
	// statementCache is how many statements a connection remembers: all there are.
	statementCache = 1024
)

// schemaName is what a schema may be called.
var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,39}$`)

// Place says which database is meant, on which server, and in which schema: nothing of
// who signs in. It fails as Open does if the DSN cannot be read.
func (o Options) Place() (string, error) {
	config, schema, err := o.config()
	if err != nil {
		return "", err
	}
	servers := []string{}
	conn := config.ConnConfig
	for _, c := range append([]*pgconn.FallbackConfig{{Host: conn.Host, Port: conn.Port}}, conn.Fallbacks...) {
		servers = append(servers, net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))))
	}
	return fmt.Sprintf("PostgreSQL at %s, database %s, schema %s", strings.Join(slices.Compact(servers), ", "), conn.Database, schema), nil
}

// config reads the options. No error holds a part of the DSN.
func (o Options) config() (config *pgxpool.Config, schema string, err error) {
	config, err = pgxpool.ParseConfig(o.DSN)
	if err != nil || o.DSN == "" {
		return nil, "", errors.New(`the DSN of PostgreSQL cannot be read: want postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full, or "host=... user=... dbname=..."; files that it names must be there`)
	}
	conn := config.ConnConfig
	schema = o.Schema
	if path := conn.RuntimeParams["search_path"]; schema == "" && path != "" {
		first, _, _ := strings.Cut(path, ",")
		schema = strings.Trim(first, ` "`)
	}
	if schema == "" {
		schema = defaultSchema
	}
	if !schemaName.MatchString(schema) {
		return nil, "", fmt.Errorf("the schema %q: want a name of lower-case letters, digits and '_', of at most 40 characters", schema)
	}
	if o.MaxConns < 0 || o.Patience < 0 {
		return nil, "", fmt.Errorf("%d connections with a patience of %v", o.MaxConns, o.Patience)
	}
	config.MaxConns = int32(min(o.MaxConns, 10_000))
	if o.MaxConns == 0 {
		config.MaxConns = defaultConns
	}
	config.PingTimeout = connectTime
	if conn.ConnectTimeout == 0 || conn.ConnectTimeout > time.Minute {
		conn.ConnectTimeout = connectTime
	}
	conn.StatementCacheCapacity = statementCache
	conn.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	if conn.RuntimeParams["application_name"] == "" {
		conn.RuntimeParams["application_name"] = "berth"
	}
	conn.OnNotice = nil
	conn.AfterConnect = nil
	config.AfterConnect = prepareConn
	return config, schema, nil
}

// prepareSession has a session end what does not end by itself, unless the database
// has limits of its own, and never lose what was committed. Statements use indexes
// however small a table is: to read a whole table conflicts with whoever writes to it.
const prepareSession = `SELECT
	set_config('statement_timeout', CASE current_setting('statement_timeout') WHEN '0' THEN '30s' ELSE current_setting('statement_timeout') END, false),
	set_config('lock_timeout', CASE current_setting('lock_timeout') WHEN '0' THEN '15s' ELSE current_setting('lock_timeout') END, false),
	set_config('idle_in_transaction_session_timeout', CASE current_setting('idle_in_transaction_session_timeout') WHEN '0' THEN '120s' ELSE current_setting('idle_in_transaction_session_timeout') END, false),
	set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false),
	set_config('enable_seqscan', 'off', false),
	set_config('enable_bitmapscan', 'off', false),
	set_config('jit', 'off', false),
	(SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())`

// sessionKey is where a connection keeps its session's identity.
const sessionKey = "session"

// identity is how a session is known to others: where it runs, and by what it notes that
// it has committed.
type identity struct {
	id      string
	n       int64 // of its last commit
	pid     uint32
	started time.Time
}

func prepareConn(ctx context.Context, conn *pgx.Conn) error {
	who := &identity{id: rand.Text(), pid: conn.PgConn().PID()}
	var ignored string
	err := conn.QueryRow(ctx, prepareSession, pgx.QueryExecModeExec).
		Scan(&ignored, &ignored, &ignored, &ignored, &ignored, &ignored, &ignored, &who.started)
	conn.PgConn().CustomData()[sessionKey] = who
	return err
}
