package berthtest

import (
	"slices"
	"strings"
	"testing"

	"github.com/berth-registry/berth/storage/postgres/postgrestest"
)

// Stores are where replicas keep what they share: a bucket and a database.
type Stores struct {
	S3       *S3
	Postgres *postgrestest.Server
}

// StartStores starts an S3 server and a PostgreSQL server, which end with the test.
func StartStores(tb testing.TB) *Stores {
	tb.Helper()
	return &Stores{S3: StartS3(tb), Postgres: postgrestest.New(tb, postgrestest.Options{})}
}

// Env is the configuration of a berth that keeps its blobs in the bucket, and its
// metadata in the database.
func (s *Stores) Env() []string {
	return slices.Concat(s.S3.Env(), []string{"BERTH_STORAGE_POSTGRES_DSN=" + s.Postgres.DSN()})
}

// Env is the configuration of a berth that keeps its blobs in the bucket.
func (s *S3) Env() []string {
	return []string{
		"BERTH_STORAGE_S3_ENDPOINT=" + s.Endpoint,
		"BERTH_STORAGE_S3_BUCKET=" + s.Bucket,
		"BERTH_STORAGE_S3_REGION=" + s.Region,
		"BERTH_STORAGE_S3_ACCESS_KEY=" + s.AccessKey,
		"BERTH_STORAGE_S3_SECRET_KEY=" + s.SecretKey,
		"BERTH_STORAGE_S3_PATH_STYLE=true",
	}
}

// Replicas are servers that share their stores, behind a proxy that gives each request
// to the next of them that runs.
type Replicas struct {
	*Stores
	Addr    string // HOST:PORT of the proxy
	URL     string // http://HOST:PORT
	Servers []*Server

	tb    testing.TB
	proxy *roundRobin
}

// StartReplicas starts n servers with data directories of their own, and all that is
// between them. o is for each of them: it has neither Data, nor Addr, nor CA.
func StartReplicas(tb testing.TB, n int, o Options) *Replicas {
	tb.Helper()
	return StartReplicasOn(tb, StartStores(tb), n, o)
}

// StartReplicasOn is StartReplicas for stores that are there.
func StartReplicasOn(tb testing.TB, stores *Stores, n int, o Options) *Replicas {
	tb.Helper()
	r := &Replicas{Stores: stores, tb: tb}
	r.proxy = startRoundRobin(tb)
	r.Addr, r.URL = r.proxy.addr, "http://"+r.proxy.addr
	o.Env = slices.Concat(stores.Env(), o.Env)
	for range n {
		r.Add(o)
	}
	return r
}

// Add starts one more server.
func (r *Replicas) Add(o Options) *Server {
	r.tb.Helper()
	s := Start(r.tb, o)
	r.Servers = append(r.Servers, s)
	r.proxy.add(s.Addr)
	return s
}

// Port is the port of Addr.
func (r *Replicas) Port() string {
	_, port, _ := strings.Cut(r.Addr, ":")
	return port
}

// Kill kills a server, which gets no requests any more.
func (r *Replicas) Kill(i int) {
	r.tb.Helper()
	r.proxy.set(i, false)
	r.Servers[i].Kill()
}

// Stop has a server end as SIGTERM does. It gets no new requests any more.
func (r *Replicas) Stop(i int) {
	r.tb.Helper()
	r.proxy.set(i, false)
	r.Servers[i].Stop()
}

// Restart starts a server again, which then gets requests again.
func (r *Replicas) Restart(i int) {
	r.tb.Helper()
	r.Servers[i].Restart()
	r.proxy.set(i, true)
}

// Served returns how many requests each server was given.
func (r *Replicas) Served() (requests []int64) { return r.proxy.served() }

// Next has the proxy give the next request to a server.
func (r *Replicas) Next(i int) { r.proxy.turn.Store(int64(i)) }
