// Package stack makes a deploy.Stack of a Compose file.
package stack
