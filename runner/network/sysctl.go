package network

import (
	"fmt"
	"os"
	"path/filepath"
)

const procSys = "/proc/sys"

func hasIPv6() bool {
	_, err := os.Stat(procSys + "/net/ipv6/conf/all")
	return err == nil
}

// setSysctl sets a kernel setting if it is not so already: where /proc/sys is
// read-only it may have been set by somebody else.
func setSysctl(name, value string) error {
	path := filepath.Join(procSys, name)
	if getSysctl(name) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s: %w", name, err)
	}
	return nil
}

func getSysctl(name string) string {
	data, err := os.ReadFile(filepath.Join(procSys, name))
	if err != nil {
		return ""
	}
	return string(trimNewline(data))
}

func trimNewline(b []byte) []byte {
	if n := len(b); n > 0 && b[n-1] == '\n' {
		return b[:n-1]
	}
	return b
}
