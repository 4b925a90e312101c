//go:build !linux

package fs

import "os"

func startWriting(*os.File, int64, int64) {}
