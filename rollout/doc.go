// Package rollout decides what the nodes run that follow a tag: which of them may deploy
// now what the tag names, and when all of them return to what it named before.
//
// Its nouns are the Policy, which the manifest itself says in an annotation; the Report of
// a node, and the Answer to it; and the State of a tag: its rollout, and its nodes. Decide
// is a pure function of them. Store keeps the state among the registry's rows: each report
// is one transaction, so whatever many nodes and several servers do at the same time, no
// more nodes deploy than the policy says.
//
// It promises that:
//   - at most Policy.Parallel nodes have their turn at once. A turn is a lease: who does
//     not report for three of its intervals and 20 seconds, or reports after the deadline that it is not
//     done, has lost it, and has failed;
//   - a node that is not heard of holds nobody up, and is not waited for;
//   - if no node at all was heard of, it was the registry that was away, and that counts
//     against none of them;
//   - after more failures than the policy tolerates nobody else deploys. The tag then moves
//     back to what all nodes ran before, if the policy does not say otherwise, and they all
//     return to it at once: no turns, no window;
//   - what a tag names can be changed at any time: what comes in the middle of a rollout
//     takes its place, and what was never done is never returned to;
//   - which nodes have failed to run a version, and why, is told until another version has
//     come through: also when they have returned, and do not say so themselves any more.
//
// Nobody is told anything: nodes ask, and wait (package hub) for there to be something new
// to ask about. Without the registry they go on with what they have.
//
// # Whom it trusts
//
// A node is believed. Who may follow a tag, which is who may pull its repository, can
// therefore stop its rollout with failures that are none, delay it with turns that lead to
// nothing, and make room for more turns at once where the policy names a share of the
// nodes. It can read what the others tell, the ends of their logs included. An account can
// report for all nodes that it reports for already, so nodes of one account can speak for
// each other; those that do not trust each other have an account each. It cannot:
//
//   - report for a node that another account reports for, of this tag or any, or says what
//     runs there, until that one is not there any more; an administrator can;
//   - have a tag moved anywhere but to what all nodes ran before, and that only as the
//     policy says;
//   - put another of the nodes out, or fill the store: MaxNodes follow a tag, each with 8
//     KiB and 8 KiB of log, MaxFailed are named of those that failed, and a node follows
//     MaxRefs tags. But who comes when MaxNodes are there already is refused.
package rollout
