package main

import (
	"archive/tar"
	"bytes"
	"io"
)

// archive is a tar archive of one file.
func archive(name, content string) io.ReadSeeker {
	var b bytes.Buffer
	w := tar.NewWriter(&b) // to memory, which does not fail
	_ = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))})
	_, _ = io.WriteString(w, content)
	_ = w.Close()
	return bytes.NewReader(b.Bytes())
}
