package main

import (
	"log/slog"
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
