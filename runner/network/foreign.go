package network

import "os"

// SetUpNetNS does for a network namespace that somebody else has made what
// NewNetNS does for its own.
func SetUpNetNS(ns *os.File) error { return inNetNS(ns, initNetNS) }
