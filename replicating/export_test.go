package replicating

// For tests of what a clock decides: they move it, and wake who waits.

func (r *Replicator) Wake() {
	r.wake()
}

var Text = text

// ReadKey reads the end of a key, and makes it again.
func ReadKey(b []byte) (string, error) {
	i, err := readItem(b)
	if err != nil {
		return "", err
	}
	return i.repo + "\x00" + i.part(), nil
}
