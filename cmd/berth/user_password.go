package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/berth-registry/berth/internal/cli"
)

// maxPasswordInput is how many bytes of standard input are read for a password.
const maxPasswordInput = 4 << 10

func addPasswordFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("password-stdin", false, "read the password from standard input, its first and only line")
}

// newPassword reads a password that is to be set.
func newPassword(cmd *cobra.Command, prompt string, fromStdin bool) (string, error) {
	if !fromStdin {
		return askPassword(cmd, prompt, true)
	}
	data, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxPasswordInput+1))
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	line := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	switch {
	case line == "":
		return "", errors.New("there is no password on standard input")
	case len(data) > maxPasswordInput, strings.ContainsAny(line, "\r\n"):
		return "", errors.New("standard input has more than one line, or a very long one: want a password alone")
	}
	return line, nil
}

// askPassword asks at the terminal for a password, which is not shown. One that is
// new is asked for twice.
func askPassword(cmd *cobra.Command, prompt string, isNew bool) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		hint := ""
		if isNew {
			hint = ": give it with --password-stdin"
		}
		return "", cli.Usage(fmt.Errorf("there is no terminal to ask for the password%s", hint))
	}
	defer tty.Close()
	ask := func(prompt string) (string, error) {
		if _, err := fmt.Fprint(tty, prompt); err != nil {
			return "", err
		}
		line, err := readHidden(cmd, tty)
		_, _ = fmt.Fprintln(tty)
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		return line, nil
	}
	password, err := ask(prompt)
	if err != nil || !isNew {
		return password, err
	}
	again, err := ask("Again: ")
	if err == nil && again != password {
		err = errors.New("the two passwords differ")
	}
	return password, err
}

// readHidden reads a line that the terminal does not show. The terminal is put back
// as it was also if a signal ends the command.
func readHidden(cmd *cobra.Command, tty *os.File) (string, error) {
	restore, err := term.GetState(int(tty.Fd()))
	if err != nil {
		return "", err
	}
	type read struct {
		line []byte
		err  error
	}
	done := make(chan read, 1)
	go func() {
		line, err := term.ReadPassword(int(tty.Fd()))
		done <- read{line, err}
	}()
	interrupted, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	select {
	case r := <-done:
		return string(r.line), r.err
	case <-interrupted.Done():
		_ = term.Restore(int(tty.Fd()), restore)
		return "", errors.New("interrupted")
	}
}
