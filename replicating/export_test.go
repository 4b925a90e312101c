package replicating

// For tests of what a clock decides: they move it, and wake who waits.

func (r *Replicator) Wake() {
	r.wake()
}

var Text = text
