package berthtest

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/berth-registry/berth/internal/freeaddr"
)

// S3 is an S3 server of its own with one bucket.
type S3 struct {
	Addr      string // HOST:PORT
	Endpoint  string
	Bucket    string
	Region    string
	AccessKey string
	SecretKey string
	Dir       string // of the bucket: an object is the file of its key

	tb   testing.TB
	args []string
	end  func(os.Signal) int
}

// StartS3 starts an S3 server with further arguments of versitygw's. It ends with the
// test.
func StartS3(tb testing.TB, args ...string) *S3 {
	tb.Helper()
	root := tb.TempDir()
	s := &S3{
		Addr: freeaddr.For(tb), Bucket: "bucket", Region: "us-east-1", AccessKey: "testkey", SecretKey: "test-secret",
		Dir: filepath.Join(root, "bucket"), tb: tb,
	}
	s.Endpoint = "http://" + s.Addr
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	s.args = append(append([]string{"--quiet", "--keep-alive", "--port", s.Addr}, args...), "posix", root)
	s.Start()
	return s
}

// Start starts the server again, which was killed.
func (s *S3) Start() {
	s.tb.Helper()
	command := NewCommand(s.tb, "versitygw").Env("ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
	s.end = command.Service(func(string) error {
		conn, err := net.Dial("tcp", s.Addr)
		return errors.Join(err, closeConn(conn))
	}, s.args...)
}

// Kill kills the server.
func (s *S3) Kill() { s.end(syscall.SIGKILL) }

func closeConn(c net.Conn) error {
	if c == nil {
		return nil
	}
	return c.Close()
}

// Left returns the keys of all objects in the bucket, and those of the multipart uploads
// that were neither completed nor aborted.
func (s *S3) Left() (objects, multiparts []string) {
	s.tb.Helper()
	client, err := minio.New(s.Addr, &minio.Options{
		Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Region: s.Region, BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		s.tb.Fatal(err)
	}
	for o := range client.ListObjects(s.tb.Context(), s.Bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			s.tb.Fatalf("list the objects in S3: %v", o.Err)
		}
		objects = append(objects, o.Key)
	}
	for o := range client.ListIncompleteUploads(s.tb.Context(), s.Bucket, "", true) {
		if o.Err != nil {
			s.tb.Fatalf("list the multipart uploads in S3: %v", o.Err)
		}
		multiparts = append(multiparts, o.Key)
	}
	return objects, multiparts
}
