package main

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-registry/berth/internal/config"
)

// TestPlaces checks that a log says where a server has its data, and no secret of it.
func TestPlaces(t *testing.T) {
	const hush = "hush-hush"
	login := config.Login{Username: hush, Password: hush, Provider: "none"}
	shared := config.Storage{Data: "data"}
	shared.S3 = config.S3{Endpoint: "https://s3.example.com", Bucket: "images", Prefix: "a/b", AccessKey: hush, SecretKey: hush}
	shared.Postgres = config.Postgres{DSN: "postgres://hush-hush:hush-hush@db1.example.com:5433,db2.example.com/registry?sslmode=prefer", Schema: "berth"}
	for name, tt := range map[string]struct {
		config config.Config
		want   []string
	}{
		"a directory": {config.Config{Storage: config.Storage{Data: "data"}}, []string{"blobs=data/blobs", "metadata=data/meta.db"}},
		"S3 and PostgreSQL": {
			config.Config{Storage: shared},
			[]string{
				`blobs="S3 at https://s3.example.com, bucket images/a/b"`,
				`metadata="PostgreSQL at db1.example.com:5433, db2.example.com:5432, database registry, schema berth"`,
			},
		},
		"other registries": {
			config.Config{
				Mirrors:     []config.Mirror{{Name: "hub", Upstream: "https://registry-1.docker.io", Login: login}},
				Replication: []config.Replication{{Name: "paris", URL: "https://paris.example.com", Login: config.Login{Token: hush}}},
			},
			[]string{
				"msg=mirror name=hub upstream=https://registry-1.docker.io prefix=hub login=password",
				"msg=replication name=paris url=https://paris.example.com login=token",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			logPlaces(t.Context(), tt.config, slog.New(slog.NewTextHandler(&b, nil)))
			for _, want := range tt.want {
				if !strings.Contains(b.String(), want) {
					t.Errorf("no %s in:\n%s", want, &b)
				}
			}
			if strings.Contains(b.String(), hush) {
				t.Errorf("it tells a secret:\n%s", &b)
			}
		})
	}
}

// TestCheckPlaces checks that what a server would refuse at its start is told before, and
// that nothing of a password is.
func TestCheckPlaces(t *testing.T) {
	const hush = "hush-hush"
	for name, tt := range map[string]struct{ config, want string }{
		"a DSN":                 {`storage: {postgres: {dsn: "postgres://u:hush-hush@host:notaport/x"}}`, "storage.postgres.dsn: the DSN"},
		"a range of versions":   {`{mirrors: [{name: a, upstream: "https://a.example"}], sync: [{name: s, mirror: a, repos: [x], semver: "=>>1", every: 1h}]}`, "sync: s: "},
		"a schedule":            {`{mirrors: [{name: a, upstream: "https://a.example"}], sync: [{name: s, mirror: a, repos: [x], tags: ["*"], cron: "x y"}]}`, "sync: s: "},
		"a password in a URL":   {`mirrors: [{name: b, upstream: "https://u:hush-hush@b.example"}]`, "mirrors[1].upstream: expected a URL"},
		"a password in another": {`replication: [{name: b, url: "https://u:hush-hush@b.example", repos: [a]}]`, "replication[1].url: expected a URL"},
		"a secret in S3's URL":  {`storage: {s3: {bucket: images, endpoint: "https://u:hush-hush@b.example"}}`, "storage.s3.endpoint: expected a URL"},
		"a proxy's password":    {`mirrors: [{name: a, upstream: "https://a.example", proxy: "ftp://u:hush-hush@x"}]`, "mirrors[1].proxy: expected a URL"},
		"two for one prefix":    {`mirrors: [{name: a, upstream: "https://a.example", prefix: x}, {name: b, upstream: "https://b.example", prefix: x}]`, "found x for a and b: set prefix"},
		"two for one upstream":  {`mirrors: [{name: a, upstream: "https://a.example"}, {name: b, upstream: "https://a.example"}]`, "found a.example for a and b: set namespaces"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "berth.yaml")
			if err := os.WriteFile(path, []byte(tt.config), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := newRootCmd()
			cmd.SetArgs([]string{"config", "check", path})
			cmd.SetOut(io.Discard)
			cmd.SetErr(io.Discard)
			err := cmd.ExecuteContext(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), hush) {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
}
