package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/backup"
	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/freeaddr"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/fs"
)

// store is a registry over the real drivers.
type store struct {
	*registry.Local
	t     testing.TB
	dir   string
	blobs *fs.Blobs
	meta  *bolt.Meta
}

func openStore(t testing.TB, dir string) *store {
	t.Helper()
	s := &store{t: t, dir: dir}
	var err error
	if s.blobs, err = fs.Open(dir, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.blobs.Close() })
	if s.meta, err = bolt.Open(filepath.Join(dir, "meta.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.meta.Close() })
	return s
}

// start makes a registry of the store.
func (s *store) start() *store {
	s.t.Helper()
	var err error
	if s.Local, err = registry.NewLocal(s.t.Context(), s.blobs, s.meta, registry.Options{}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.Close)
	s.SetKeeping(registry.Keeping{}) // what is garbage goes at once
	return s
}

func (s *store) source() backup.Source {
	return backup.Source{Meta: s.meta, Blobs: s.blobs, Hold: s.HoldCollection}
}

func (s *store) backup(to backup.Target, o backup.Options) backup.Result {
	s.t.Helper()
	o.Temp = s.t.TempDir()
	res, err := backup.Backup(s.t.Context(), s.source(), to, o)
	if err != nil {
		s.t.Fatal(err)
	}
	return res
}

// push pushes an image with layers of these texts.
func (s *store) push(ctx context.Context, repo, tag string, layers ...string) (digest.Digest, error) {
	blob := func(text string) (string, error) {
		d := digest.FromString(text)
		_, err := s.PushBlob(ctx, repo, d, strings.NewReader(text))
		return fmt.Sprintf(`{"mediaType":"application/octet-stream","digest":%q,"size":%d}`, d, len(text)), err
	}
	config, err := blob(digest.FromString(repo + tag + strings.Join(layers, ",")).Encoded())
	if err != nil {
		return "", err
	}
	var list []string
	for _, text := range layers {
		layer, err := blob(text)
		if err != nil {
			return "", err
		}
		list = append(list, layer)
	}
	data := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}`, config, strings.Join(list, ","))
	d := digest.FromBytes(data)
	_, err = s.PushManifest(ctx, repo, registry.ManifestPush{Data: data, Digest: d, Tags: []string{tag}})
	return d, err
}

func (s *store) mustPush(repo, tag string, layers ...string) digest.Digest {
	s.t.Helper()
	d, err := s.push(s.t.Context(), repo, tag, layers...)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

// put writes a row as another part of the registry would.
func put[V any](s *store, table storage.Table[V], key string, v V) {
	s.t.Helper()
	if err := s.meta.Update(s.t.Context(), func(tx storage.Tx) error { return table.Put(tx, storage.Key(key), v) }); err != nil {
		s.t.Fatal(err)
	}
}

// rows are all rows, but for those that a restore writes anew.
func (s *store) rows() map[string]string {
	s.t.Helper()
	all := map[string]string{}
	err := s.meta.View(s.t.Context(), func(tx storage.Tx) error {
		for _, table := range storage.Tables() {
			for r, err := range tx.Scan(table, nil, nil) {
				if err != nil {
					return err
				}
				all[table+"/"+string(r.Key)] = string(r.Value)
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	maps.DeleteFunc(all, func(key, _ string) bool {
		return strings.HasPrefix(key, "uploads/") || key == "counters/uploads" || key == "settings/noted-repositories"
	})
	return all
}

// verify reads all bytes that the metadata promises, and lists those that are not what
// they should be; and those that nobody can reach although a manifest needs them.
func (s *store) verify() (bad []string) {
	s.t.Helper()
	ctx := s.t.Context()
	var all []digest.Digest
	err := s.meta.View(ctx, func(tx storage.Tx) error {
		for e, err := range storage.Stored.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			if d, _, err := storage.CutDigest(e.Key); err != nil {
				return err
			} else if !e.Value.Deleting {
				all = append(all, d)
			}
		}
		for e, err := range storage.Manifests.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			repo, _, _ := bytes.Cut(e.Key, []byte{0})
			for refs := e.Value.Refs; len(refs) > 0; {
				d, rest, err := storage.CutDigest(refs)
				if err != nil {
					return err
				}
				refs = rest
				if ok, err := storage.Links.Has(tx, storage.Key(string(repo), storage.DigestPart(d))); err != nil || !ok {
					bad = append(bad, fmt.Sprintf("%s needs %s: %v", repo, d, err))
				}
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, d := range all {
		f, err := s.blobs.Open(ctx, d)
		if err != nil {
			bad = append(bad, fmt.Sprint(d, ": ", err))
			continue
		}
		v := d.Verifier()
		if _, err := io.Copy(v, f); err != nil || !v.Verified() {
			bad = append(bad, fmt.Sprint(d, ": damaged: ", err))
		}
		_ = f.Close()
	}
	return bad
}

// restored is a store that a snapshot was restored into.
func restored(t *testing.T, from backup.Target, o backup.RestoreOptions) (*store, backup.Result) {
	t.Helper()
	s := openStore(t, t.TempDir())
	o.Temp = s.dir
	res, err := backup.Restore(t.Context(), from, s.blobs, s.meta, o)
	if err != nil {
		t.Fatal(err)
	}
	return s, res
}

// same fails unless two sets of rows are.
func same(t *testing.T, got, want map[string]string) {
	t.Helper()
	for key, v := range want {
		if w, ok := got[key]; !ok || v != w {
			t.Errorf("row %q is %x, want %x", key, w, v)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[key]; !ok {
			t.Errorf("row %q is there", key)
		}
	}
}

func dirTarget(t testing.TB) (*backup.Dir, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "backup")
	d, err := backup.CreateDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d, dir
}

// s3Server runs an S3 server, and returns its endpoint and the directory of its one
// bucket.
func s3Server(t testing.TB) (c backup.S3Config, bucket string) {
	t.Helper()
	dir := t.TempDir()
	bucket = filepath.Join(dir, "bucket")
	if err := os.Mkdir(bucket, 0o700); err != nil {
		t.Fatal(err)
	}
	addr := freeaddr.For(t)
	berthtest.NewCommand(t, "versitygw").Env("ROOT_ACCESS_KEY=testkey", "ROOT_SECRET_KEY=testsecret").Daemon(func() error {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		return err
	}, "--port", addr, "posix", dir)
	return backup.S3Config{Endpoint: "http://" + addr, Region: "us-east-1", AccessKey: "testkey", SecretKey: "testsecret"}, bucket
}

func s3Target(t testing.TB) (*backup.S3, string) {
	t.Helper()
	c, bucket := s3Server(t)
	s, err := backup.OpenS3(t.Context(), "s3://bucket/some/prefix", c)
	if err != nil {
		t.Fatal(err)
	}
	return s, filepath.Join(bucket, "some", "prefix")
}

// targets runs a test with each kind of target; dir is where its files are.
func targets(t *testing.T, run func(t *testing.T, to backup.Target, dir string)) {
	t.Helper()
	t.Run("dir", func(t *testing.T) { to, dir := dirTarget(t); run(t, to, dir) })
	t.Run("s3", func(t *testing.T) { to, dir := s3Target(t); run(t, to, dir) })
}

// pathOf is where a target keeps a blob.
func pathOf(dir string, d digest.Digest) string {
	return filepath.Join(dir, "blobs", string(d.Algorithm()), d.Encoded()[:2], d.Encoded())
}

// spoil changes a byte of a file.
func spoil(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.Write(data)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// filler is bytes that nobody can compress.
func filler(seed string, size int) string {
	var b strings.Builder
	for sum := sha256.Sum256([]byte(seed)); b.Len() < size; sum = sha256.Sum256(sum[:]) {
		b.Write(sum[:])
	}
	return b.String()[:size]
}

func isNoSpace(err error) bool {
	return errors.Is(err, storage.ErrNoSpace) && errors.Is(err, syscall.ENOSPC)
}

func openBlobs(t *testing.T, dir string) *fs.Blobs {
	t.Helper()
	blobs, err := fs.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	return blobs
}
