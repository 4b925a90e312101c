package registrytest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

var blobTests = []test{
	{"Push", func(f *fixture) {
		for _, n := range []int{0, 1, 100, 1<<20 + 7} {
			data := noise(n, uint64(n))
			f.hasBlob(repo, f.blob(repo, data).Digest, data)
		}
	}},
	{"PushOfUnknownLength", func(f *fixture) {
		for _, n := range []int{0, 1, 1<<20 + 7} {
			data := noise(n, uint64(n))
			d := digest.FromBytes(data)
			desc, err := f.PushBlob(f.Context(), repo, d, opaque{bytes.NewReader(data)})
			f.ok("push blob", err)
			if desc.Digest != d || desc.Size != int64(n) {
				f.Errorf("push blob: got %s of %d bytes, want %s of %d", desc.Digest, desc.Size, d, n)
			}
			f.hasBlob(repo, d, data)
		}
	}},
	{"SHA512", func(f *fixture) {
		data := noise(1000, 1)
		desc := f.blobAs(repo, digest.SHA512, data)
		f.hasBlob(repo, desc.Digest, data)
		f.noBlob(repo, digest.FromBytes(data)) // known by the digest that it was pushed by
	}},
	{"PushTwice", func(f *fixture) {
		data := noise(1000, 1)
		f.blob(repo, data)
		f.hasBlob(repo, f.blob(repo, data).Digest, data)
	}},
	{"WrongDigest", func(f *fixture) {
		data, want := noise(1000, 1), digest.FromString("something else")
		for _, r := range []io.Reader{bytes.NewReader(data), opaque{bytes.NewReader(data)}} {
			_, err := f.PushBlob(f.Context(), repo, want, r)
			f.is("push other bytes", err, registry.ErrDigestInvalid)
		}
		f.noBlob(repo, want)
		f.noBlob(repo, digest.FromBytes(data))
		_, err := f.PushBlob(f.Context(), repo, digest.FromBytes(data), bytes.NewReader(data[:500]))
		f.is("push half the bytes", err, registry.ErrDigestInvalid)
		f.noBlob(repo, digest.FromBytes(data))
	}},
	{"FailingReader", func(f *fixture) {
		data, failed := noise(100_000, 1), errors.New("the source broke")
		d := digest.FromBytes(data)
		_, err := f.PushBlob(f.Context(), repo, d, io.MultiReader(bytes.NewReader(data), &failing{failed}))
		if !errors.Is(err, failed) {
			f.Errorf("push from a reader that fails: error %v, want the reader's", err)
		}
		f.noBlob(repo, d)
	}},
	{"Unknown", func(f *fixture) {
		f.noBlob(repo, digest.FromString("nobody pushed this")) // nor the repository
		f.blob(repo, noise(10, 1))
		f.noBlob(repo, digest.FromString("nobody pushed this"))
	}},
	{"ScopedByRepository", func(f *fixture) {
		data := noise(1000, 1)
		d := f.blob(repo, data).Digest
		f.noBlob(other, d)
		f.noBlob(strings.TrimSuffix(repo, "p"), d)
		f.noBlob(repo+"/sub", d)
		m := f.image(repo, 2)
		f.push(repo, m, "latest")
		f.noManifest(other, digestRef(m.desc.Digest))
		f.noManifest(other, tagRef("latest"))
		f.is("delete blob of another repository", f.DeleteBlob(f.Context(), other, d), registry.ErrBlobUnknown)
		f.is("delete manifest of another repository", f.DeleteManifest(f.Context(), other, m.desc.Digest), registry.ErrManifestUnknown)
		f.hasBlob(repo, d, data)
		f.blob(other, data) // to push it is to prove that one has it
		f.hasBlob(other, d, data)
	}},
	{"Seek", testSeek},
	{"CloseEarly", func(f *fixture) {
		data := noise(1<<20, 1)
		d := f.blob(repo, data).Digest
		for range 20 {
			r, _, err := f.Blob(f.Context(), repo, d)
			f.ok("open blob", err)
			_, err = io.ReadFull(r, make([]byte, 10))
			f.ok("read blob", err)
			f.ok("close blob", r.Close())
		}
		f.hasBlob(repo, d, data)
	}},
	{"Canceled", func(f *fixture) {
		ctx, cancel := context.WithCancel(f.Context())
		data := noise(1000, 1)
		d := digest.FromBytes(data)
		_, err := f.PushBlob(ctx, repo, d, io.MultiReader(bytes.NewReader(data[:500]), hook(func() error {
			cancel()
			return ctx.Err()
		})))
		if err == nil {
			f.Error("push that was canceled: no error")
		}
		f.noBlob(repo, d)
	}},
	{"Delete", func(f *fixture) {
		data := noise(1000, 1)
		d := f.blob(repo, data).Digest
		f.blob(other, data)
		f.ok("delete blob", f.DeleteBlob(f.Context(), repo, d))
		f.noBlob(repo, d)
		f.is("delete blob again", f.DeleteBlob(f.Context(), repo, d), registry.ErrBlobUnknown)
		f.hasBlob(other, d, data)
		f.blob(repo, data)
		f.hasBlob(repo, d, data)
	}},
}

func testSeek(f *fixture) {
	data := noise(300_000, 1)
	r, _, err := f.Blob(f.Context(), repo, f.blob(repo, data).Digest)
	f.ok("open blob", err)
	defer r.Close()
	size := int64(len(data))
	for _, s := range []struct {
		off    int64
		whence int
		read   int
	}{
		{100_000, io.SeekStart, 10},
		{0, io.SeekCurrent, 10},
		{-20, io.SeekCurrent, 20},
		{0, io.SeekStart, 5},
		{-7, io.SeekEnd, 7},
		{0, io.SeekEnd, 0},
		{size + 5, io.SeekStart, 0},
		{0, io.SeekStart, len(data)},
	} {
		pos, err := r.Seek(s.off, s.whence)
		f.ok("seek", err)
		if s.read == 0 {
			if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
				f.Errorf("read at %d of %d: got %d bytes and error %v, want EOF", pos, size, n, err)
			}
			continue
		}
		got := make([]byte, s.read)
		if _, err := io.ReadFull(r, got); err != nil {
			f.Fatalf("read %d bytes at %d: %v", s.read, pos, err)
		}
		if !bytes.Equal(got, data[pos:][:s.read]) {
			f.Errorf("read %d bytes at %d: got other bytes than were pushed there", s.read, pos)
		}
	}
	if _, err := r.Seek(-1, io.SeekStart); err == nil {
		f.Error("seek before the start: no error")
	}
}

var mountTests = []test{
	{"From", func(f *fixture) {
		data := noise(1000, 1)
		d := f.blob(repo, data).Digest
		desc, err := f.MountBlob(f.Context(), other, repo, d)
		f.ok("mount blob", err)
		if desc.Digest != d || desc.Size != int64(len(data)) {
			f.Errorf("mount blob: got %s of %d bytes, want %s of %d", desc.Digest, desc.Size, d, len(data))
		}
		f.hasBlob(other, d, data)
		f.ok("delete where it came from", f.DeleteBlob(f.Context(), repo, d))
		f.hasBlob(other, d, data)
	}},
	{"FromAny", func(f *fixture) {
		data := noise(1000, 1)
		d := f.blob(repo, data).Digest
		_, err := f.MountBlob(f.Context(), other, "", d)
		f.ok("mount blob", err)
		f.hasBlob(other, d, data)
	}},
	{"OntoItself", func(f *fixture) {
		data := noise(1000, 1)
		d := f.blob(repo, data).Digest
		_, err := f.MountBlob(f.Context(), repo, repo, d)
		f.ok("mount blob", err)
		f.hasBlob(repo, d, data)
	}},
	{"Unknown", func(f *fixture) {
		d := f.blob(repo, noise(1000, 1)).Digest
		for _, from := range []string{"nobody/pushed/here", other} {
			_, err := f.MountBlob(f.Context(), other, from, d)
			f.is("mount from "+from, err, registry.ErrBlobUnknown)
		}
		for _, from := range []string{repo, ""} {
			_, err := f.MountBlob(f.Context(), other, from, digest.FromString("nobody pushed this"))
			f.is("mount unknown blob from "+from, err, registry.ErrBlobUnknown)
		}
		f.noBlob(other, d)
	}},
	{"ManifestIsNoBlob", func(f *fixture) {
		m := f.image(repo, 1)
		f.push(repo, m)
		_, err := f.MountBlob(f.Context(), other, "", m.desc.Digest)
		f.is("mount a manifest", err, registry.ErrBlobUnknown)
		f.noManifest(other, digestRef(m.desc.Digest))
	}},
}

// failing is a reader that fails.
type failing struct{ err error }

func (r *failing) Read([]byte) (int, error) { return 0, r.err }

// hook is a reader that does something and fails.
type hook func() error

func (h hook) Read([]byte) (int, error) { return 0, h() }
