package network

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// findHolder returns the program of the host that has a port, as "nginx (pid 1)",
// or nothing if it cannot be found.
func findHolder(b portAt) string {
	name := protoName(b.proto)
	var inodes []string
	for _, file := range []string{name, name + "6"} {
		inodes = append(inodes, socketsAt("/proc/thread-self/net/"+file, b.host.Port())...)
	}
	if len(inodes) == 0 {
		return ""
	}
	pid := ownerOf(inodes)
	if pid == "" {
		return ""
	}
	comm, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s (pid %s)", bytes.TrimSpace(comm), pid)
}

// socketsAt returns the inodes of the sockets at a local port, those that listen
// first.
func socketsAt(path string, port uint16) (inodes []string) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
		if len(f) < 10 || f[9] == "0" {
			continue
		}
		_, hex, ok := strings.Cut(f[1], ":")
		if n, err := strconv.ParseUint(hex, 16, 16); !ok || err != nil || n != uint64(port) {
			continue
		}
		if f[3] == "0A" { // TCP_LISTEN
			inodes = slices.Insert(inodes, 0, f[9])
		} else {
			inodes = append(inodes, f[9])
		}
	}
	return inodes
}

// ownerOf returns the process that has the first of the sockets that any has.
func ownerOf(inodes []string) string {
	best, owner := len(inodes), ""
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil || !strings.HasPrefix(target, "socket:[") {
			continue
		}
		inode := strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")
		if i := slices.Index(inodes, inode); i >= 0 && i < best {
			best, owner = i, strings.Split(fd, "/")[2]
		}
	}
	return owner
}
