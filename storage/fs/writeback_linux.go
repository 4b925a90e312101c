package fs

import (
	"os"

	"golang.org/x/sys/unix"
)

// startWriting asks the kernel to start writing a range of f to disk, without
// waiting for it. It is a hint: Sync finds what went wrong.
func startWriting(f *os.File, off, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}
