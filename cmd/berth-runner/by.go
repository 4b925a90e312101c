package main

import (
	"cmp"
	"os"
	"os/user"
	"strconv"
)

// caller is who runs this command, for the history: USER@HOST.
func caller() string {
	name := os.Getenv("SUDO_USER")
	if u, err := user.Current(); name == "" && err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost" // there is nothing better to say
	}
	const most = 200 // bytes, of the 256 that the runner takes
	by := cmp.Or(name, "uid "+strconv.Itoa(os.Getuid())) + "@" + host
	return by[:min(len(by), most)]
}
