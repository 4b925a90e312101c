package storage

import "time"

// The tables of nodes; the comments name the parts of their keys.
var (
	// Nodes: name of a node that reports what it runs.
	Nodes = Table[Node]{"nodes"}
	// Runs: node, digest. RunningOn the other way round.
	Runs = Table[Mark]{"runs"}
)

// Node is a node and its last report. There is a row of Runs for each of RunningOn,
// also of a report that was cut short; they go with this row at the latest.
type Node struct {
	By       string    `cbor:"1,keyasint,omitempty"` // account that reports for it
	Reported time.Time `cbor:"2,keyasint"`
	Until    time.Time `cbor:"3,keyasint"`
	Report   int64     `cbor:"4,keyasint"` // number of the report (CountReports)
	Running  int       `cbor:"5,keyasint"` // manifests in it
}
