package main

import "context"

// The helpers that this program is when it starts itself.
const (
	helperWriteFile   = "write-file"
	helperServeAnswer = "serve-answer"
	helperRunnerWork  = "runner-work"
)

var helpers = map[string]func(context.Context, []string) error{
	helperWriteFile:   writeFile,
	helperServeAnswer: serveAnswer,
	helperRunnerWork:  runnerWork,
}
