package main

import "context"

// The helpers that this program is when it starts itself.
const (
	helperWriteFile    = "write-file"
	helperServeAnswer  = "serve-answer"
	helperRunnerWork   = "runner-work"
	helperServeName    = "serve-name"
	helperExchangeLoad = "exchange-load"
)

var helpers = map[string]func(context.Context, []string) error{
	helperWriteFile:    writeFile,
	helperServeAnswer:  serveAnswer,
	helperRunnerWork:   runnerWork,
	helperServeName:    serveName,
	helperExchangeLoad: exchangeLoad,
}
