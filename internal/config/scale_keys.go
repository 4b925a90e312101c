package config

import (
	"regexp"
	"time"

	"github.com/berth-registry/berth/internal/settings"
)

// S3 configures where blobs are, if not in the directory of all data.
type S3 struct {
	Endpoint, Bucket, Prefix, Region    string
	AccessKey, SecretKey, SecretKeyFile string
	PathStyle                           bool
	CA                                  string // file
	Encryption                          string // none, AES256 or aws:kms
	KMSKey                              string
	Redirect                            bool
	RedirectEndpoint                    string
	RedirectExpiry                      time.Duration
}

// Postgres configures where the metadata is, if not in the directory of all data.
type Postgres struct {
	DSN, DSNFile string
	Schema       string
	MaxConns     int
}

// On says that blobs are kept in S3.
func (s S3) On() bool { return s.Bucket != "" }

// On says that the metadata is kept in PostgreSQL.
func (p Postgres) On() bool { return p.DSN != "" || p.DSNFile != "" }

var (
	bucketName = regexp.MustCompile(`^$|^[a-zA-Z0-9][a-zA-Z0-9._-]{1,254}$`)
	keyPrefix  = regexp.MustCompile(`^$|^[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*/?$`)
	schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)
)

// scaleKeys are about the stores of a registry that is more than one machine.
var scaleKeys = []settings.Key[Config]{
	{
		Path: "storage.s3.bucket",
		Doc:  "The bucket of an S3 server that blobs are kept in, instead of in storage.data.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.Storage.S3.Bucket, "the name of a bucket", bucketName)
		},
	}, {
		Path: "storage.s3.endpoint",
		Doc:  "The server, https://s3.example.com; \"\" is Amazon's of the region.",
		Value: func(c *Config) *settings.Value {
			return settings.Hidden(settings.Match(&c.Storage.S3.Endpoint, wantURL+`, or ""`, baseURL))
		},
	}, {
		Path: "storage.s3.prefix",
		Doc:  "What the keys of all objects begin with.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.Storage.S3.Prefix, "the beginning of a key such as berth/", keyPrefix)
		},
	}, {
		Path:  "storage.s3.region",
		Doc:   "The bucket's region; \"\" to ask the server.",
		Value: func(c *Config) *settings.Value { return line(&c.Storage.S3.Region, "a region such as eu-central-1") },
	}, {
		Path:  "storage.s3.access_key",
		Doc:   "The access key. Without one: that of AWS_ACCESS_KEY_ID, of ~/.aws/credentials, or\nof the role of the machine, task or service account.",
		Value: func(c *Config) *settings.Value { return line(&c.Storage.S3.AccessKey, "an access key") },
	}, {
		Path:  "storage.s3.secret_key",
		Doc:   "The secret of storage.s3.access_key.",
		Value: func(c *Config) *settings.Value { return settings.Secret(&c.Storage.S3.SecretKey) },
	}, {
		Path:  "storage.s3.secret_key_file",
		Doc:   "A file with the secret instead.",
		Value: func(c *Config) *settings.Value { return file(&c.Storage.S3.SecretKeyFile) },
	}, {
		Path:  "storage.s3.path_style",
		Doc:   "Whether the bucket is part of the path, as many servers want it, and not of the\nhost's name.",
		Value: func(c *Config) *settings.Value { return settings.Boolean(&c.Storage.S3.PathStyle) },
	}, {
		Path:  "storage.s3.ca",
		Doc:   "Authorities of the server's certificate, where the system does not know them: a PEM file.",
		Value: func(c *Config) *settings.Value { return file(&c.Storage.S3.CA) },
	}, {
		Path:  "storage.s3.encryption",
		Doc:   "How the server is asked to encrypt: none (as the bucket says), AES256 or aws:kms.",
		Value: func(c *Config) *settings.Value { return choice(&c.Storage.S3.Encryption, "none", "AES256", "aws:kms") },
	}, {
		Path:  "storage.s3.kms_key",
		Doc:   "The key of aws:kms; \"\" is the account's own.",
		Value: func(c *Config) *settings.Value { return line(&c.Storage.S3.KMSKey, "the id of a key") },
	}, {
		Path:  "storage.s3.redirect",
		Doc:   "Whether clients get blobs from the server itself, by a URL that is good for a\nwhile. One that cannot reach it can ask with the header \"Berth-Redirect: no\".",
		Value: func(c *Config) *settings.Value { return settings.Boolean(&c.Storage.S3.Redirect) },
	}, {
		Path: "storage.s3.redirect_endpoint",
		Doc:  "The server as clients reach it, if that is another URL than storage.s3.endpoint.",
		Value: func(c *Config) *settings.Value {
			return settings.Hidden(settings.Match(&c.Storage.S3.RedirectEndpoint, wantURL+`, or ""`, baseURL))
		},
	}, {
		Path: "storage.s3.redirect_expiry",
		Doc:  "How long such a URL is good, up to 168h.",
		Value: func(c *Config) *settings.Value {
			return settings.DurationBetween(&c.Storage.S3.RedirectExpiry, time.Second, 168*time.Hour)
		},
	}, {
		Path:  "storage.postgres.dsn",
		Doc:   "The PostgreSQL database that metadata are kept in, instead of in storage.data: a\nURL postgres://… or host=… user=… password=… dbname=…. With it and storage.s3\nany number of berth serve can share them.",
		Value: func(c *Config) *settings.Value { return settings.Secret(&c.Storage.Postgres.DSN) },
	}, {
		Path:  "storage.postgres.dsn_file",
		Doc:   "A file with it instead.",
		Value: func(c *Config) *settings.Value { return file(&c.Storage.Postgres.DSNFile) },
	}, {
		Path: "storage.postgres.schema",
		Doc:  "The schema of the tables, which is made if need be.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.Storage.Postgres.Schema, "a name of lower-case letters, digits and _", schemaName)
		},
	}, {
		Path:  "storage.postgres.max_conns",
		Doc:   "How many connections to it are open at most.",
		Value: func(c *Config) *settings.Value { return settings.Count(&c.Storage.Postgres.MaxConns, 2) },
	},
}

// scaleConflicts checks what concerns several keys of the stores.
func scaleConflicts(c Config) []settings.Conflict {
	f := &conflictsFound{}
	s, p := c.Storage.S3, c.Storage.Postgres
	f.when(!s.On() && (s.Endpoint != "" || s.AccessKey != ""), "expected storage.s3.bucket with it", "storage.s3.bucket")
	f.when(s.SecretKey != "" && s.SecretKeyFile != "", "expected one of storage.s3.secret_key and storage.s3.secret_key_file", "storage.s3.secret_key", "storage.s3.secret_key_file")
	f.when((s.AccessKey == "") != (s.SecretKey == "" && s.SecretKeyFile == ""), "expected both storage.s3.access_key and its secret, or neither", "storage.s3.access_key")
	f.when(s.KMSKey != "" && s.Encryption != "aws:kms", "expected aws:kms for storage.s3.encryption with it", "storage.s3.kms_key")
	f.when(p.DSN != "" && p.DSNFile != "", "expected one of storage.postgres.dsn and storage.postgres.dsn_file", "storage.postgres.dsn", "storage.postgres.dsn_file")
	return f.all
}
