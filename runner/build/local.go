package build

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/moby/api/types/registry"
	"github.com/tonistiigi/fsutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-registry/berth/runner"
)

// Bounds of a context that comes as an archive.
const (
	maxEntries = 2_000_000
	maxDepth   = 255
)

// local serves a build with what came with its request: a context and
// credentials. It is nil if nothing did.
type local struct {
	s     *session.Session
	dir   string // of the context; empty if it has none
	whole bool   // the client has no session of its own
}

// openLocal unpacks the context of a request, and serves it in a session.
func (b *Builder) openLocal(ctx context.Context, req runner.BuildRequest) (_ *local, err error) {
	if req.Context == nil && (len(req.Auth) == 0 || req.Session != "") {
		return nil, nil //nolint:nilnil // as said
	}
	l := &local{whole: req.Session == ""}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	var attach []session.Attachable
	contents := sha256.New()
	if req.Context != nil {
		if l.dir, err = os.MkdirTemp(filepath.Join(b.opts.Root, "contexts"), ""); err != nil {
			return nil, err
		}
		if err := unpack(ctx, l.dir, req.Context, contents); err != nil {
			return nil, err
		}
		files, err := fsutil.NewFS(l.dir)
		if err != nil {
			return nil, err
		}
		attach = append(attach, filesync.NewFSSyncProvider(filesync.StaticDirSource{"context": files, "dockerfile": files}))
	}
	// Under one key BuildKit takes over only files whose size or time is another, and
	// an archive has times in seconds: what was written twice in one would be taken
	// for unchanged. So the key is of the contents.
	if l.s, err = session.NewSession(ctx, hex.EncodeToString(contents.Sum(nil))); err != nil {
		return nil, err
	}
	for _, a := range append(attach, credentials{all: req.Auth}) {
		l.s.Allow(a)
	}
	go func() {
		_ = l.s.Run(ctx, func(ctx context.Context, _ string, meta map[string][]string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() { _ = b.sessions.HandleConn(ctx, theirs, meta) }() // it ends with the session
			return ours, nil
		})
	}()
	return l, nil
}

// serve has a build use the session.
func (l *local) serve(solve *controlapi.SolveRequest) {
	if l == nil {
		return
	}
	if l.whole {
		solve.Session = l.s.ID()
		return
	}
	for _, name := range []string{"context", "dockerfile"} {
		solve.FrontendAttrs["local-sessionid:"+name] = l.s.ID()
	}
}

func (l *local) close() {
	if l == nil {
		return
	}
	if l.s != nil {
		_ = l.s.Close() // nobody is told of it
	}
	if l.dir != "" {
		_ = os.RemoveAll(l.dir) // or else the next start does
	}
}

// credentials answers BuildKit with those that came with a request.
type credentials struct {
	auth.UnimplementedAuthServer
	all map[string]registry.AuthConfig
}

// Register implements session.Attachable.
func (c credentials) Register(s *grpc.Server) { auth.RegisterAuthServer(s, c) }

// Credentials implements auth.AuthServer.
func (c credentials) Credentials(_ context.Context, req *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	host := req.Host
	if host == "registry-1.docker.io" {
		host = "https://index.docker.io/v1/"
	}
	a, ok := c.all[host]
	if !ok {
		a = c.all["https://"+host]
	}
	if a.IdentityToken != "" {
		return &auth.CredentialsResponse{Secret: a.IdentityToken}, nil
	}
	return &auth.CredentialsResponse{Username: a.Username, Secret: a.Password}, nil
}

// GetTokenAuthority implements auth.AuthServer.
func (credentials) GetTokenAuthority(context.Context, *auth.GetTokenAuthorityRequest) (*auth.GetTokenAuthorityResponse, error) {
	return nil, status.Error(codes.Unavailable, "credentials are sent")
}

// unpack makes the files of a context in a new directory, all of them root's as
// docker has it. What the archive says cannot reach outside of it. What it has is
// written to contents, too.
func unpack(ctx context.Context, dir string, r io.Reader, contents io.Writer) error {
	plain, err := compression.DecompressStream(r)
	if err != nil {
		return runner.Errorf(runner.ErrInvalid, "the build context cannot be read: %w", err)
	}
	defer plain.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u := &unpacker{root: root, tr: tar.NewReader(io.TeeReader(plain, contents))}
	for n := 0; ; n++ {
		hdr, err := u.tr.Next()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF):
			// A server watches for the client's leaving only when all that it has
			// sent was read.
			if _, err := io.Copy(io.Discard, r); err != nil {
				return runner.Errorf(runner.ErrInvalid, "the build context cannot be read: %w", err)
			}
			return u.finish()
		case err != nil:
			return runner.Errorf(runner.ErrInvalid, "the build context is no tar archive: %w", err)
		case n >= maxEntries:
			return runner.Errorf(runner.ErrInvalid, "the build context has more than %d entries", maxEntries)
		}
		if err := u.entry(hdr); err != nil {
			return runner.Errorf(runner.ErrInvalid, "the build context: %s: %w", shorten(hdr.Name), err)
		}
	}
}

type unpacker struct {
	root *os.Root
	tr   *tar.Reader
	dirs []*tar.Header
}

// entry makes one file.
func (u *unpacker) entry(hdr *tar.Header) error {
	name := path.Clean(strings.TrimLeft(hdr.Name, "/"))
	if name == "." || hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if !filepath.IsLocal(name) || strings.Count(name, "/") > maxDepth {
		return errors.New("it is not within the context")
	}
	mode := fs.FileMode(hdr.Mode) & fs.ModePerm
	if err := u.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	if hdr.Typeflag != tar.TypeDir {
		if err := u.root.RemoveAll(name); err != nil {
			return err
		}
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		u.dirs = append(u.dirs, &tar.Header{Name: name, Mode: hdr.Mode, ModTime: hdr.ModTime})
		return u.root.MkdirAll(name, 0o755)
	case tar.TypeReg:
		if err := u.file(name); err != nil {
			return err
		}
	case tar.TypeLink:
		return u.root.Link(path.Clean(strings.TrimLeft(hdr.Linkname, "/")), name)
	case tar.TypeSymlink:
		return u.root.Symlink(hdr.Linkname, name)
	default:
		return nil // devices and pipes are no sources
	}
	if err := u.root.Chmod(name, mode|specialBits(hdr.Mode)); err != nil {
		return err
	}
	return u.root.Chtimes(name, hdr.ModTime, hdr.ModTime)
}

func (u *unpacker) file(name string) error {
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, u.tr)
	return errors.Join(err, f.Close())
}

// finish gives directories their modes and times, which making files in them
// would have needed or changed.
func (u *unpacker) finish() error {
	for _, d := range slices.Backward(u.dirs) {
		info, err := u.root.Lstat(d.Name)
		if err != nil || !info.IsDir() {
			continue // a later entry replaced it
		}
		if err := u.root.Chmod(d.Name, fs.FileMode(d.Mode)&fs.ModePerm|specialBits(d.Mode)); err != nil {
			return fmt.Errorf("the build context: %w", err)
		}
		if err := u.root.Chtimes(d.Name, d.ModTime, d.ModTime); err != nil {
			return fmt.Errorf("the build context: %w", err)
		}
	}
	return nil
}

// specialBits are the setuid, setgid and sticky bits.
func specialBits(mode int64) (m fs.FileMode) {
	for bit, flag := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= flag
		}
	}
	return m
}

func shorten(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}
